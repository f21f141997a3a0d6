"""Deferred re-balancing: plain training first, then class weights, balanced sampling or an offset of the logits."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax.losses import class_weights
from dim_jax.losses.margins import adjust_logits
from dim_jax.losses.signature import CrossReplicaSum

Loss = Callable[..., jax.Array]

WEIGHTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "inverse_frequency": class_weights.inverse_frequency,
    "effective_number": partial(class_weights.effective_number, beta=0.9999),
}
SAMPLING, LOGIT_OFFSET = "sampling", "logit_offset"
METHODS = (*WEIGHTS, SAMPLING, LOGIT_OFFSET)


def rebalanced(loss: Loss, method: str) -> Loss:
    """Returns a loss that is `loss` up to a share of the run, and re-balanced from then on.

    Args:
      loss: see losses.signature.
      method: "inverse_frequency" or "effective_number" multiply the loss of an example by the weight of its class, see
        `class_weights`; "logit_offset" adds tau log(prior) to the logits, as in `logit_adjusted_cross_entropy`;
        "sampling" is for a sampler that draws all classes equally often from then on, and gives `loss` their counts.

    Returns:
      A loss with the keywords of `loss`, `progress`, `rebalance_from`, the share of the run, in [0, 1), and
      `rebalance_tau`, at least 0; 0 adds no offset.

    Reference: Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss", NeurIPS 2019,
      section 3.3 (weights, sampling); Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10.
    """
    if method not in METHODS:
        raise ValueError(f"config.train.rebalance={method!r} must be one of none, {', '.join(METHODS)}")
    follows_progress = "progress" in inspect.signature(loss).parameters

    def rebalanced_loss(
        logits: jax.Array,
        labels: jax.Array,
        mask: jax.Array,
        class_counts: jax.Array,
        cross_replica_sum: CrossReplicaSum,
        *,
        rebalance_from: jax.Array | float,
        rebalance_tau: jax.Array | float = 1.0,
        progress: jax.Array | float = 1.0,
        **hyper_parameters: Any,
    ) -> jax.Array:
        is_on = progress >= rebalance_from
        if follows_progress:
            hyper_parameters["progress"] = progress
        if method == LOGIT_OFFSET:
            logits = jnp.where(is_on, adjust_logits(logits, class_counts, -rebalance_tau), logits)
        if method == SAMPLING:
            class_counts = jnp.where(is_on, _equal(class_counts), class_counts)
        per_example_loss = loss(logits, labels, mask, class_counts, cross_replica_sum, **hyper_parameters)
        if method not in WEIGHTS:
            return per_example_loss
        return jnp.where(is_on, WEIGHTS[method](class_counts), 1.0)[labels] * per_example_loss

    return rebalanced_loss


def _equal(class_counts: jax.Array) -> jax.Array:
    """Returns as many draws in all, divided equally among the classes that occur."""
    occurs = jnp.asarray(class_counts) > 0
    return jnp.where(occurs, class_counts.sum() / occurs.sum(), 0.0)
