"""Cross-entropy of all examples alike, by the weight of their class, or of the hardest alone."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dim_jax.losses import class_weights
from dim_jax.losses.signature import BelowOne, CrossReplicaSum, PositiveShare, Share


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
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    keep_share: PositiveShare = 0.7,
) -> jax.Array:
    """Cross-entropy of the hardest examples of the global batch (online hard example mining).

    -u_i log p_y / keep_share with u = 1 for the keep_share N examples of the highest loss and 0 for the others. What
    does not fit into the number whole, or ties at its edge, counts in part: the mean is always that of the kept ones.

    Args:
      keep_share: share of the batch to learn from, in (0, 1]; 1 is plain cross-entropy.

    Reference: Shrivastava et al., "Training region-based object detectors with online hard example mining", CVPR 2016.
    """
    per_example = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    # Bits of floats that are not negative order as the floats do. Rounding may leave -1e-8 for 0.
    hardness = lax.bitcast_convert_type(jnp.abs(lax.stop_gradient(per_example)), jnp.uint32)
    num_kept = keep_share * cross_replica_sum(mask.sum())
    edge = _kth_largest(hardness, mask, num_kept, cross_replica_sum)
    is_harder, is_edge = mask * (hardness > edge), mask * (hardness == edge)
    num_harder, num_edge = cross_replica_sum(jnp.stack([is_harder.sum(), is_edge.sum()]))
    kept = is_harder + is_edge * (num_kept - num_harder) / jnp.maximum(num_edge, 1.0)
    return kept * per_example / keep_share


def _kth_largest(values: jax.Array, mask: jax.Array, k: jax.Array, cross_replica_sum: CrossReplicaSum) -> jax.Array:
    """Returns the largest number that at least `k` of all devices' unmasked `values` reach; values are (N,) uint32."""
    found = jnp.uint32(0)
    # Four bits a round: only counts cross the devices, and the answer is exact.
    for shift in range(28, -1, -4):
        candidates = found + (jnp.arange(1, 16, dtype=jnp.uint32) << shift)
        num_reaching = cross_replica_sum((mask[:, None] * (values[:, None] >= candidates)).sum(0))
        found += (num_reaching >= k).sum(dtype=jnp.uint32) << shift
    return found
