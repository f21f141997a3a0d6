"""Temperature scaling, and abstention from predictions of low confidence.

Both are fitted on validation images. The checkpoint was chosen on the same images, so results on new images will be
slightly worse.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

BOUNDS = (0.05, 20.0)  # of a temperature


@dataclass(frozen=True)
class Abstention:
    """A confidence threshold for abstention, with coverage and error rates on the images it was fitted on.

    Attributes:
      threshold: predictions with a confidence (largest probability) below it are withheld; in [0, 1].
      coverage: fraction of images that get a prediction, in (0, 1].
      error: error rate among the images that get a prediction, in [0, 1].
      error_of_all: error rate without abstention, in [0, 1].
    """

    threshold: float
    coverage: float
    error: float
    error_of_all: float


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns softmax(logits / temperature), float64 (N, C)."""
    return special.softmax(np.asarray(logits, np.float64) / temperature, axis=-1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fits the temperature of temperature scaling by minimising the cross-entropy; no predicted class changes.

    Args:
      logits: (N, C), finite.
      labels: true classes, (N,) int.

    Returns:
      The temperature by which logits are divided, within BOUNDS.

    Reference: Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2.
    """
    logits = np.asarray(logits, np.float64)

    def cross_entropy(log_temperature: float) -> float:
        log_probabilities = special.log_softmax(logits / np.exp(log_temperature), axis=-1)
        return -log_probabilities[np.arange(len(labels)), labels].mean()

    minimum = optimize.minimize_scalar(cross_entropy, bounds=np.log(BOUNDS), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimum.x))


def fit_abstention(probability: np.ndarray, labels: np.ndarray, coverage: float) -> Abstention:
    """Fits the highest confidence threshold at which at least a fraction `coverage` of the images get a prediction.

    Args:
      probability: class probabilities, (N, C).
      labels: true classes, (N,) int.
      coverage: smallest fraction of images with a prediction, in (0, 1].

    Returns:
      The threshold, with the coverage and error rates it gives on these images.

    Raises:
      ValueError: `coverage` is out of range.

    Reference: Geifman & El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017, section 2.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"--coverage={coverage} must be above 0 and at most 1")
    confidence, wrong = probability.max(-1), probability.argmax(-1) != labels
    # The tolerance keeps rounding from turning 90 % of 10 images into 10 images.
    num_answered = int(np.ceil(coverage * len(labels) - 1e-9))
    threshold = np.sort(confidence)[::-1][num_answered - 1]
    answered = confidence >= threshold
    return Abstention(float(threshold), float(answered.mean()), float(wrong[answered].mean()), float(wrong.mean()))
