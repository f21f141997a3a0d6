"""Turning logits into probabilities that mean what they say, and into answers that are withheld where they are unsure.

Both are fitted on validation images; the checkpoint was chosen on the same ones, so new images come out a little worse.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

BOUNDS = (0.05, 20.0)  # of a temperature


@dataclass(frozen=True)
class Abstention:
    """A rule for withholding answers, and what it did on the images it was chosen on.

    Attributes:
      threshold: answers of less confidence, the largest probability, are withheld.
      coverage: share of the images that get an answer.
      error: share of wrong ones among these answers.
      error_of_all: share of wrong ones where every image gets an answer.
    """

    threshold: float
    coverage: float
    error: float
    error_of_all: float


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns softmax(logits / temperature), float64 (N, C)."""
    return special.softmax(np.asarray(logits, np.float64) / temperature, axis=-1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature with the least cross-entropy, within BOUNDS. It changes no predicted class.

    Args:
      logits: (N, C).
      labels: (N,) int.

    Reference: Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2.
    """
    logits = np.asarray(logits, np.float64)

    def cross_entropy(log_temperature: float) -> float:
        log_probabilities = special.log_softmax(logits / np.exp(log_temperature), axis=-1)
        return -log_probabilities[np.arange(len(labels)), labels].mean()

    found = optimize.minimize_scalar(cross_entropy, bounds=np.log(BOUNDS), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def fit_abstention(probability: np.ndarray, labels: np.ndarray, coverage: float) -> Abstention:
    """Returns the largest threshold of confidence under which at least a share `coverage` of the images get an answer.

    Args:
      probability: (N, C).
      labels: (N,) int.
      coverage: in (0, 1].

    Raises:
      ValueError: `coverage` is out of range.

    Reference: Geifman & El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"--coverage={coverage} must be above 0 and at most 1")
    confidence, wrong = probability.max(-1), probability.argmax(-1) != labels
    # Rounding must not turn 90 % of 10 images into 10 of them.
    answered = int(np.ceil(coverage * len(labels) - 1e-9))
    threshold = np.sort(confidence)[::-1][answered - 1]
    kept = confidence >= threshold
    return Abstention(float(threshold), float(kept.mean()), float(wrong[kept].mean()), float(wrong.mean()))
