"""Weights of classes by how often they are drawn, (C,): they average 1 over the draws and are 0 for absent classes."""

import jax
import jax.numpy as jnp


def inverse_frequency(class_counts: jax.Array) -> jax.Array:
    """Returns w_k = sum(n) / (C n_k), so that all classes together weigh the same."""
    return _averaging_one(1.0 / jnp.maximum(class_counts, 1e-12), class_counts)


def effective_number(class_counts: jax.Array, beta: jax.Array | float) -> jax.Array:
    """Returns weights in proportion to 1 / (1 - beta^n_k), the inverse of how many examples are not like another.

    Args:
      class_counts: (C,) examples of each class, n.
      beta: in [0, 1]; 0 weighs all classes 1, 1 stands for the limit, inverse frequency.

    Reference: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 3. There the
      weights sum to C, which makes the loss of a batch smaller the less balanced the classes are.
    """
    # The factor 1 - beta cancels. The bounds keep 0 and 1 themselves finite.
    log_beta = jnp.clip(jnp.log(beta), -100.0, -1e-12)
    return _averaging_one(-1.0 / jnp.expm1(jnp.maximum(class_counts, 1e-12) * log_beta), class_counts)


def _averaging_one(weights: jax.Array, class_counts: jax.Array) -> jax.Array:
    weights = jnp.where(class_counts > 0, weights, 0.0)
    return weights * class_counts.sum() / (weights * class_counts).sum()
