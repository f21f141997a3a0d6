"""Registry of the models: constructors by name, and the fields that a configuration may set."""

import dataclasses
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from dim_jax.models import efficientnet_lite
from dim_jax.models.coatnet import CoAtNet
from dim_jax.models.denoising_unet import DenoisingUNet
from dim_jax.models.gcgan import Discriminator, Generator
from dim_jax.models.linear import LinearClassifier
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.models.wavemix import WaveMix

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "lrf_cnn": LRFCNN,
    "light_lrf_cnn": partial(LRFCNN, depthwise=True),
    **{name: network.make for name, network in efficientnet_lite.PUBLISHED.items()},
    "wavemix": WaveMix,
    "coatnet": CoAtNet,
    "linear": LinearClassifier,
}
DTYPES = ("float32", "bfloat16")
HEAD = "head"  # name of the last layer of each of them


_NOT_OPTIONS = {"num_classes", "axis_name", "dtype", "parent", "name"}


def get_classifier(name: str) -> Callable[..., nn.Module]:
    """Returns a classifier's module by its name in CLASSIFIERS, or by an import path "package.module:Class".

    Such a class is a linen module with a field `num_classes` whose call `(images, train=False, example_keys=None)`
    returns (logits, features). Its other fields have defaults and are the options of a configuration; `axis_name`, if
    it has one, is the device axis for batch statistics, and `dtype` the dtype of the computation.

    Raises:
      ValueError: there is no such classifier.
    """
    if name in CLASSIFIERS:
        return CLASSIFIERS[name]
    where = f"config.model.name={name!r}"
    if ":" not in name:
        raise ValueError(
            f"{where} is not a model; choose one of {', '.join(CLASSIFIERS)}, or give package.module:Class"
        )
    try:
        module = pkgutil.resolve_name(name)
    except Exception as error:  # importing a user's module may raise anything
        raise ValueError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    if not (isinstance(module, type) and issubclass(module, nn.Module) and "num_classes" in _fields_of(module)):
        raise ValueError(f"{where} is not a flax.linen module with a field num_classes")
    return module


def classifier_options(name: str) -> dict[str, tuple[Any, Any]]:
    """Returns (type, default) of each field of a classifier that a configuration may set.

    Raises:
      ValueError: there is no such classifier, or a field of it has no default.
    """
    return _options(get_classifier(name), _NOT_OPTIONS)


def gan_options() -> dict[str, tuple[Any, Any]]:
    """Returns (type, default) of each field of a generator that a configuration may set."""
    return _options(Generator, _NOT_OPTIONS | {"size"})


def denoiser_options() -> dict[str, tuple[Any, Any]]:
    """Returns (type, default) of each field of a diffusion model's network that a configuration may set."""
    return _options(DenoisingUNet, _NOT_OPTIONS)


def make_classifier(
    name: str, num_classes: int, *, dtype: str = "float32", axis_name: str | None = None, **fields: Any
) -> nn.Module:
    """Builds a classifier whose call returns (logits, features).

    Args:
      name: as for `get_classifier`.
      num_classes: number of logits, at least 2.
      dtype: "float32" or "bfloat16", of the computation; parameters, statistics and logits stay float32.
      axis_name: device axis for batch statistics, for a module that has them.
      fields: further fields of the module.

    Raises:
      ValueError: there is no such classifier, dtype or field.
    """
    make = get_classifier(name)
    known = _fields_of(make)
    if dtype != "float32" or "dtype" in known:
        fields["dtype"] = _dtype(dtype)
    _check_names(fields, known, name)
    if "axis_name" in known:
        fields["axis_name"] = axis_name
    return make(num_classes=num_classes, **fields)


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
      num_classes: number of classes of a class-conditional GAN; 0 for an unconditional one.
      dtype: as in `make_classifier`.
      axis_name: device axis for batch statistics.
      fields: further fields of gcgan.Generator; those that gcgan.Discriminator also has are set there too.

    Raises:
      ValueError: there is no such size, dtype, field or value.
    """
    _check_names(fields, _fields_of(Generator), "the generator")
    fields |= {"size": size, "num_classes": num_classes, "dtype": _dtype(dtype), "axis_name": axis_name}
    shared = {name: value for name, value in fields.items() if name in _fields_of(Discriminator)}
    return Generator(**fields), Discriminator(**shared)


def make_denoiser(num_classes: int, *, dtype: str = "float32", **fields: Any) -> DenoisingUNet:
    """Builds the network of a diffusion model.

    Args:
      num_classes: number of classes of a class-conditional model; 0 for one without labels.
      dtype: as in `make_classifier`.
      fields: further fields of denoising_unet.DenoisingUNet.

    Raises:
      ValueError: there is no such dtype or field.
    """
    _check_names(fields, _fields_of(DenoisingUNet), "the denoising network")
    return DenoisingUNet(num_classes, dtype=_dtype(dtype), **fields)


def _options(make: Callable[..., nn.Module], left_out: set[str]) -> dict[str, tuple[Any, Any]]:
    fields = _fields_of(make)
    options = {name: (field.type, field.default) for name, field in fields.items() if name not in left_out}
    for name, (_, default) in options.items():
        if default is dataclasses.MISSING:
            raise ValueError(f"the field {name} of {make.__name__} has no default; an option needs one")
    if "dtype" in fields:
        options["dtype"] = (Literal["float32", "bfloat16"], jnp.dtype(fields["dtype"].default).name)
    return options


def _fields_of(make: Callable[..., nn.Module]) -> dict[str, dataclasses.Field]:
    """Returns the init fields of a module by name, without those that a `functools.partial` has bound."""
    bound = make.keywords if isinstance(make, partial) else {}
    module = make.func if isinstance(make, partial) else make
    return {field.name: field for field in dataclasses.fields(module) if field.init and field.name not in bound}


def _check_names(fields: Mapping[str, Any], known: Iterable[str], name: str) -> None:
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise ValueError(f"config.model.{unknown[0]} is not a field of {name}")


def _dtype(name: str) -> jnp.dtype:
    if name not in DTYPES:
        raise ValueError(f"config.model.dtype={name!r} is not supported; choose {' or '.join(DTYPES)}")
    return jnp.dtype(name)
