"""Registry of the losses for imbalanced classes; signature.py documents their common signature."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import jax

from dim_jax.losses.cross_entropies import (
    class_balanced_cross_entropy,
    cross_entropy,
    ohem_cross_entropy,
    weighted_cross_entropy,
)
from dim_jax.losses.focal_losses import class_balanced_focal, fafl, focal, published_fafl
from dim_jax.losses.margins import balanced_softmax, ldam, logit_adjusted_cross_entropy
from dim_jax.losses.signature import BatchLabels
from dim_jax.losses.soft_metrics import soft_f1, soft_mcc

LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "weighted_cross_entropy": weighted_cross_entropy,
    "class_balanced_cross_entropy": class_balanced_cross_entropy,
    "ohem_cross_entropy": ohem_cross_entropy,
    "logit_adjusted_cross_entropy": logit_adjusted_cross_entropy,
    "balanced_softmax": balanced_softmax,
    "ldam": ldam,
    "soft_f1": soft_f1,
    "soft_mcc": soft_mcc,
    "focal": focal,
    "class_balanced_focal": class_balanced_focal,
    "fafl": fafl,
    "published_fafl": published_fafl,
}

_INPUTS = ("logits", "labels", "mask", "class_counts", "cross_replica_sum")


def get_loss(name: str) -> Callable[..., jax.Array]:
    """Returns a loss by its name in LOSSES, or by an import path "package.module:function".

    Raises:
      ValueError: there is no such loss, or its signature is not that of signature.py.
    """
    if name in LOSSES:
        return LOSSES[name]
    where = f"config.loss.name={name!r}"
    if ":" not in name:
        raise ValueError(f"{where} is not a loss; choose one of {', '.join(LOSSES)}, or give package.module:function")
    try:
        loss = pkgutil.resolve_name(name)
    except Exception as error:  # importing a user's module may raise anything
        raise ValueError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    inputs = tuple(item.name for item in parameters if item.kind is not inspect.Parameter.KEYWORD_ONLY)
    if inputs != _INPUTS or any(item.default is item.empty for item in parameters if item.name not in inputs):
        raise ValueError(
            f"{where} is not a function ({', '.join(_INPUTS)}, *, option=default, ...), as losses/signature.py says"
        )
    return loss


def options(name: str) -> dict[str, tuple[Any, Any]]:
    """Returns (type, default) of each hyper-parameter of a loss, as its signature declares them.

    Raises:
      ValueError: as for `get_loss`.
    """
    parameters = inspect.signature(get_loss(name), eval_str=False).parameters
    return {
        key: (parameters[key].annotation, parameters[key].default)
        for key in _keywords(get_loss(name))
        if key != "progress"
    }


def hyper_parameters(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Returns the hyper-parameters of the loss `name`: those in `values`, and defaults for the others.

    Names in `values` that are not options of the loss are ignored.
    """
    return {key: float(values.get(key, default)) for key, (_, default) in options(name).items()}


def follows_progress(loss: Callable[..., jax.Array]) -> bool:
    """Whether a loss has the keyword `progress`, the finished fraction of the run, in [0, 1]."""
    return "progress" in _keywords(loss)


def takes_mixed_labels(loss: Callable[..., jax.Array]) -> bool:
    """Whether a loss can be averaged over the two labels of a mixed example; see signature.BatchLabels."""
    return inspect.signature(loss).parameters["labels"].annotation not in (BatchLabels, BatchLabels.__name__)


def _keywords(loss: Callable[..., jax.Array]) -> list[str]:
    parameters = inspect.signature(loss).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
