"""Predictions of a run on one split, read from predictions.npz and checked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.evaluation.calibration import probabilities
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.runs import files

REQUIRED, OPTIONAL = ("index", "label", "logits"), ("features", "grad_cam")


@dataclass(frozen=True)
class SavedPredictions:
    """Predictions for the N images of a split.

    Attributes:
      split: "test", "val" or "train".
      classes: names of the C classes.
      index: row of each image in the manifest, (N,) int.
      label: true classes, (N,) int.
      logits: (N, C).
      features: input of the last layer, (N, F); None if missing or not finite.
      grad_cam: Grad-CAM maps of the predicted classes, (N, h, w) in [0, 1]; None for models without maps and in
        evaluations of early versions.
      names: path of each image within the data, or "image 7" if the manifest is missing.
      files: file of each image; empty if the manifest is missing.
    """

    split: str
    classes: tuple[str, ...]
    index: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    features: np.ndarray | None
    grad_cam: np.ndarray | None
    names: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def predicted(self) -> np.ndarray:
        """Predicted classes, (N,) int."""
        return self.logits.argmax(axis=1)

    @property
    def probability(self) -> np.ndarray:
        """Probability of each predicted class, (N,)."""
        return probabilities(self.logits).max(axis=1)


def read(run: RunRecords, split: str) -> SavedPredictions | str:
    """Reads eval/<split>/predictions.npz of a run, or returns a sentence why it cannot be used."""
    name = f"eval/{split}/predictions.npz"
    if not (run.folder / name).is_file():
        return f"There is no {name}."
    try:
        arrays = files.read_arrays(run.folder / name, (*REQUIRED, *OPTIONAL))
    except ValueError as error:
        return f"{name} cannot be read ({error})."
    if any(key not in arrays for key in REQUIRED) or any(array.dtype.kind not in "iuf" for array in arrays.values()):
        return f"{name} cannot be read (index, label or logits are missing or not numeric)."
    index, logits = arrays["index"], arrays["logits"]
    if logits.ndim != 2 or any(array.ndim < 1 or len(array) != len(index) for array in arrays.values()):
        return f"{name} cannot be used: its arrays have different lengths."
    if not logits.size:
        return f"{name} is empty."
    manifest = run.manifest
    classes = manifest.classes if manifest else tuple(map(str, run.evaluations[split].get("classes") or []))
    if logits.shape[1] != len(classes) or not np.isin(arrays["label"], np.arange(len(classes))).all():
        return f"{name} cannot be used: its classes are not those of the data."
    if manifest and not np.isin(index, np.arange(len(manifest))).all():
        return f"{name} cannot be used: it has images that are not in the manifest."
    features, grad_cam = arrays.get("features"), arrays.get("grad_cam")
    return SavedPredictions(
        split=split,
        classes=tuple(classes),
        index=index,
        label=arrays["label"],
        logits=logits,
        features=None if features is None or features.ndim != 2 or not np.isfinite(features).all() else features,
        grad_cam=None if grad_cam is None or grad_cam.ndim != 3 or not grad_cam.size else grad_cam,
        names=tuple(manifest.rows[row].path if manifest else f"image {row}" for row in index),
        files=tuple(manifest.file(row) for row in index) if manifest else (),
    )
