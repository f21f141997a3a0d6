"""Losses for imbalanced classes, all under one signature.

    loss(logits, labels, mask, class_counts, cross_replica_sum, **hyper_parameters) -> per_example_loss

with logits (N, C) float32, labels (N,) int32, mask (N,) float32 (0 marks padding), class_counts (C,) float32: how many
examples of each class the training sampler draws per epoch, and cross_replica_sum: sums an array over all devices (the
identity on one). The loss of the global batch is the masked mean of what they return, (N,) float32, so that any number
of devices gives the same value. Hyper-parameters are traced, so runs that differ only in them share a compilation.
"""

import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

CrossReplicaSum = Callable[[jax.Array], jax.Array]


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
) -> jax.Array:
    """Softmax cross-entropy, -log p_y."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
) -> jax.Array:
    """Cross-entropy weighted by inverse class frequency: -w_y log p_y with w_k = sum(n) / (C n_k).

    The weights average 1 over what the sampler draws. A class that is never drawn has weight 0.

    Reference: King & Zeng, "Logistic regression in rare events data", Political Analysis 2001.
    """
    num_drawn_classes = (class_counts > 0).sum()
    weights = jnp.where(
        class_counts > 0, class_counts.sum() / (num_drawn_classes * jnp.maximum(class_counts, 1e-12)), 0.0
    )
    return weights[labels] * optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def logit_adjusted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    tau: jax.Array | float = 1.0,
) -> jax.Array:
    """Cross-entropy of z + tau log(prior), so that the raw logits rank classes as if all were equally frequent.

    Args:
      tau: strength, >= 0; 0 is plain cross-entropy, 1 is consistent for the balanced error.

    Reference: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10.
    """
    # Half an example stands in for none: log 0 would silence the class for good.
    prior = jnp.maximum(class_counts, 0.5) / class_counts.sum()
    return optax.softmax_cross_entropy_with_integer_labels(logits + tau * jnp.log(prior), labels)


def fafl(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    alpha0: jax.Array | float = 0.5,
    beta0: jax.Array | float = 3.0,
    m: jax.Array | float = 4.0,
    adaptive: jax.Array | float = 1.0,
) -> jax.Array:
    """Frequency-aware adaptive focal loss, corrected: rare classes get the larger margin.

    The counts are those the training sampler draws and the offset f_k = m / n_k^(1/4) is *subtracted* in training, so
    the raw logits of a rare class must rise to make up for it. See `focal_with_offset` for the rest.

    Args:
      alpha0: weight of the loss, >= 0.
      beta0: focusing exponent at p = 1, >= 0.
      m: offset of a class with one example, in logits, >= 0.
      adaptive: 1 as above; 0 makes alpha0 and beta0 the constants of an ordinary focal loss.
    """
    return focal_with_offset(logits, labels, -frequency_offset(class_counts, m), alpha0, beta0, adaptive)


def published_fafl(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    class_counts: jax.Array,
    cross_replica_sum: CrossReplicaSum,
    *,
    alpha0: jax.Array | float = 0.5,
    beta0: jax.Array | float = 3.0,
    m: jax.Array | float = 1.0,
    adaptive: jax.Array | float = 1.0,
) -> jax.Array:
    """Frequency-aware adaptive focal loss as its authors' code computes it.

    The counts are those of the global batch at hand, and the offset is *added*: inference, which has no offset, then
    penalises rare classes. Kept for comparison; `fafl` is the mended one.

    Args:
      alpha0, beta0, m, adaptive: as in `fafl`; the published runs use 0.5, 3, 1, 1.

    Reference: Yuan et al., IEEE JBHI 2026 (frequency-aware adaptive focal loss).
    """
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    batch_counts = cross_replica_sum((one_hot * mask[:, None]).sum(0))
    return focal_with_offset(logits, labels, frequency_offset(batch_counts, m), alpha0, beta0, adaptive)


def frequency_offset(class_counts: jax.Array, m: jax.Array | float) -> jax.Array:
    """Returns f_k = m / n_k^(1/4) in logits, (C,); 0 for a class without examples."""
    return jnp.where(class_counts > 0, m / jnp.maximum(class_counts, 1e-12) ** 0.25, 0.0)


def focal_with_offset(
    logits: jax.Array,
    labels: jax.Array,
    offset: jax.Array,
    alpha0: jax.Array | float,
    beta0: jax.Array | float,
    adaptive: jax.Array | float = 1.0,
) -> jax.Array:
    """Adaptive focal loss of shifted logits: -alpha (1 - p^)^beta log p^ per example, (N,).

    p = softmax(z)_y, p^ = softmax(z + offset)_y, alpha = alpha0 (1 - p), beta = beta0 p, or just alpha0 and beta0 where
    `adaptive` is 0. Both coefficients are part of the gradient. 1 - p^ is computed in logarithms from the logits of the
    other classes: as p^ nears 1 neither the power nor its derivative can become infinite, whatever beta is.
    """
    _, log_one_minus_p = _log_probabilities(logits, labels)
    one_minus_p = jnp.exp(log_one_minus_p)
    log_shifted_p, log_one_minus_shifted_p = _log_probabilities(logits + offset, labels)
    alpha = alpha0 * jnp.where(adaptive, one_minus_p, 1.0)
    beta = beta0 * jnp.where(adaptive, 1.0 - one_minus_p, 1.0)
    return -alpha * jnp.exp(beta * log_one_minus_shifted_p) * log_shifted_p


def _log_probabilities(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns log p_y and log(1 - p_y), each (N,), both finite for finite logits."""
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    of_others = jax.nn.logsumexp(logits, axis=-1, where=~is_label)
    # Of a label against the rest: keeps every digit however close p_y is to 0 or 1.
    return jax.nn.log_sigmoid(of_label - of_others), jax.nn.log_sigmoid(of_others - of_label)


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "weighted_cross_entropy": weighted_cross_entropy,
    "logit_adjusted_cross_entropy": logit_adjusted_cross_entropy,
    "fafl": fafl,
    "published_fafl": published_fafl,
}


def hyper_parameters(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Picks from `values` the hyper-parameters that the loss `name` takes.

    Raises:
      ValueError: there is no such loss, `values` lacks one, or one is negative.
    """
    if name not in LOSSES:
        raise ValueError(f"config.loss.name={name!r} is not a loss; choose one of {', '.join(LOSSES)}")
    parameters = inspect.signature(LOSSES[name]).parameters.values()
    wanted = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for key in wanted:
        if key not in values or not values[key] >= 0:
            raise ValueError(f"config.loss.{key}={values.get(key)} must be a number of at least 0 for {name}")
    return {key: float(values[key]) for key in wanted}
