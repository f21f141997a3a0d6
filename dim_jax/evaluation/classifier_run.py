"""A trained or imported classifier as its run directory describes it; the images it learned from need not be there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from dim_jax.data.dataset import fixed_statistics
from dim_jax.models import make_classifier
from dim_jax.runs import configuration
from dim_jax.training import checkpoints, loop

FOLDERS = {"best": loop.BEST, "newest": loop.CHECKPOINTS}


@dataclass(frozen=True)
class ClassifierRun:
    """A classifier that can be run.

    Attributes:
      config: its configuration.
      classes: what its logits stand for, in order.
      mean, std: per channel in [0, 1], what images are normalised by, float32 (3,).
      model: returns (logits, features).
      variables: its `params` and `batch_stats`.
      step: of the checkpoint.
    """

    config: dict[str, Any]
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    model: nn.Module
    variables: dict[str, Any]
    step: int


def open_run(workdir: str | Path, checkpoint: str = "best") -> ClassifierRun:
    """Opens a checkpoint of a classifier's run: "best" by validation, or "newest".

    Raises:
      FileNotFoundError: there is no run, or no checkpoint yet.
      ValueError: the run is not a classifier's, or something in it is broken.
    """
    workdir = Path(workdir)
    config = configuration.read(workdir, "classifier")
    data = config["data"]
    statistics = fixed_statistics(data.get("mean", ()), data.get("std", ()))
    if data["path"]:
        manifest = manifests.load(workdir)
        fold = splits.load(workdir, manifest).fold(data["fold"])
        classes, statistics = manifest.classes, statistics or (fold.mean, fold.std)
    else:
        classes = _classes(workdir, config)
        if statistics is None:
            raise ValueError(f"{workdir / configuration.FILE_NAME} lacks config.data.mean and .std; import it again")
    restored = checkpoints.restore(workdir / FOLDERS[checkpoint])
    if restored is None:
        raise FileNotFoundError(f"{workdir / FOLDERS[checkpoint]} holds no checkpoint yet; train the run first")
    return ClassifierRun(
        config=config,
        classes=classes,
        mean=np.array(statistics[0], np.float32),
        std=np.array(statistics[1], np.float32),
        model=make_classifier(num_classes=len(classes), **config["model"]),
        variables=_variables(restored.state),
        step=restored.step,
    )


def _variables(state: Any) -> dict[str, Any]:
    """Returns what of a restored state a model may take; whether it fits, the model tells (evaluate.Predictor)."""
    found = state if isinstance(state, dict) else {}
    return {name: found[name] for name in ("params", "batch_stats") if name in found}


def _classes(workdir: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """Returns the names of the outputs of a run that has no images."""
    found = config.get("classes")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found) or len(set(found)) < 2:
        raise ValueError(f"{workdir / configuration.FILE_NAME}: 'classes' must list the classes; import it again")
    return tuple(found)
