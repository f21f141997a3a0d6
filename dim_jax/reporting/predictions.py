"""What a run predicted of one split, read from predictions.npz and checked, for the figures made of single images."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.evaluation.calibration import probabilities
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.runs import files

NEEDED, OPTIONAL = ("index", "label", "logits"), ("features", "grad_cam")


@dataclass(frozen=True)
class SavedPredictions:
    """The predictions of N images.

    Attributes:
      split: "test", "val", ...
      classes: names of the C classes.
      index: rows of the manifest, (N,).
      label: true classes, (N,).
      logits: (N, C).
      features: what the logits were made of, (N, F), or None where they are missing or not finite.
      grad_cam: where the predicted class was found, in [0, 1], (N, h, w), or None for a model without, and in runs
        made before there were maps.
      names: path of each image within the data, "image 7" where the manifest is missing.
      files: image file of each image; empty where the manifest is missing.
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
        """The predicted classes, (N,)."""
        return self.logits.argmax(axis=1)

    @property
    def probability(self) -> np.ndarray:
        """The probability of each predicted class, (N,)."""
        return probabilities(self.logits).max(axis=1)


def read(run: RunRecords, split: str) -> SavedPredictions | str:
    """Reads eval/<split>/predictions.npz, or returns a sentence on why it cannot be used."""
    name = f"eval/{split}/predictions.npz"
    if not (run.folder / name).is_file():
        return f"There is no {name}."
    try:
        arrays = files.read_arrays(run.folder / name, (*NEEDED, *OPTIONAL))
    except ValueError as error:
        return f"{name} cannot be read ({error})."
    if any(key not in arrays for key in NEEDED) or any(array.dtype.kind not in "iuf" for array in arrays.values()):
        return f"{name} cannot be read (it holds no predictions)."
    index, logits = arrays["index"], arrays["logits"]
    if logits.ndim != 2 or any(array.ndim < 1 or len(array) != len(index) for array in arrays.values()):
        return f"The arrays in {name} do not belong together."
    if not logits.size:
        return f"{name} holds no predictions."
    manifest = run.manifest
    classes = manifest.classes if manifest else tuple(map(str, run.evaluations[split].get("classes") or []))
    if logits.shape[1] != len(classes) or not np.isin(arrays["label"], np.arange(len(classes))).all():
        return f"The predictions in {name} have other classes than the data."
    if manifest and not np.isin(index, np.arange(len(manifest))).all():
        return f"The predictions in {name} are of images that the manifest does not list."
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
