"""Opening the run of a classifier: its configuration, classes, preprocessing, model and weights."""

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
from dim_jax.runs.schema import ClassifierConfig
from dim_jax.training import loop, packed_runs
from dim_jax.training.state import saved_variables

CHECKPOINT_FOLDERS = {"best": loop.BEST, "newest": loop.CHECKPOINTS}


@dataclass(frozen=True)
class ClassifierRun:
    """A trained or imported classifier.

    Attributes:
      workdir: run directory.
      config: configuration of the run.
      classes: names of the outputs, in the order of the logits.
      mean, std: per-channel statistics that images in [0, 1] are normalised by, float32 (3,).
      model: returns (logits, features).
      variables: `params` and `batch_stats` of the checkpoint, as far as it has them; Predictor.check_variables compares
        them with the model. Those of a run with `train.ema_decay` are the averages.
      step: step of the checkpoint.
      checkpoint_folder: folder that the checkpoint was read from.
    """

    workdir: Path
    config: ClassifierConfig
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    model: nn.Module
    variables: dict[str, Any]
    step: int
    checkpoint_folder: Path


def open_classifier_run(workdir: str | Path, checkpoint: str = "best") -> ClassifierRun:
    """Opens a checkpoint of a classifier's run, or a packed run. The training images are not needed.

    Args:
      workdir: run directory.
      checkpoint: "best" on validation, or "newest".

    Raises:
      FileNotFoundError: there is no run, or it has no checkpoint yet.
      ValueError: the run is not a classifier's, or one of its files is broken.
    """
    workdir = Path(workdir)
    config = configuration.read_config(workdir, "classifier")
    data = config.data
    statistics = fixed_statistics(data.mean, data.std)
    if data.path:
        manifest = manifests.load(workdir)
        fold = splits.load(workdir, manifest).fold(data.fold)
        classes, statistics = manifest.classes, statistics or (fold.mean, fold.std)
    else:
        classes = _classes(workdir, config)
        if statistics is None:
            raise ValueError(f"{workdir / configuration.FILE_NAME} lacks config.data.mean and .std; import it again")
    folder = workdir / CHECKPOINT_FOLDERS[checkpoint]
    restored = packed_runs.restore(workdir, folder)
    if restored is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint yet; train the run first")
    state = restored.state if isinstance(restored.state, dict) else {}
    return ClassifierRun(
        workdir=workdir,
        config=config,
        classes=classes,
        mean=np.array(statistics[0], np.float32),
        std=np.array(statistics[1], np.float32),
        model=make_classifier(config.model.name, len(classes), **config.model.options),
        variables=saved_variables(state),
        step=restored.step,
        checkpoint_folder=folder,
    )


def _classes(workdir: Path, config: ClassifierConfig) -> tuple[str, ...]:
    """Returns the class names of a run that was imported without images."""
    classes = config.classes or ()
    if len(set(classes)) < 2:
        raise ValueError(f"{workdir / configuration.FILE_NAME}: 'classes' must list the classes; import it again")
    return classes
