"""Exponential moving average of weights."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.named_scope("moving_average")
def update_average(average: Any, weights: Any, decay: float, step: jax.Array | int) -> Any:
    """Returns average + (1 - d) (weights - average) with d = min(decay, (1 + step) / (10 + step)).

    The smaller decay of the first steps lets the average forget the initial weights. Constant weights are a fixed
    point.

    Args:
      average, weights: trees of the same structure.
      decay: in [0, 1).
      step: number of updates of the weights so far, at least 1.

    Reference: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 1992;
    Tan & Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019, whose public code
    has this warm-up.
    """
    rate = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + rate * (new - old), average, weights)
