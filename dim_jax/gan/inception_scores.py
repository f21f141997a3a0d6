"""Inception score of generated and of real images, with bootstrap intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dim_jax.gan.resampling import (
    LEAST_IMAGES,
    RESAMPLES,
    TAILS,
    check_features,
    group_numbers,
    halvings,
    interval,
    resample,
)


def inception_score(logits: np.ndarray) -> float:
    """Inception score: exp of the mean over images of KL(p(y | x) || p(y)), p(y) being the mean of p(y | x).

    It is biased downward for few images. The mean is over all images; the authors' code averages over ten splits.

    Args:
      logits: (N, C), N >= 1; for the published score those of `feature_nets.inception_features`.

    Returns:
      From 1, if all images have the same probabilities, to min(N, C).

    Reference: Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, section 4.
    """
    return _ClassProbabilities(logits).inception_score(np.ones(len(logits)))


def inception_scores(
    real: np.ndarray, generated: np.ndarray, *, groups: Sequence[Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Inception scores of generated and of real images, with bootstrap intervals.

    Args:
      real, generated: logits, (N, C) and (M, C).
      groups, seed: as in `compare`, whose resamples and halves are used.

    Returns:
      A JSON-ready dict: "generated" and "real", each {"value", "interval": [low, high]}, and "same_size", the mean
      scores of halves of the real images and of as many generated ones: {"generated", "real", "real_interval"}, or
      None if the real images cannot be halved.

    Raises:
      ValueError: fewer than 10 images on a side, or logits that do not fit or are not finite.
    """
    real, generated = check_features(real, generated, LEAST_IMAGES)
    groups_of = {"real": group_numbers(groups, len(real)), "generated": np.arange(len(generated))}
    probabilities = {"real": _ClassProbabilities(real), "generated": _ClassProbabilities(generated)}
    rng, scores = np.random.default_rng([seed, 0]), {}
    for name, images in probabilities.items():
        value = images.inception_score(np.ones(len(groups_of[name])))
        resampled = [images.inception_score(resample(groups_of[name], rng)) for _ in range(RESAMPLES)]
        scores[name] = {"value": value, "interval": interval(value, np.array(resampled), 1.0, np.inf)}
    halves = halvings(groups_of["real"], len(generated), np.random.default_rng([seed, 1]))
    scores["same_size"] = None
    if halves:
        real_scores = [inception_score(real[half]) for half, _, _ in halves]
        scores["same_size"] = {
            "generated": float(np.mean([inception_score(generated[subset]) for _, _, subset in halves])),
            "real": float(np.mean(real_scores)),
            "real_interval": np.quantile(real_scores, TAILS).tolist(),
        }
    return scores


class _ClassProbabilities:
    """Class probabilities of logits (N, C) and their entropies, for inception scores of many resamples."""

    def __init__(self, logits: np.ndarray):
        logits = np.asarray(logits, np.float64)
        shifted = logits - logits.max(1, keepdims=True)
        log_sums = np.log(np.exp(shifted).sum(1, keepdims=True))
        self._values = np.exp(shifted - log_sums)
        self._entropies = -(self._values * (shifted - log_sums)).sum(1)

    def inception_score(self, weights: np.ndarray) -> float:
        """Inception score of a weighted sample; weights (N,)."""
        shares = weights / weights.sum()
        mean = shares @ self._values
        mean = mean[mean > 0]
        # The mean divergence is the entropy of the mean minus the mean entropy, which takes no logarithm of 0.
        divergence = -(mean * np.log(mean)).sum() - shares @ self._entropies
        return float(np.exp(max(divergence, 0.0)))
