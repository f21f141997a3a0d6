"""Reader of the published code's checkpoints: networks, moving averages and optimizer states.

The parts of a checkpoint are recognised by structure, not by their keys: a dict of tensors is a network, identified by
its tensor names; a dict of `state` and `param_groups` an optimizer; a list of tensors a moving average in parameter
order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.weights import safetensor_files, torch_files
from dim_jax.weights.torch_names import STEP_COUNTER

CLASSIFIER, GENERATOR, DISCRIMINATOR = "classifier", "generator", "discriminator"
# Tensors that identify the network of a state dict.
MARKS = {
    CLASSIFIER: ("features.0.weight", "attention_fc.0.weight", "classifier.weight"),
    GENERATOR: ("init.init.0.weight_orig", "to_big.weight_orig"),
    DISCRIMINATOR: ("down_from_big.0.weight_orig", "rf_small.weight_orig"),
}
# Keys of the two networks of a GAN in a checkpoint.
KEYS = {GENERATOR: "g", DISCRIMINATOR: "d"}
WRAPPER = "module."  # prefix of every name after training on several GPUs
PARAMETERS = ("weight", "bias", "weight_orig")
MOMENTS = {"adam": {"exp_avg": "mu", "exp_avg_sq": "nu"}, "rmsprop": {"square_avg": "nu"}}

StateDict = dict[str, np.ndarray]


@dataclass(frozen=True)
class OptimizerState:
    """State of an optimizer, by parameter name.

    Attributes:
      name: "adam" or "rmsprop".
      step: number of updates done.
      moments: name of the moment in optax ("mu" and "nu", or "nu" only) -> PyTorch name of the parameter -> values.
    """

    name: str
    step: int
    moments: dict[str, StateDict]


@dataclass(frozen=True)
class PublishedNetwork:
    """A network with PyTorch's names and layout, float32, without step counters.

    Attributes:
      tensors: name -> array, in the order of the file.
      step: number of updates of its batch norms.
      optimizer: state of its optimizer, None if the file has none.
    """

    tensors: StateDict
    step: int
    optimizer: OptimizerState | None = None


@dataclass(frozen=True)
class PublishedCheckpoint:
    """Contents of a checkpoint.

    Attributes:
      networks: by CLASSIFIER, GENERATOR or DISCRIMINATOR.
      average: moving average of the generator's parameters by PyTorch name; empty if the file has none.
    """

    networks: dict[str, PublishedNetwork]
    average: StateDict = field(default_factory=dict)


def read(path: str | Path) -> PublishedCheckpoint:
    """Reads a .pth or .safetensors file.

    Args:
      path: the file; nothing in it is executed (torch_files).

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it cannot be read or is refused, has none of the published networks, weights that are not finite, or
        an optimizer state that fits no network.
    """
    root: Any
    if Path(path).suffix == ".safetensors":
        root = safetensor_files.read(path)
        pair = {key: _with_prefix(f"{key}.", root) for key in KEYS.values()}
        root = pair if sum(map(len, pair.values())) == len(root) else root
    else:
        root = torch_files.read(path)
    dicts = [root, *root.values()] if isinstance(root, dict) else []
    networks, optimizers = {}, []
    for part in dicts:
        if _is_optimizer(part):
            optimizers.append(part)
        elif _is_state_dict(part):
            tensors = _unwrapped(part)
            for kind in (kind for kind, names in MARKS.items() if _has_weights(tensors, names)):
                if kind in networks:
                    raise ValueError(f"{path} holds two networks of the same kind ({kind}); keep one in the file")
                networks[kind] = _network(path, tensors)
    if not networks:
        names = [name for part in dicts if _is_state_dict(part) for name in part]
        description = f"its tensors begin with {', '.join(names[:3])}" if names else "it holds no tensors by name"
        raise ValueError(
            f"{path} holds neither LRF-CNN nor GCGAN ({description}); give a checkpoint of the published code"
        )
    for state in optimizers:
        owner = next((kind for kind, network in networks.items() if _fits(state, network.tensors)), None)
        if owner is None:
            raise ValueError(f"{path} holds the state of an optimizer that fits no network in it; save it again")
        network = networks[owner]
        optimizer = _optimizer_state(path, state, network.tensors)
        networks[owner] = PublishedNetwork(network.tensors, network.step, optimizer)
    return PublishedCheckpoint(networks, _average(path, root, networks))


def parameters(tensors: Mapping[str, np.ndarray]) -> StateDict:
    """Returns the trainable parameters among the tensors, in order, without running statistics and singular vectors."""
    return {name: tensor for name, tensor in tensors.items() if name.rsplit(".", 1)[-1] in PARAMETERS}


def with_counters(tensors: Mapping[str, np.ndarray], step: int) -> StateDict:
    """Returns a state dict with the step counter of every batch norm added, as PyTorch saves it.

    Args:
      tensors: PyTorch name -> array.
      step: value of the counters.
    """
    result: StateDict = {}
    for name, tensor in tensors.items():
        result[name] = np.asarray(tensor)
        if name.endswith(".running_var"):
            result[f"{name.rsplit('.', 1)[0]}.{STEP_COUNTER}"] = np.asarray(step, np.int64)
    return result


def _is_state_dict(part: Any) -> bool:
    return isinstance(part, dict) and bool(part) and all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in part.items()
    )  # fmt: skip


def _has_weights(tensors: StateDict, names: Sequence[str]) -> bool:
    """Whether all of `names` are weights of layers, with at least an input and an output axis."""
    return all(name in tensors and tensors[name].ndim >= 2 for name in names)


def _is_optimizer(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("state"), dict) and isinstance(part.get("param_groups"), list)


def _with_prefix(prefix: str, tensors: Mapping[str, np.ndarray]) -> StateDict:
    """Returns the tensors whose names begin with `prefix`, which is removed."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _unwrapped(tensors: StateDict) -> StateDict:
    return _with_prefix(WRAPPER, tensors) if all(name.startswith(WRAPPER) for name in tensors) else tensors


def _network(path: str | Path, tensors: StateDict) -> PublishedNetwork:
    counters = [int(value) for name, value in tensors.items() if name.endswith(STEP_COUNTER) and value.size == 1]
    others = {name: value for name, value in tensors.items() if not name.endswith(STEP_COUNTER)}
    return PublishedNetwork(_finite(path, others), max(counters, default=0))


def _finite(path: str | Path, tensors: Mapping[str, np.ndarray]) -> StateDict:
    """Returns float32 copies of the tensors.

    Raises:
      ValueError: a tensor is not of real numbers, or not finite.
    """
    result = {}
    for name, tensor in tensors.items():
        if tensor.dtype.kind in "bcUSO":
            raise ValueError(f"{path}: {name} is of type {tensor.dtype}, not weights; save the state dict again")
        result[name] = np.array(tensor, np.float32, order="C")
        num_bad = np.count_nonzero(~np.isfinite(result[name]))
        if num_bad:
            raise ValueError(
                f"{path}: {name} holds {num_bad} numbers that are not finite: training had diverged; give an earlier "
                "checkpoint"
            )
    return result


def _order(state: Mapping[str, Any]) -> list[Any]:
    """Returns the keys of an optimizer's parameters, in the order of the network's parameters."""
    return [key for group in state["param_groups"] if isinstance(group, dict) for key in group.get("params", ())]


def _fits(state: Mapping[str, Any], tensors: StateDict) -> bool:
    """Whether an optimizer's state belongs to these parameters, by their number and shapes."""
    shapes = [tensor.shape for tensor in parameters(tensors).values()]
    order = _order(state)
    return len(order) == len(shapes) and all(
        value.shape == shape
        for key, shape in zip(order, shapes, strict=True)
        for name, value in state["state"].get(key, {}).items()
        if isinstance(value, np.ndarray) and name != "step"
    )


def _optimizer_state(path: str | Path, state: Mapping[str, Any], tensors: StateDict) -> OptimizerState | None:
    """Returns an optimizer's state by parameter name; None before its first step.

    Raises:
      ValueError: the optimizer is neither Adam nor RMSprop, or a moment is not finite.
    """
    entries = [state["state"].get(key, {}) for key in _order(state)]
    keys = {key for entry in entries for key, value in entry.items() if value is not None} - {"step"}
    if not keys:
        return None
    name = next((name for name, moments in MOMENTS.items() if set(moments) == keys), None)
    if name is None:
        raise ValueError(
            f"{path}: the optimizer's state holds {', '.join(sorted(map(str, keys)))}; only plain Adam and RMSprop can "
            "be imported (save the model's state dict alone to start a new optimizer)"
        )
    params = parameters(tensors)
    moments = {
        optax_name: _finite(path, {
            parameter: entry.get(torch_name, np.zeros_like(tensor))
            for (parameter, tensor), entry in zip(params.items(), entries, strict=True)
        })
        for torch_name, optax_name in MOMENTS[name].items()
    }  # fmt: skip
    return OptimizerState(name, max(int(entry.get("step", 0)) for entry in entries), moments)


def _average(path: str | Path, root: Any, networks: Mapping[str, PublishedNetwork]) -> StateDict:
    """Returns the moving average of the generator's parameters by name; empty if the file has none."""
    parts = root.values() if isinstance(root, dict) else ()
    lists: list[Sequence[Any]] = [
        part for part in parts
        if isinstance(part, list | tuple) and part and all(isinstance(value, np.ndarray) for value in part)
    ]  # fmt: skip
    if not lists:
        return {}
    params = parameters(networks[GENERATOR].tensors) if GENERATOR in networks else {}
    shapes = [tensor.shape for tensor in params.values()]
    if len(lists) > 1 or [value.shape for value in lists[0]] != shapes:
        raise ValueError(f"{path} holds a list of tensors that is no moving average of its generator; save it again")
    return _finite(path, dict(zip(params, lists[0], strict=True)))
