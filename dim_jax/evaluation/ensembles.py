"""Ensembles: directories that name trained classifiers, whose probabilities are averaged, and opening them or a run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from scipy import special

from dim_jax.data import dataset as datasets
from dim_jax.evaluation.classifier_run import ClassifierRun, open_classifier_run
from dim_jax.runs import configuration, files, outputs, workdir
from dim_jax.runs.metrics_file import is_number

ENSEMBLE = "ensemble"
EVALUATION_FILES = ("predictions.npz", "metrics.json", "cases.json", "adjustment.json")


@dataclass(frozen=True)
class Classifier:
    """One trained classifier, or an ensemble.

    Attributes:
      workdir: run directory, or directory of the ensemble.
      members: the classifiers whose probabilities are averaged, with the same classes; one for a run.
      is_ensemble: whether this is an ensemble, perhaps of one member, and not a run.
    """

    workdir: Path
    members: tuple[ClassifierRun, ...]
    is_ensemble: bool

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs, in the order of the logits."""
        return self.members[0].classes

    @property
    def step(self) -> int:
        """Step of the checkpoint, the largest one of an ensemble; open_classifier checks those of members."""
        return max(member.step for member in self.members)


def mean_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Averages probabilities and returns their logarithms.

    Probabilities rather than logits are averaged: the scale of logits differs between networks, and a single one that
    is certain can otherwise outvote all others.

    Args:
      logits: M arrays (..., C) of one shape.

    Returns:
      (..., C): logarithms of the mean probabilities, float32; for M = 1 the array itself.

    Raises:
      ValueError: there are no arrays, or their shapes differ.

    Reference: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles",
    NeurIPS 2017, section 2.4.
    """
    shapes = {array.shape for array in logits}
    if len(shapes) != 1:
        raise ValueError(f"cannot average logits of the shapes {sorted(shapes)}; expected at least one, all equal")
    if len(logits) == 1:
        return logits[0]
    log_probabilities = [special.log_softmax(np.asarray(array, np.float64), axis=-1) for array in logits]
    return (special.logsumexp(log_probabilities, axis=0) - np.log(len(logits))).astype(np.float32)


def open_classifier(folder: str | Path, checkpoint: str = "best") -> Classifier:
    """Opens a run of a classifier or an ensemble. The training images are not needed.

    Args:
      folder: run directory, or directory of an ensemble.
      checkpoint: "best" on validation, or "newest"; an ensemble has the best ones.

    Raises:
      FileNotFoundError: there is no run, or it or a member has no checkpoint yet.
      ValueError: it is neither, a file is broken, or a member's checkpoint is not the one of the ensemble any more.
    """
    folder = Path(folder)
    if not is_ensemble(folder):
        return Classifier(folder, (open_classifier_run(folder, checkpoint),), is_ensemble=False)
    if checkpoint != "best":
        raise ValueError(f"{folder} is an ensemble of the best checkpoints; drop --checkpoint={checkpoint}")
    path = folder / configuration.FILE_NAME
    config = files.read_object(path)
    names, steps = config.get("members"), config.get("checkpoint_steps")
    if not (
        isinstance(names, list)
        and isinstance(steps, list)
        and len(names) == len(steps) > 0
        and all(isinstance(name, str) and name for name in names)
        and all(map(is_number, steps))
    ):
        raise ValueError(f"{path}: 'members' and 'checkpoint_steps' must list the runs; {_remedy(folder)}")
    members = tuple(open_classifier_run(os.path.normpath(folder / name)) for name in names)
    for member, step in zip(members, steps, strict=True):
        if member.step != step:
            raise ValueError(
                f"{folder} was made of step {step} of {member.workdir}, whose best checkpoint is now of step "
                f"{member.step}; {_remedy(folder)}"
            )
        if member.classes != members[0].classes:
            raise ValueError(f"{member.workdir} and {members[0].workdir} have other classes; {_remedy(folder)}")
    return Classifier(folder, members, is_ensemble=True)


def is_ensemble(folder: Path) -> bool:
    """Returns whether a directory holds an ensemble."""
    path = folder / configuration.FILE_NAME
    return path.is_file() and files.read_object(path).get("trainer") == ENSEMBLE


def _remedy(folder: Path) -> str:
    return f"make it again with python -m dim_jax.ensemble RUN RUN ... --out={folder}"


def _check_folder(out: Path) -> None:
    """Raises ValueError if the folder holds anything and no ensemble."""
    if out.is_dir() and not {*out.iterdir()} <= {out / workdir.LOCK, *files.leftovers(out)} and not is_ensemble(out):
        raise ValueError(f"--out={out} is not empty and holds no ensemble; choose another")


def _remove_evaluations(out: Path) -> None:
    for name in EVALUATION_FILES:
        for path in out.glob(f"eval/*/{name}"):
            path.unlink()


def make_ensemble(runs: Sequence[str | Path], out: str | Path) -> Classifier:
    """Makes the directory of an ensemble of the best checkpoints of runs, which stay where they are.

    Args:
      runs: run directories of classifiers of any network and image size, trained on the same split.
      out: directory of the ensemble: new, empty, or an ensemble that is to be made again.

    Raises:
      FileNotFoundError: a run, its checkpoint or its images are not there.
      ValueError: a run is given twice, is no classifier's, or has other images, classes or another split than the
        first; or `out` holds something else.
    """
    out = Path(out)
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise ValueError("a run is given twice; give each member once")
    outputs.check(out, is_folder=True)
    members = tuple(map(open_classifier_run, runs))
    data = [datasets.open_run_dataset(member.workdir, member.config) for member in members]
    for member, other in zip(members, data, strict=True):
        if other.manifest.fingerprint != data[0].manifest.fingerprint or other.classes != data[0].classes:
            raise ValueError(
                f"{member.workdir} has other images or classes than {members[0].workdir}; members must be trained on "
                "the same prepared data"
            )
        if other.split_sha256 != data[0].split_sha256:
            raise ValueError(
                f"{member.workdir} was trained on another split than {members[0].workdir}, so test images of one are "
                "training images of the other; give runs of one split and fold"
            )
    _check_folder(out)
    config = {
        "trainer": ENSEMBLE,
        "members": [Path(os.path.relpath(member.workdir, out)).as_posix() for member in members],
        "checkpoint_steps": [member.step for member in members],
        "data": {"fold": members[0].config.data.fold},
    }
    with workdir.claim(out):
        _check_folder(out)
        files.remove_leftovers(out)
        if not is_ensemble(out) or files.read_object(out / configuration.FILE_NAME) != config:
            # Without members until all is written: a killed call leaves an ensemble that can only be made again.
            files.write_json(out / configuration.FILE_NAME, config | {"members": [], "checkpoint_steps": []})
            _remove_evaluations(out)
        datasets.save(data[0], members[0].workdir, out)
        workdir.write_start(out, config, [str(device) for device in jax.devices()])
    return Classifier(out, members, is_ensemble=True)
