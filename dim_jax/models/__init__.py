"""Networks as linen modules with plain fields, and how a configuration names them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dim_jax.models.coatnet import CoAtNet
from dim_jax.models.efficientnet_lite import EfficientNetLite0
from dim_jax.models.gcgan import Discriminator, Generator
from dim_jax.models.linear import LinearClassifier
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.models.wavemix import WaveMix

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "lrf_cnn": LRFCNN,
    "light_lrf_cnn": partial(LRFCNN, depthwise=True),
    "efficientnet_lite0": EfficientNetLite0,
    "wavemix": WaveMix,
    "coatnet": CoAtNet,
    "linear": LinearClassifier,
}
DTYPES = ("float32", "bfloat16")


def make_classifier(
    name: str, num_classes: int, *, dtype: str = "float32", axis_name: str | None = None, **fields: Any
) -> nn.Module:
    """Builds a classifier whose call returns (logits, features).

    Args:
      name: key of CLASSIFIERS.
      num_classes: number of logits, at least 2.
      dtype: "float32" or "bfloat16", of the computation; parameters, statistics and logits stay float32.
      axis_name: device axis for batch statistics, for a module that has them.
      fields: further fields of the module.

    Raises:
      ValueError: there is no such classifier, dtype or field.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"config.model.name={name!r} is not a model; choose one of {', '.join(CLASSIFIERS)}")
    _check_dtype(dtype)
    make = CLASSIFIERS[name]
    known = _fields_of(make)
    if dtype != "float32" or "dtype" in known:
        fields["dtype"] = jnp.dtype(dtype)
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"config.model.{unknown[0]} is not a field of {name}")
    _check_kinds(make.func if isinstance(make, partial) else make, fields)
    if "axis_name" in known:
        fields["axis_name"] = axis_name
    return make(num_classes=num_classes, **fields)


def _fields_of(make: Callable[..., nn.Module]) -> set[str]:
    """Returns what may be chosen of a module, or of a partial one: what that fixes may not."""
    fixed = make.keywords if isinstance(make, partial) else {}
    module = make.func if isinstance(make, partial) else make
    return set(module.__dataclass_fields__) - set(fixed)


def make_gan(
    size: int,
    num_classes: int,
    *,
    dtype: str = "float32",
    axis_name: str | None = None,
    **fields: Any,
) -> tuple[Generator, Discriminator]:
    """Builds the two networks of a GCGAN.

    Args:
      size: side of the images in px: 64, 128, 256, 512 or 1024.
      num_classes: of a class-conditional GAN; 0 for one that draws a single class.
      dtype: as in `make_classifier`.
      axis_name: device axis for batch statistics.
      fields: further fields of gcgan.Generator; the discriminator takes those that it has too.

    Raises:
      ValueError: there is no such size, dtype, field or value.
    """
    _check_dtype(dtype)
    unknown = sorted(set(fields) - set(Generator.__dataclass_fields__))
    if unknown:
        raise ValueError(f"config.model.{unknown[0]} is not a field of the generator")
    _check_kinds(Generator, fields)
    fields |= {"size": size, "num_classes": num_classes, "dtype": jnp.dtype(dtype), "axis_name": axis_name}
    shared = {name: value for name, value in fields.items() if name in Discriminator.__dataclass_fields__}
    return Generator(**fields), Discriminator(**shared)


def _check_kinds(module: type[nn.Module], fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a value of another kind than the field's default, such as text for a number."""
    for name, value in fields.items():
        default = module.__dataclass_fields__[name].default
        if _kind(default) is not None and _kind(value) != _kind(default):
            raise ValueError(f"config.model.{name}={value!r} must be of the kind of {default!r}")


def _kind(value: Any) -> str | None:
    """Returns what a value is, the items of a list included; None for what no configuration can give."""
    if isinstance(value, list | tuple):
        kinds = {_kind(item) for item in value}
        return f"list of {kinds.pop() if len(kinds) == 1 else 'nothing in common'}"
    for kind, types in (("flag", bool), ("number", int | float), ("text", str)):
        if isinstance(value, types):
            return kind
    return None


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"config.model.dtype={dtype!r} is not supported; choose {' or '.join(DTYPES)}")
