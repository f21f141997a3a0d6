"""Map between the published PyTorch names of GCGAN's tensors and Flax paths, and conversion of their layouts."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from dim_jax.models.gcgan import (
    BIG_CHANNELS,
    DECODER_CHANNELS,
    GENERATOR_CHANNELS,
    SMALL_CHANNELS,
    Discriminator,
    Generator,
    small_size,
)
from dim_jax.models.spectral import COLLECTION
from dim_jax.weights import torch_names
from dim_jax.weights.torch_names import NORM, Path, layer_names

# Tensor of a spectrally normalised layer in PyTorch -> Flax collection and key.
SPECTRAL = {"weight_orig": ("params", "kernel"), "weight_u": (COLLECTION, "u"), "weight_v": (COLLECTION, "v")}
LATENT = "init.init.0"  # the transposed convolution


def generator_names(model: Generator) -> dict[str, Path]:
    """Returns PyTorch name -> Flax path (collection first) of every tensor of a generator, except step counters.

    Raises:
      ValueError: `model` differs from the published architecture.
    """
    _check_published(model)
    if model.up != "residual":
        raise ValueError(f"up={model.up!r} of a GCGAN has no published names; only 'residual' does")
    names = layer_names(LATENT, ("seed",), SPECTRAL) | layer_names("init.init.1", ("seed_norm",), NORM)
    sides = [side for side in GENERATOR_CHANNELS if 4 < side <= model.size]
    for number, side in enumerate(sides):
        torch, block = f"feat_{side}", f"up{side}"
        if number % 2:
            names |= _up_block(torch, (block,))
        else:
            for index, part in ((1, "first"), (5, "second")):
                names |= layer_names(f"{torch}.block.{index}", (block, part), SPECTRAL)
                names |= layer_names(
                    f"{torch}.block.{index + 1}", (block, f"{part}_noise"), {"weight": ("params", "gain")}
                )
                names |= layer_names(f"{torch}.block.{index + 2}", (block, f"{part}_norm"), NORM)
            names |= layer_names(f"{torch}.skip.1", (block, "skip"), SPECTRAL)
            names |= layer_names(f"{torch}.skip.2", (block, "skip_norm"), NORM)
        if 64 <= side < 1024:
            names |= _gate(f"se_{side}", (f"gate{side}",))
    return names | layer_names("to_128", ("small_head",), SPECTRAL) | layer_names("to_big", ("head",), SPECTRAL)


def discriminator_names(model: Discriminator) -> dict[str, Path]:
    """Returns PyTorch name -> Flax path (collection first) of every tensor of a discriminator, except step counters.

    Raises:
      ValueError: `model` differs from the published architecture.
    """
    _check_published(model)
    names = layer_names("down_from_big.0", ("big", "stem"), SPECTRAL)
    if model.size == 1024:
        names |= layer_names("down_from_big.2", ("big", "stem_second"), SPECTRAL)
        names |= layer_names("down_from_big.3", ("big", "stem_second_norm"), NORM)
    stem = min(model.size, 256)
    for side in BIG_CHANNELS:
        if side >= stem:
            continue
        torch, block = f"down_{512 // side}", ("big", f"down{side}")
        for position, part in (("main.0", "halve"), ("main.3", "refine"), ("direct.1", "direct")):
            group, index = position.split(".")
            names |= layer_names(f"{torch}.{position}", (*block, part), SPECTRAL)
            names |= layer_names(f"{torch}.{group}.{int(index) + 1}", (*block, f"{part}_norm"), NORM)
        if side * 8 <= stem:
            names |= _gate(f"se_{64 // side}_{512 // side}", ("big", f"gate{side}"))
    names |= layer_names("rf_big.0", ("big", "hidden"), SPECTRAL) | layer_names(
        "rf_big.1", ("big", "hidden_norm"), NORM
    )
    names |= layer_names("rf_big.3", ("big", "logits"), SPECTRAL)

    small = small_size(model.size)
    sides = [side for side in SMALL_CHANNELS if side < small]
    names |= layer_names("down_from_small.0", ("small", f"halve{sides[0]}"), SPECTRAL)
    for index, side in enumerate(sides[1:], start=2):
        names |= layer_names(f"down_from_small.{index}.main.0", ("small", f"halve{side}"), SPECTRAL)
        names |= layer_names(f"down_from_small.{index}.main.1", ("small", f"halve{side}_norm"), NORM)
    names |= layer_names("rf_small", ("small", "logits"), SPECTRAL)

    for torch, flax in (("big", "whole"), ("part", "part"), ("small", "small")):
        blocks = sum(side <= small for side in DECODER_CHANNELS)
        for number in range(blocks):
            names |= _up_block(f"decoder_{torch}.main.{number + 1}", (f"decode_{flax}", f"up{number}"))
        names |= layer_names(f"decoder_{torch}.main.{blocks + 1}", (f"decode_{flax}", "head"), SPECTRAL)
    return names


def gcgan_fields(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the fields of the published Generator that a state dict belongs to.

    Args:
      tensors: PyTorch name -> array in PyTorch's layout.
    """
    sides = [int(match[1]) for match in (re.match(r"feat_(\d+)\.", name) for name in tensors) if match]
    size = max(sides, default=0)
    width = tensors[f"{LATENT}.weight_orig"].shape[1] / (2 * GENERATOR_CHANNELS[4])
    # A tanh has no weights; the published code has one at this size only.
    return {"size": size, "width": width, "context": "map", "tanh": size == 1024}


def _up_block(torch: str, flax: Path) -> dict[str, Path]:
    return layer_names(f"{torch}.1", (*flax, "conv"), SPECTRAL) | layer_names(f"{torch}.2", (*flax, "norm"), NORM)


def _gate(torch: str, flax: Path) -> dict[str, Path]:
    names: dict[str, Path] = {}
    for layer, part in (("fc1", "hidden"), ("fc2", "output")):
        leaves = {"weight": ("params", "kernel")}
        names |= layer_names(f"{torch}.global_context_block.{layer}", (*flax, "context", part), leaves)
    names |= layer_names(f"{torch}.main.1", (*flax, "squeeze"), SPECTRAL)
    return names | layer_names(f"{torch}.main.3", (*flax, "excite"), SPECTRAL)


def _check_published(model: Generator | Discriminator) -> None:
    """Raises ValueError if a field of `model` differs from the published architecture."""
    for field, published in (("gate", "gc"), ("context", "map"), ("num_classes", 0)):
        if getattr(model, field) != published:
            raise ValueError(
                f"{field}={getattr(model, field)!r} of a GCGAN has no published names; only {published!r} does"
            )


def to_flax(state_dict: Mapping[str, np.ndarray], names: Mapping[str, Path]) -> dict:
    """Converts a PyTorch state dict to Flax variables {"params": ..., "batch_stats": ..., "spectral": ...}.

    Args:
      state_dict: PyTorch name -> array in PyTorch's layout.
      names: PyTorch name -> Flax path, from `generator_names` or `discriminator_names`.

    Raises:
      ValueError: a tensor is missing or unknown to the model.
    """

    def layout(name: str, tensor: np.ndarray) -> np.ndarray:
        layer, leaf = name.rsplit(".", 1)
        if layer == LATENT and leaf == "weight_orig":
            return tensor.transpose(0, 2, 3, 1)
        if leaf == "weight_v":
            # PyTorch flattens the channels and spatial axes of the kernel.
            tensor = tensor.reshape(-1, *np.shape(state_dict[f"{layer}.weight_orig"])[2:])
            return tensor if layer == LATENT else tensor.transpose(1, 2, 0)
        return torch_names.to_flax_layout(tensor)

    return torch_names.to_flax(state_dict, names, layout)


def to_torch(variables: Mapping, names: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Converts Flax variables to PyTorch name -> array in PyTorch's layout; the inverse of `to_flax`.

    Paths that `variables` lacks are left out, so trees of some collections only, such as gradients, convert too.
    """

    def layout(name: str, tensor: np.ndarray) -> np.ndarray:
        layer, leaf = name.rsplit(".", 1)
        if layer == LATENT and leaf == "weight_orig":
            return tensor.transpose(0, 3, 1, 2)
        if leaf == "weight_v":
            return (tensor if layer == LATENT else tensor.transpose(2, 0, 1)).reshape(-1)
        return torch_names.to_torch_layout(tensor)

    return torch_names.to_torch(variables, names, layout)
