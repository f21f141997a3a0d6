"""Cross-entropy losses: plain, class-weighted, and with online hard example mining."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dim_jax.losses import class_weights
from dim_jax.losses.signature import BatchLabels, BelowOne, CrossReplicaSum, PositiveShare, Share


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    label_smoothing: BelowOne = 0.0,
) -> jax.Array:
    """Softmax cross-entropy, -sum_k q_k log p_k with q = (1 - s) one_hot(y) + s / C.

    Args:
      label_smoothing: share s of each label that is spread over all classes, in [0, 1); 0 gives -log p_y.

    Reference: Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section 7.
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, label_smoothing))


def weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
) -> jax.Array:
    """Cross-entropy weighted by inverse class frequency: -w_y log p_y, see `class_weights.inverse_frequency`.

    Reference: King & Zeng, "Logistic regression in rare events data", Political Analysis 2001.
    """
    weights = class_weights.inverse_frequency(class_counts)
    return weights[labels] * optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def class_balanced_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    effective_number_beta: Share = 0.9999,
) -> jax.Array:
    """Cross-entropy weighted by the effective number of examples: -w_y log p_y, see `class_weights.effective_number`.

    Args:
      effective_number_beta: in [0, 1]; 0 is plain cross-entropy, 1 is weighted by inverse frequency.

    Reference: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019, section 4.
    """
    weights = class_weights.effective_number(class_counts, effective_number_beta)
    return weights[labels] * optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def ohem_cross_entropy(
    logits: jax.Array,
    labels: BatchLabels,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    keep_share: PositiveShare = 0.7,
) -> jax.Array:
    """Cross-entropy of the hardest examples of the global batch (online hard example mining).

    -u_i log p_y / keep_share with u = 1 for the keep_share N examples of the highest loss and 0 for the others. Where
    that number is fractional, or examples tie at the threshold, they get fractional u: the mean over the batch is
    always that over the selected examples.

    Args:
      keep_share: share of the batch to select, in (0, 1]; 1 is plain cross-entropy.

    Reference: Shrivastava et al., "Training region-based object detectors with online hard example mining", CVPR 2016.
    """
    per_example_loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    # The bits of non-negative floats sort like the floats. Rounding may give -1e-8 for 0.
    hardness = lax.bitcast_convert_type(jnp.abs(lax.stop_gradient(per_example_loss)), jnp.uint32)
    num_selected = keep_share * cross_replica_sum(mask.sum())
    threshold = _kth_largest(hardness, mask, num_selected, cross_replica_sum)
    is_above, is_tied = mask * (hardness > threshold), mask * (hardness == threshold)
    num_above, num_tied = cross_replica_sum(jnp.stack([is_above.sum(), is_tied.sum()]))
    selection = is_above + is_tied * (num_selected - num_above) / jnp.maximum(num_tied, 1.0)
    return selection * per_example_loss / keep_share


def _kth_largest(values: jax.Array, mask: jax.Array, k: jax.Array, cross_replica_sum: CrossReplicaSum) -> jax.Array:
    """Returns the k-th largest of the unmasked `values` (N,) uint32 of all devices."""
    largest = jnp.uint32(0)
    # Radix search, four bits per round: exact, and only counts are exchanged between devices.
    for shift in range(28, -1, -4):
        candidates = largest + (jnp.arange(1, 16, dtype=jnp.uint32) << shift)
        num_reaching = cross_replica_sum((mask[:, None] * (values[:, None] >= candidates)).sum(0))
        largest += (num_reaching >= k).sum(dtype=jnp.uint32) << shift
    return largest
