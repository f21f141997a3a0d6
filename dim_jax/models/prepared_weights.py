"""Weights in the form that inference uses, computed once instead of for every batch."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

PREPARED = "prepared"  # name of the variable collection


def prepare_weights(model: nn.Module, variables: Mapping[str, Any], *inputs: jax.Array | None) -> dict[str, Any]:
    """Computes the collection of prepared weights, to be added to `variables` for inference.

    The pass through the network that this makes is removed by the compiler.

    Args:
      model: a network.
      variables: its variables; the result is valid for these weights only.
      inputs: example inputs of the network, images (N, H, W, C) first, of the shapes used in inference.

    Returns:
      {PREPARED: tree}; empty if no layer prepares weights.
    """
    return dict(model.apply(variables, *inputs, mutable=[PREPARED])[1])


def is_preparing(layer: nn.Module) -> bool:
    """Returns whether the layer is applied by `prepare_weights`."""
    return layer.is_mutable_collection(PREPARED) and not layer.is_initializing()


def has_prepared(layer: nn.Module, name: str) -> bool:
    """Returns whether the layer has prepared weights `name`."""
    return layer.has_variable(PREPARED, name)


def prepared(layer: nn.Module, name: str, make: Callable[[], Any]) -> Any:
    """Returns the layer's prepared weights `name` if it has them, otherwise `make()`.

    Args:
      layer: a bound layer.
      name: of the value within the layer.
      make: computes the value from the layer's parameters.
    """
    if has_prepared(layer, name):
        return layer.get_variable(PREPARED, name)
    value = make()
    if is_preparing(layer):
        layer.put_variable(PREPARED, name, value)
    return value
