"""Examples of right and wrong predictions, as small images inside the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.data import images
from dim_jax.evaluation.calibration import probabilities

SIDE = 128  # pixels; shown at about 100, so that they stay sharp on paper and on dense screens
QUALITY = 80


@dataclass(frozen=True)
class Example:
    """One prediction: place in the arrays, manifest row, true and predicted class, and probability of the latter."""

    place: int
    index: int
    label: int
    predicted: int
    probability: float


def choose(
    index: np.ndarray, label: np.ndarray, logits: np.ndarray, most: int = 4
) -> dict[int, dict[str, list[Example]]]:
    """Picks the most confident right and the most confident wrong predictions of every class.

    Args:
      index: manifest rows, shape (N,).
      label: true classes, shape (N,).
      logits: shape (N, C).
      most: examples of each kind per class.

    Returns:
      True class to {"right": examples, "wrong": examples}, most confident first; classes without images are left out.
    """
    predicted, confidence = logits.argmax(axis=1), probabilities(logits).max(axis=1)
    chosen: dict[int, dict[str, list[Example]]] = {}
    for number in np.unique(label):
        chosen[int(number)] = {}
        for kind, matches in (("right", predicted == label), ("wrong", predicted != label)):
            rows = np.flatnonzero((label == number) & matches)
            rows = rows[np.argsort(-confidence[rows], kind="stable")][:most]
            chosen[int(number)][kind] = [
                Example(int(row), int(index[row]), int(number), int(predicted[row]), float(confidence[row]))
                for row in rows
            ]
    return chosen


def read(path: Path) -> np.ndarray | None:
    """Returns an image file as upright RGB, uint8 (H, W, 3), or None when it cannot be read."""
    try:
        return images.read_image(path)
    except (OSError, ValueError):
        return None


def data_uri(pixels: np.ndarray, side: int = SIDE, quality: int = QUALITY) -> str:
    """Returns pixels, uint8 (H, W, 3), shrunk to at most `side` on each side as a JPEG data address."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
