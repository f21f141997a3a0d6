"""Focal losses: well-classified examples are down-weighted."""

import jax
import jax.numpy as jnp

from dim_jax.losses import class_weights
from dim_jax.losses.margins import frequency_offset
from dim_jax.losses.signature import BatchLabels, CrossReplicaSum, NonNegative, Share


def focal(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    gamma: NonNegative = 2.0,
) -> jax.Array:
    """Focal loss of the softmax, -(1 - p_y)^gamma log p_y.

    Args:
      gamma: focusing exponent, >= 0; 0 is plain cross-entropy.

    Reference: Lin et al., "Focal loss for dense object detection", ICCV 2017, eq. 4.
    """
    return focal_with_offset(logits, labels, 0.0, 1.0, gamma, adaptive=0.0)


def class_balanced_focal(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    gamma: NonNegative = 2.0,
    effective_number_beta: Share = 0.9999,
) -> jax.Array:
    """Focal loss weighted by the effective number of examples, see `class_weights.effective_number`.

    Uses the softmax; the published loss uses one sigmoid per class.

    Args:
      gamma: focusing exponent, >= 0; 0 is class-balanced cross-entropy.
      effective_number_beta: in [0, 1]; 0 is the plain focal loss, 1 is weighted by inverse frequency.

    Reference: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 4.
    """
    weights = class_weights.effective_number(class_counts, effective_number_beta)
    return weights[labels] * focal(logits, labels, mask, class_counts, cross_replica_sum, gamma=gamma)


def fafl(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    alpha0: NonNegative = 0.5,
    beta0: NonNegative = 3.0,
    m: NonNegative = 4.0,
    adaptive: NonNegative = 1.0,
) -> jax.Array:
    """Frequency-aware adaptive focal loss, corrected: rare classes get the larger margin.

    n_k are the examples per class that the training sampler draws, and the offset f_k = m / n_k^(1/4) is *subtracted*
    from the logits in training, which the raw logits of a rare class must compensate. See `focal_with_offset`.

    Args:
      alpha0: weight of the loss, >= 0.
      beta0: focusing exponent at p = 1, >= 0.
      m: offset of a class with one example, in logits, >= 0.
      adaptive: 1 as above; 0 uses alpha0 and beta0 as the constants of an ordinary focal loss.

    Reference: Yuan et al., IEEE JBHI 2026 (frequency-aware adaptive focal loss), with the sign of the offset corrected.
    """
    return focal_with_offset(logits, labels, -frequency_offset(class_counts, m), alpha0, beta0, adaptive)


def published_fafl(
    logits: jax.Array,
    labels: BatchLabels,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    alpha0: NonNegative = 0.5,
    beta0: NonNegative = 3.0,
    m: NonNegative = 1.0,
    adaptive: NonNegative = 1.0,
) -> jax.Array:
    """Frequency-aware adaptive focal loss as in its authors' code.

    n_k are the examples per class of the global batch, and the offset is *added* to the logits: inference, which has
    no offset, then penalises rare classes. For comparison; see `fafl` for the corrected loss.

    Args:
      alpha0, beta0, m, adaptive: as in `fafl`; the published runs use 0.5, 3, 1, 1.

    Reference: Yuan et al., IEEE JBHI 2026 (frequency-aware adaptive focal loss).
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    batch_counts = cross_replica_sum((one_hot * mask[:, None]).sum(0))
    return focal_with_offset(logits, labels, frequency_offset(batch_counts, m), alpha0, beta0, adaptive)


def focal_with_offset(
    logits: jax.Array,
    labels: jax.Array,
    offset: jax.Array | float,
    alpha0: jax.Array | float,
    beta0: jax.Array | float,
    adaptive: jax.Array | float = 1.0,
) -> jax.Array:
    """Adaptive focal loss of shifted logits, -alpha (1 - p^)^beta log p^.

    p = softmax(z)_y, p^ = softmax(z + offset)_y, alpha = alpha0 (1 - p), beta = beta0 p, or alpha0 and beta0 themselves
    where `adaptive` is 0. Gradients flow through both coefficients. 1 - p^ is computed in log space from the logits of
    the other classes: as p^ approaches 1, the power and its derivative stay finite for any beta.

    Args:
      logits: (N, C), z.
      labels: (N,) int32, y.
      offset: (C,) or scalar, in logits.
      alpha0: weight of the loss, >= 0.
      beta0: focusing exponent at p = 1, >= 0.
      adaptive: 1 or 0.

    Returns:
      (N,) per-example losses.
    """
    _, log_one_minus_p = _log_probabilities(logits, labels)
    one_minus_p = jnp.exp(log_one_minus_p)
    log_shifted_p, log_one_minus_shifted_p = _log_probabilities(logits + offset, labels)
    alpha = alpha0 * jnp.where(adaptive, one_minus_p, 1.0)
    beta = beta0 * jnp.where(adaptive, 1.0 - one_minus_p, 1.0)
    return -alpha * jnp.exp(beta * log_one_minus_shifted_p) * log_shifted_p


def _log_probabilities(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns log p_y and log(1 - p_y), each (N,), finite for finite logits."""
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    label_logit = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    other_logit = jax.nn.logsumexp(logits, axis=-1, where=~is_label)
    # As the logit of label against rest: accurate however close p_y is to 0 or 1.
    return jax.nn.log_sigmoid(label_logit - other_logit), jax.nn.log_sigmoid(other_logit - label_logit)
