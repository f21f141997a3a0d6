"""Networks as linen modules with plain fields. CLASSIFIERS maps a config's model name to its module."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dim_jax.models.lrf_cnn import LRFCNN

CLASSIFIERS = {"lrf_cnn": LRFCNN}


def make_classifier(
    name: str, num_classes: int, *, dtype: str = "float32", axis_name: str | None = None, **fields: Any
) -> nn.Module:
    """Builds a classifier whose call returns (logits, features).

    Args:
      name: key of CLASSIFIERS.
      num_classes: number of logits, at least 2.
      dtype: "float32" or "bfloat16", of the computation; parameters, statistics and logits stay float32.
      axis_name: device axis for batch statistics.
      fields: further fields of the module.

    Raises:
      ValueError: there is no such classifier, dtype or field.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"config.model.name={name!r} is not a model; choose one of {', '.join(CLASSIFIERS)}")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"config.model.dtype={dtype!r} is not supported; choose float32 or bfloat16")
    module = CLASSIFIERS[name]
    unknown = sorted(set(fields) - set(module.__dataclass_fields__))
    if unknown:
        raise ValueError(f"config.model.{unknown[0]} is not a field of {name}")
    return module(num_classes=num_classes, dtype=jnp.dtype(dtype), axis_name=axis_name, **fields)
