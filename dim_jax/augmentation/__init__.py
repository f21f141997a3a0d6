"""Augmentation of histology images and of a discriminator's inputs."""

import inspect
import pkgutil
from collections.abc import Callable

import jax

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def get_function(name: str) -> Augmentation:
    """Returns an augmentation by its import path "package.module:function".

    It is called as `function(key, image)` with a random key and one image (S, S, 3) float32 in [0, 1], and returns an
    image of the same shape, dtype and range. It must be pure JAX: it runs under jit and vmap.

    Raises:
      ValueError: there is no such function.
    """
    where = f"config.augment.function={name!r}"
    if ":" not in name:
        raise ValueError(f"{where} is not an import path; give package.module:function")
    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:  # whatever importing somebody's module raises
        raise ValueError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = []
    if parameters != ["key", "image"]:
        raise ValueError(f"{where} is not a function (key, image)")
    return function
