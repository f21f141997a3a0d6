"""Losses for imbalanced classes, all under the signature of signature.py, and how a configuration names them."""

import inspect
import math
from collections.abc import Callable, Mapping

import jax

from dim_jax.losses.cross_entropies import (
    class_balanced_cross_entropy,
    cross_entropy,
    ohem_cross_entropy,
    weighted_cross_entropy,
)
from dim_jax.losses.focal_losses import class_balanced_focal, fafl, focal, published_fafl
from dim_jax.losses.margins import balanced_softmax, ldam, logit_adjusted_cross_entropy
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

# What a hyper-parameter must be, in words and as a test.
AT_LEAST_0 = ("a number of at least 0", lambda value: 0 <= value < math.inf)
RANGES = {
    "label_smoothing": ("in [0, 1)", lambda value: 0 <= value < 1),
    "effective_number_beta": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "keep_share": ("in (0, 1]", lambda value: 0 < value <= 1),
    "scale": ("a number above 0", lambda value: 0 < value < math.inf),
    "reweight_from": ("in [0, 1]", lambda value: 0 <= value <= 1),
}


def hyper_parameters(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Picks from `values` the hyper-parameters that the loss `name` takes, all but the progress of the run.

    Raises:
      ValueError: there is no such loss, `values` lacks one, or one is out of its range.
    """
    if name not in LOSSES:
        raise ValueError(f"config.loss.name={name!r} is not a loss; choose one of {', '.join(LOSSES)}")
    wanted = [key for key in _keywords(LOSSES[name]) if key != "progress"]
    for key in wanted:
        words, is_in_range = RANGES.get(key, AT_LEAST_0)
        if key not in values or not is_in_range(values[key]):
            raise ValueError(f"config.loss.{key}={values.get(key)} must be {words} for {name}")
    return {key: float(values[key]) for key in wanted}


def follows_progress(loss: Callable[..., jax.Array]) -> bool:
    """Whether a loss changes with `progress`, the share of the run that is done: it then declares that keyword."""
    return "progress" in _keywords(loss)


def _keywords(loss: Callable[..., jax.Array]) -> list[str]:
    parameters = inspect.signature(loss).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
