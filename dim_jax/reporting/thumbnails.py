"""Selection of example predictions, and images as JPEG data URIs."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.data import images
from dim_jax.evaluation.calibration import probabilities

SIDE = 128  # pixels; shown at about 100 CSS pixels, so they are sharp in print and on high-density screens
QUALITY = 80


@dataclass(frozen=True)
class Example:
    """A prediction: place in the arrays, manifest row, true and predicted class, and probability of the latter."""

    place: int
    index: int
    label: int
    predicted: int
    probability: float


def choose(
    index: np.ndarray, label: np.ndarray, logits: np.ndarray, most: int = 4
) -> dict[int, dict[str, list[Example]]]:
    """The most confident correct and the most confident wrong predictions of each class.

    Args:
      index: manifest rows, (N,) int.
      label: true classes, (N,) int.
      logits: (N, C).
      most: largest number of examples of each kind per class.

    Returns:
      True class -> {"right": examples, "wrong": examples}, most confident first; classes without images are left out.
    """
    predicted, confidence = logits.argmax(axis=1), probabilities(logits).max(axis=1)
    examples: dict[int, dict[str, list[Example]]] = {}
    for number in np.unique(label):
        examples[int(number)] = {}
        for kind, matches in (("right", predicted == label), ("wrong", predicted != label)):
            rows = np.flatnonzero((label == number) & matches)
            rows = rows[np.argsort(-confidence[rows], kind="stable")][:most]
            examples[int(number)][kind] = [
                Example(int(row), int(index[row]), int(number), int(predicted[row]), float(confidence[row]))
                for row in rows
            ]
    return examples


def read(path: Path) -> np.ndarray | None:
    """Reads an image file as upright RGB, uint8 (H, W, 3); returns None if it cannot be read."""
    try:
        return images.read_image(path)
    except (OSError, ValueError):
        return None


def data_uri(pixels: np.ndarray, side: int = SIDE, quality: int = QUALITY) -> str:
    """JPEG data URI of an image.

    Args:
      pixels: uint8 (H, W, 3).
      side: largest height and width in pixels; larger images are shrunk.
      quality: of the JPEG, 1 to 95.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
