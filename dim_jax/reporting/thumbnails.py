"""Examples of right and wrong predictions, as small images inside the page."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIDE = 128  # pixels; shown at about 100, so that they stay sharp on paper and on dense screens
QUALITY = 80


@dataclass(frozen=True)
class Example:
    """One prediction: manifest row `index`, the true and the predicted class, and the probability of the latter."""

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
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(predicted)), predicted]
    chosen: dict[int, dict[str, list[Example]]] = {}
    for number in np.unique(label):
        chosen[int(number)] = {}
        for kind, matches in (("right", predicted == label), ("wrong", predicted != label)):
            rows = np.flatnonzero((label == number) & matches)
            rows = rows[np.argsort(-confidence[rows], kind="stable")][:most]
            chosen[int(number)][kind] = [
                Example(int(index[row]), int(number), int(predicted[row]), float(confidence[row])) for row in rows
            ]
    return chosen


def data_uri(path: Path, side: int = SIDE) -> str | None:
    """Returns the image shrunk to at most `side` pixels as a JPEG data address, or None when it cannot be read."""
    from PIL import Image

    from dim_jax.data import images

    try:
        image = Image.fromarray(images.read_image(path))
    except (OSError, ValueError):
        return None
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
