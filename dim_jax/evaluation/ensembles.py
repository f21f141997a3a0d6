"""Averaging the predictions of several networks, or of one network for several views of an image."""

from collections.abc import Sequence

import numpy as np
from scipy import special


def mean_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Averages probabilities and returns their logarithms.

    Probabilities rather than logits are averaged: the scale of logits differs between networks, and a single one that
    is certain can otherwise outvote all others.

    Args:
      logits: M arrays (..., C) of one shape.

    Returns:
      (..., C): logarithms of the mean probabilities, float32; for M = 1 the array itself.

    Raises:
      ValueError: there are no arrays, or their shapes differ.

    Reference: Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep ensembles",
    NeurIPS 2017, section 2.4.
    """
    shapes = {array.shape for array in logits}
    if len(shapes) != 1:
        raise ValueError(f"cannot average logits of the shapes {sorted(shapes)}; expected at least one, all equal")
    if len(logits) == 1:
        return logits[0]
    log_probabilities = [special.log_softmax(np.asarray(array, np.float64), axis=-1) for array in logits]
    return (special.logsumexp(log_probabilities, axis=0) - np.log(len(logits))).astype(np.float32)
