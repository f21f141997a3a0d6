"""Logit adjustment and margin losses, which require a larger margin for rare classes."""

import jax
import jax.numpy as jnp
import optax

from dim_jax.losses import class_weights
from dim_jax.losses.signature import CrossReplicaSum, NonNegative, Positive, Share


def adjust_logits(logits: jax.Array, class_counts: jax.Array, tau: jax.Array | float = 1.0) -> jax.Array:
    """Post-hoc logit adjustment, z - tau log(prior).

    Approximates the logits under balanced classes of a network trained with plain cross-entropy.

    Args:
      logits: (..., C).
      class_counts: (C,) training examples of each class.
      tau: strength, >= 0; 0 changes nothing, 1 is consistent for the balanced error.

    Returns:
      (..., C) adjusted logits.

    Reference: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 9.
    """
    # Half an example instead of none: log 0 would exclude the class.
    prior = jnp.maximum(class_counts, 0.5) / class_counts.sum()
    return logits - tau * jnp.log(prior)


def logit_adjusted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    tau: NonNegative = 1.0,
) -> jax.Array:
    """Logit-adjusted cross-entropy, that of z + tau log(prior); inference with the raw logits z assumes equal priors.

    Args:
      tau: strength, >= 0; 0 is plain cross-entropy, 1 is consistent for the balanced error.

    Reference: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10.
    """
    return optax.softmax_cross_entropy_with_integer_labels(adjust_logits(logits, class_counts, -tau), labels)


def balanced_softmax(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
) -> jax.Array:
    """Balanced softmax cross-entropy, -log p_y with p_k = n_k exp(z_k) / sum_j n_j exp(z_j).

    Equal to `logit_adjusted_cross_entropy` with tau = 1.

    Reference: Ren et al., "Balanced meta-softmax for long-tailed visual recognition", NeurIPS 2020, section 3.1.
    """
    return logit_adjusted_cross_entropy(logits, labels, mask, class_counts, cross_replica_sum, tau=1.0)


def ldam(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    max_margin: NonNegative = 0.5,
    scale: Positive = 1.0,
    effective_number_beta: Share = 0.9999,
    reweight_from: Share = 0.8,
    progress: Share = 1.0,
) -> jax.Array:
    """Label-distribution-aware margin loss with deferred re-weighting.

    -w_y log softmax(scale (z - margin))_y, where the margin, proportional to n_y^(-1/4), is subtracted from the label's
    logit only. The weights w are 1 until `reweight_from` and those of `class_weights.effective_number` from then on.

    Args:
      max_margin: margin of the rarest class, in logits, >= 0.
      scale: multiplies logits and margins, > 0. The published 30 is for cosine logits; unbounded logits need none.
      effective_number_beta: in [0, 1]; 0 never re-weights.
      reweight_from: share of training steps after which the weights apply, in [0, 1].
      progress: share of training steps done, in [0, 1]; 1 gives the objective at the end of training.

    Reference: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss", NeurIPS 2019,
      sections 3.2 and 3.3.
    """
    margins = frequency_offset(class_counts, 1.0)
    margins *= max_margin / margins.max()
    shifted = logits - margins * jax.nn.one_hot(labels, logits.shape[-1])
    weights = class_weights.effective_number(class_counts, effective_number_beta)
    weights = jnp.where(progress >= reweight_from, weights, 1.0)
    return weights[labels] * optax.softmax_cross_entropy_with_integer_labels(scale * shifted, labels)


def frequency_offset(class_counts: jax.Array, m: jax.Array | float) -> jax.Array:
    """Returns the offset f_k = m / n_k^(1/4) per class, (C,), in logits; 0 for a class without examples."""
    return jnp.where(class_counts > 0, m / jnp.maximum(class_counts, 1e-12) ** 0.25, 0.0)
