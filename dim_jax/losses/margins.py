"""Logits shifted by how often a class is drawn, so that rare classes have to win by more."""

import jax
import jax.numpy as jnp
import optax

from dim_jax.losses import class_weights
from dim_jax.losses.signature import CrossReplicaSum, NonNegative, Positive, Share


def adjust_logits(logits: jax.Array, class_counts: jax.Array, tau: jax.Array | float = 1.0) -> jax.Array:
    """Returns z - tau log(prior): what a network that was trained without regard to frequency says of balanced classes.

    Post-hoc: for predictions of a network that was trained with plain cross-entropy.

    Args:
      logits: (..., C).
      class_counts: (C,) examples of each class that the network was trained on.
      tau: strength, >= 0; 0 changes nothing, 1 is consistent for the balanced error.

    Reference: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 9.
    """
    # Half an example stands in for none: log 0 would silence the class for good.
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
    """Cross-entropy of z + tau log(prior), so that the raw logits rank classes as if all were equally frequent.

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
    """Cross-entropy of a softmax whose terms count by class, p_k = n_k exp(z_k) / sum_j n_j exp(z_j).

    The same as logit adjustment with tau = 1, found another way.

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

    -w_y log softmax(scale (z - margin))_y, where only the label's own logit loses its margin_y, in proportion to
    n_y^(-1/4). The weights are 1 at first and those of `class_weights.effective_number` once the run is so far.

    Args:
      max_margin: margin of the rarest class, in logits, >= 0.
      scale: multiplies logits and margins, > 0. The published 30 is for cosines; ordinary logits find their own scale.
      effective_number_beta: in [0, 1]; 0 never re-weights.
      reweight_from: share of the run after which the weights apply, in [0, 1].
      progress: share of the run that is done, in [0, 1]; 1 is the objective that the run ends with.

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
    """Returns f_k = m / n_k^(1/4) in logits, (C,); 0 for a class without examples."""
    return jnp.where(class_counts > 0, m / jnp.maximum(class_counts, 1e-12) ** 0.25, 0.0)
