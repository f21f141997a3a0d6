"""Losses from differentiable metrics: cross-entropy plus 1 - F1 or 1 - MCC, with counts from probabilities."""

import jax
import jax.numpy as jnp
import optax

from dim_jax.losses.signature import BatchLabels, CrossReplicaSum, NonNegative


def soft_f1(
    logits: jax.Array,
    labels: BatchLabels,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    metric_weight: NonNegative = 1.0,
) -> jax.Array:
    """Cross-entropy + metric_weight (1 - F1), F1 = mean_k 2 TP_k / (predicted_k + actual_k).

    The mean is over the classes in the global batch.

    Args:
      metric_weight: weight of the metric, >= 0; 0 is plain cross-entropy.

    Reference: Pastor-Pellicer et al., "F-measure as the error function to train neural networks", IWANN 2013.
    """
    true_positives, predicted, actual = _soft_counts(logits, labels, mask, cross_replica_sum)
    # Classes in the batch have a denominator of at least 1.
    f1 = jnp.mean(2 * true_positives / jnp.maximum(predicted + actual, 1.0), where=actual > 0)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels) + metric_weight * (1.0 - f1)


def soft_mcc(
    logits: jax.Array,
    labels: BatchLabels,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    metric_weight: NonNegative = 1.0,
) -> jax.Array:
    """Cross-entropy + metric_weight (1 - MCC), the multi-class Matthews correlation coefficient.

    MCC = (sum_k TP_k - predicted_k actual_k) / sqrt((1 - sum_k predicted_k^2) (1 - sum_k actual_k^2)), with counts as
    shares of the global batch; 0 where all labels or all predictions are of one class.

    Args:
      metric_weight: weight of the metric, >= 0; 0 is plain cross-entropy.

    Reference: Abhishek & Hamarneh, "Matthews correlation coefficient loss for deep convolutional networks", ISBI 2021;
      for several classes Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient",
      Computational Biology and Chemistry 2004.
    """
    counts = _soft_counts(logits, labels, mask, cross_replica_sum)
    true_positives, predicted, actual = counts / jnp.maximum(counts[2].sum(), 1.0)
    covariance = (true_positives - predicted * actual).sum()
    variances = (predicted * (1.0 - predicted)).sum() * (actual * (1.0 - actual)).sum()
    # The gradient of sqrt is infinite at 0.
    mcc = covariance / jnp.sqrt(jnp.maximum(variances, 1e-6))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels) + metric_weight * (1.0 - mcc)


def _soft_counts(
    logits: jax.Array, labels: jax.Array, mask: jax.Array, cross_replica_sum: CrossReplicaSum
) -> jax.Array:
    """Returns true positives, predicted and actual examples of each class in the global batch, (3, C)."""
    probabilities = jax.nn.softmax(logits) * mask[:, None]
    one_hot = jax.nn.one_hot(labels, logits.shape[-1]) * mask[:, None]
    counts = jnp.stack([probabilities * one_hot, probabilities, one_hot])
    return cross_replica_sum(counts.sum(1))
