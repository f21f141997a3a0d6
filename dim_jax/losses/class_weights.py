"""Class weights (C,) by class frequency: their mean over examples is 1, and absent classes get 0."""

import jax
import jax.numpy as jnp


def inverse_frequency(class_counts: jax.Array) -> jax.Array:
    """Inverse class frequency, w_k = sum(n) / (K n_k) with K classes that occur: the same total weight for each.

    Args:
      class_counts: (C,) examples of each class, n.

    Returns:
      (C,) weights.
    """
    return _with_mean_one(1.0 / jnp.maximum(class_counts, 1e-12), class_counts)


def effective_number(class_counts: jax.Array, beta: jax.Array | float) -> jax.Array:
    """Inverse effective number of examples, w_k proportional to 1 / (1 - beta^n_k).

    Args:
      class_counts: (C,) examples of each class, n.
      beta: in [0, 1]; 0 gives every class a weight of 1, 1 is the limit, inverse frequency.

    Returns:
      (C,) weights.

    Reference: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 3. There the
      weights sum to C, so that the scale of the loss depends on the imbalance.
    """
    # The factor 1 - beta cancels. The bounds keep beta = 0 and 1 finite.
    log_beta = jnp.clip(jnp.log(beta), -100.0, -1e-12)
    return _with_mean_one(-1.0 / jnp.expm1(jnp.maximum(class_counts, 1e-12) * log_beta), class_counts)


def _with_mean_one(weights: jax.Array, class_counts: jax.Array) -> jax.Array:
    weights = jnp.where(class_counts > 0, weights, 0.0)
    return weights * class_counts.sum() / (weights * class_counts).sum()
