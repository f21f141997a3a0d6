"""Predictions for images by runs that did not train on them, pooled over the test parts of several runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from dim_jax.data.manifest import Manifest
from dim_jax.evaluation.calibration import probabilities
from dim_jax.runs import configuration, files


@dataclass(frozen=True)
class OutOfFoldProbabilities:
    """Probabilities of held-out images.

    Attributes:
      manifest: all images.
      rows: rows of the predicted images, ascending int (N,).
      probability: mean over the models that did not train on the image, (N, C).
      num_models: how many those are, (N,) int.
    """

    manifest: Manifest
    rows: np.ndarray
    probability: np.ndarray
    num_models: np.ndarray


def pool_runs(workdirs: Sequence[str | Path]) -> OutOfFoldProbabilities:
    """Pools the test predictions of runs of one prepared dataset, such as the folds of a cross-validation.

    Args:
      workdirs: directories of runs or ensembles that are evaluated on their test images.

    Raises:
      FileNotFoundError: there is no run, or its test images are not evaluated.
      ValueError: the runs have other images or classes, or a file is damaged.
    """
    pooled, first = [], None
    for workdir in map(Path, workdirs):
        manifest, rows, logits = _test_predictions(workdir)
        first = first or (workdir, manifest)
        if manifest.fingerprint != first[1].fingerprint or manifest.classes != first[1].classes:
            raise ValueError(
                f"{workdir} has other images or classes than {first[0]}; give runs of one prepared dataset"
            )
        pooled.append((rows, probabilities(logits)))
    if first is None:
        raise ValueError("no run was given; give at least one")
    return pool(first[1], pooled)


def pool(manifest: Manifest, predictions: Sequence[tuple[np.ndarray, np.ndarray]]) -> OutOfFoldProbabilities:
    """Averages predictions that may overlap.

    Args:
      manifest: all images.
      predictions: rows (n,), each once, and probabilities (n, C) of each model.
    """
    sums, counts = np.zeros((len(manifest), len(manifest.classes))), np.zeros(len(manifest), int)
    for rows, probability in predictions:
        sums[rows] += probability
        counts[rows] += 1
    covered = np.flatnonzero(counts)
    return OutOfFoldProbabilities(manifest, covered, sums[covered] / counts[covered, None], counts[covered])


def _test_predictions(workdir: Path) -> tuple[Manifest, np.ndarray, np.ndarray]:
    """Returns the images of a run, and rows and logits of its test images, checked."""
    if not (workdir / configuration.FILE_NAME).is_file():
        raise FileNotFoundError(f"{workdir} holds no run (no {configuration.FILE_NAME}); give the --workdir of one")
    data = files.read_object(workdir / configuration.FILE_NAME).get("data")
    fold = data.get("fold", 0) if isinstance(data, dict) else 0
    manifest = manifests.load(workdir)
    expected = splits.load(workdir, manifest).rows(fold, "test")
    path = workdir / "eval" / "test" / "predictions.npz"
    remedy = f"run python -m dim_jax.evaluate --workdir={workdir} --split=test"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {remedy}")
    arrays = files.read_arrays(path, ("index", "logits"))
    rows, logits = arrays.get("index", np.zeros(0)), arrays.get("logits", np.zeros(0))
    is_valid = logits.shape == (len(expected), len(manifest.classes)) and logits.dtype.kind == "f"
    if not is_valid or not np.array_equal(np.sort(rows), expected) or not np.isfinite(logits).all():
        raise ValueError(f"{path} does not hold one prediction per test image; {remedy}")
    return manifest, rows, logits
