"""Map between the published PyTorch names of LRF-CNN's tensors and Flax paths, and conversion of layouts."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from dim_jax.models.lrf_cnn import LRFCNN

Path = tuple[str, ...]

# The counter of training steps in every batch norm of PyTorch, which Flax lacks.
STEP_COUNTER = "num_batches_tracked"

# Tensor of a batch norm in PyTorch -> Flax collection and key.
NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def layer_names(torch: str, flax: Path, leaves: Mapping[str, Path]) -> dict[str, Path]:
    """Returns PyTorch name -> Flax path (collection first) of the tensors of one layer.

    Args:
      torch: name of the layer in PyTorch.
      flax: path of the layer in every Flax collection.
      leaves: last part of the PyTorch name -> Flax collection and key.
    """
    return {f"{torch}.{leaf}": (collection, *flax, key) for leaf, (collection, key) in leaves.items()}


def lrf_cnn_names(model: LRFCNN) -> dict[str, Path]:
    """Returns PyTorch name -> Flax path (collection first) of every tensor of `model`, except step counters.

    The published network is one `features` sequence: the stem at indices 0 to 3 (convolution, norm, ReLU, pooling),
    then the blocks, with a pooling layer before every stage but the first.
    """
    names = {}

    def weights(torch: str, *flax: str) -> None:
        names.update(layer_names(torch, flax, {"weight": ("params", "kernel"), "bias": ("params", "bias")}))

    def norm(torch: str, *flax: str) -> None:
        names.update(layer_names(torch, flax, NORM))

    def separable(torch: str, *flax: str) -> None:
        weights(f"{torch}.depthwise", *flax, "depthwise")
        weights(f"{torch}.pointwise", *flax, "pointwise")

    weights("features.0", "stem")
    norm("features.1", "stem_norm")
    position, index = 4, 0
    for number, stage in enumerate(model.stages):
        position += number > 0
        for _ in stage:
            torch, block = f"features.{position}", f"block{index}"
            for branch, (_, dilation) in enumerate(model.branches):
                separable(f"{torch}.branch{branch}.0", block, f"branch{branch}_reduce")
                norm(f"{torch}.branch{branch}.1", block, f"branch{branch}_reduce_norm")
                separable(f"{torch}.branch{branch}.3", block, f"branch{branch}_spatial")
                norm(f"{torch}.branch{branch}.4", block, f"branch{branch}_spatial_norm")
                if dilation:
                    dilated = separable if model.depthwise else weights
                    dilated(f"{torch}.branch{branch}.6", block, f"branch{branch}_dilated")
                    norm(f"{torch}.branch{branch}.7", block, f"branch{branch}_dilated_norm")
            separable(f"{torch}.conv_linear", block, "merge")
            separable(f"{torch}.shortcut", block, "shortcut")
            norm(f"{torch}.bn_shortcut", block, "shortcut_norm")
            position, index = position + 1, index + 1
    weights("attention_fc.0", "attention_hidden")
    weights("attention_fc.2", "attention_gate")
    weights("classifier", "head")
    return names


def lrf_cnn_fields(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the fields, including the number of classes, of the LRFCNN that a state dict belongs to.

    Fields that names and shapes do not determine have their published values: dilations and feature dropout.

    Args:
      tensors: PyTorch name -> array in PyTorch's layout.
    """
    matches = ((re.fullmatch(r"features\.(\d+)\.conv_linear\.pointwise\.weight", name), name) for name in tensors)
    channels = {int(match[1]): tensors[name].shape[0] for match, name in matches if match and tensors[name].ndim == 4}
    stages: list[list[int]] = []
    for position in sorted(channels):
        if position - 1 not in channels:  # that index is a pooling layer
            stages.append([])
        stages[-1].append(channels[position])
    return {
        "num_classes": len(tensors["classifier.weight"]),
        "stem_width": len(tensors["features.0.weight"]),
        "stages": tuple(map(tuple, stages)),
        "attention_width": len(tensors["attention_fc.0.weight"]),
        "depthwise": any(name.endswith(".branch1.6.depthwise.weight") for name in tensors),
    }


def to_flax_layout(tensor: np.ndarray) -> np.ndarray:
    """Transposes PyTorch's OIHW and (out, in) weights to Flax's HWIO and (in, out); vectors are unchanged."""
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T


def to_torch_layout(tensor: np.ndarray) -> np.ndarray:
    """The inverse of `to_flax_layout`."""
    if tensor.ndim == 4:
        return tensor.transpose(3, 2, 0, 1)
    return tensor.T


def to_flax(
    state_dict: Mapping[str, np.ndarray],
    names: Mapping[str, Path],
    layout: Callable[[str, np.ndarray], np.ndarray] = lambda name, tensor: to_flax_layout(tensor),
) -> dict:
    """Converts a PyTorch state dict to Flax variables {"params": ..., "batch_stats": ...}.

    Args:
      state_dict: PyTorch name -> array in PyTorch's layout.
      names: PyTorch name -> Flax path, as from `lrf_cnn_names`.
      layout: converts a tensor, given its PyTorch name, to Flax's layout.

    Raises:
      ValueError: a tensor is missing or unknown to the model.
    """
    present = {name for name in state_dict if name.rsplit(".", 1)[-1] != STEP_COUNTER}
    if present != set(names):
        missing, extra = sorted(set(names) - present), sorted(present - set(names))
        raise ValueError(f"the state dict does not fit the model: missing {missing[:3]}, not known {extra[:3]}")
    flat = {path: layout(name, np.asarray(state_dict[name])) for name, path in names.items()}
    return flax.traverse_util.unflatten_dict(flat)


def to_torch(
    variables: Mapping,
    names: Mapping[str, Path],
    layout: Callable[[str, np.ndarray], np.ndarray] = lambda name, tensor: to_torch_layout(tensor),
) -> dict[str, np.ndarray]:
    """Converts Flax variables to PyTorch name -> array in PyTorch's layout; the inverse of `to_flax`.

    Paths that `variables` lacks are left out, so trees of some collections only, such as gradients, convert too.

    Args:
      variables: tree of collections, or a tree of the same structure.
      names: PyTorch name -> Flax path.
      layout: converts a tensor, given its PyTorch name, to PyTorch's layout.
    """
    flat = flax.traverse_util.flatten_dict(variables)
    return {name: layout(name, np.asarray(flat[path])) for name, path in names.items() if path in flat}
