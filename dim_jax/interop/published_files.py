"""What a weight file of the published code holds: networks, moving averages and the states of optimizers.

Parts are known by what they are, not by what they are called in the file: a dict of tensors is a network, which its
names tell, a dict of `state` and `param_groups` an optimizer, a list of tensors a moving average in parameter order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.weights import safetensor_files, torch_files
from dim_jax.weights.torch_names import STEP_COUNTER

CLASSIFIER, GENERATOR, DISCRIMINATOR = "classifier", "generator", "discriminator"
# Tensors that tell which network a state dict is of.
MARKS = {
    CLASSIFIER: ("features.0.weight", "attention_fc.0.weight", "classifier.weight"),
    GENERATOR: ("init.init.0.weight_orig", "to_big.weight_orig"),
    DISCRIMINATOR: ("down_from_big.0.weight_orig", "rf_small.weight_orig"),
}
# As the two networks of a GAN are called in a file.
KEYS = {GENERATOR: "g", DISCRIMINATOR: "d"}
WRAPPER = "module."  # before every name where the network was trained on several GPUs
PARAMETERS = ("weight", "bias", "weight_orig")
MOMENTS = {"adam": {"exp_avg": "mu", "exp_avg_sq": "nu"}, "rmsprop": {"square_avg": "nu"}}

StateDict = dict[str, np.ndarray]


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's state by name.

    Attributes:
      name: "adam" or "rmsprop".
      step: updates done.
      moments: as optax calls them, "mu" and "nu" or the latter alone -> PyTorch name of the parameter -> values.
    """

    name: str
    step: int
    moments: dict[str, StateDict]


@dataclass(frozen=True)
class PublishedNetwork:
    """A network in PyTorch's names and layout, float32, without step counters.

    Attributes:
      tensors: name -> array, in the order of the file.
      step: how often its batch norms were updated.
      optimizer: None where the file holds none.
    """

    tensors: StateDict
    step: int
    optimizer: OptimizerState | None = None


@dataclass(frozen=True)
class PublishedCheckpoint:
    """The networks of a file by CLASSIFIER, GENERATOR or DISCRIMINATOR, and the generator's averaged parameters."""

    networks: dict[str, PublishedNetwork]
    average: StateDict = field(default_factory=dict)


def read(path: str | Path) -> PublishedCheckpoint:
    """Reads a .pth or .safetensors file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read or is not trusted, holds none of the published networks, weights that are not
        finite, or the state of an optimizer that fits no network.
    """
    content: Any
    if Path(path).suffix == ".safetensors":
        content = safetensor_files.read(path)
        pair = {key: _below(f"{key}.", content) for key in KEYS.values()}
        content = pair if sum(map(len, pair.values())) == len(content) else content
    else:
        content = torch_files.read(path)
    dicts = [content, *content.values()] if isinstance(content, dict) else []
    networks, optimizers = {}, []
    for part in dicts:
        if _is_optimizer(part):
            optimizers.append(part)
        elif _is_state_dict(part):
            tensors = _unwrapped(part)
            for kind in (kind for kind, marks in MARKS.items() if _has(tensors, marks)):
                if kind in networks:
                    raise ValueError(f"{path} holds two networks of the same kind ({kind}); keep one in the file")
                networks[kind] = _network(path, tensors)
    if not networks:
        names = [name for part in dicts if _is_state_dict(part) for name in part]
        found = f"its tensors begin with {', '.join(names[:3])}" if names else "it holds no tensors by name"
        raise ValueError(f"{path} holds neither LRF-CNN nor GCGAN ({found}); give a checkpoint of the published code")
    for state in optimizers:
        owner = next((kind for kind, network in networks.items() if _fits(state, network.tensors)), None)
        if owner is None:
            raise ValueError(f"{path} holds the state of an optimizer that fits no network in it; save it again")
        found = _optimizer_state(path, state, networks[owner].tensors)
        networks[owner] = PublishedNetwork(networks[owner].tensors, networks[owner].step, found)
    return PublishedCheckpoint(networks, _average(path, content, networks))


def parameters(tensors: Mapping[str, np.ndarray]) -> StateDict:
    """Returns the tensors that are learned, in order; the others are running statistics and singular vectors."""
    return {name: tensor for name, tensor in tensors.items() if name.rsplit(".", 1)[-1] in PARAMETERS}


def with_counters(tensors: Mapping[str, np.ndarray], step: int) -> StateDict:
    """Returns a state dict with the step counter that PyTorch keeps in every batch norm."""
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


def _has(tensors: StateDict, marks: Sequence[str]) -> bool:
    """Whether all of `marks` are weights of layers, with an axis of inputs and one of outputs."""
    return all(mark in tensors and tensors[mark].ndim >= 2 for mark in marks)


def _is_optimizer(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("state"), dict) and isinstance(part.get("param_groups"), list)


def _below(prefix: str, tensors: Mapping[str, np.ndarray]) -> StateDict:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _unwrapped(tensors: StateDict) -> StateDict:
    return _below(WRAPPER, tensors) if all(name.startswith(WRAPPER) for name in tensors) else tensors


def _network(path: str | Path, tensors: StateDict) -> PublishedNetwork:
    counters = [int(value) for name, value in tensors.items() if name.endswith(STEP_COUNTER) and value.size == 1]
    kept = {name: value for name, value in tensors.items() if not name.endswith(STEP_COUNTER)}
    return PublishedNetwork(_finite(path, kept), max(counters, default=0))


def _finite(path: str | Path, tensors: Mapping[str, np.ndarray]) -> StateDict:
    """Returns the tensors as float32, in memory of their own.

    Raises:
      ValueError: one holds no real numbers, or some that are not finite.
    """
    result = {}
    for name, tensor in tensors.items():
        if tensor.dtype.kind in "bcUSO":
            raise ValueError(f"{path}: {name} holds {tensor.dtype} and no weights; save the state dict again")
        result[name] = np.array(tensor, np.float32, order="C")
        bad = np.count_nonzero(~np.isfinite(result[name]))
        if bad:
            raise ValueError(
                f"{path}: {name} holds {bad} numbers that are not finite: its training had diverged; give an earlier "
                "checkpoint"
            )
    return result


def _order(state: Mapping[str, Any]) -> list[Any]:
    """Returns the keys of an optimizer's parameters, in the order of the network's."""
    return [key for group in state["param_groups"] if isinstance(group, dict) for key in group.get("params", ())]


def _fits(state: Mapping[str, Any], tensors: StateDict) -> bool:
    """Whether an optimizer's state is of these parameters, by number and shapes."""
    shapes = [tensor.shape for tensor in parameters(tensors).values()]
    order = _order(state)
    return len(order) == len(shapes) and all(
        value.shape == shape
        for key, shape in zip(order, shapes, strict=True)
        for name, value in state["state"].get(key, {}).items()
        if isinstance(value, np.ndarray) and name != "step"
    )


def _optimizer_state(path: str | Path, state: Mapping[str, Any], tensors: StateDict) -> OptimizerState | None:
    """Returns an optimizer's state by the names of the parameters; None where it has done no step yet."""
    entries = [state["state"].get(key, {}) for key in _order(state)]
    known = {key for entry in entries for key, value in entry.items() if value is not None} - {"step"}
    if not known:
        return None
    name = next((name for name, moments in MOMENTS.items() if set(moments) == known), None)
    if name is None:
        raise ValueError(
            f"{path}: the optimizer's state holds {', '.join(sorted(map(str, known)))}; only plain Adam and RMSprop go "
            "over (save the model's state dict alone to start a new optimizer)"
        )
    learned = parameters(tensors)
    moments = {
        ours: _finite(path, {
            parameter: entry.get(theirs, np.zeros_like(tensor))
            for (parameter, tensor), entry in zip(learned.items(), entries, strict=True)
        })
        for theirs, ours in MOMENTS[name].items()
    }  # fmt: skip
    return OptimizerState(name, max(int(entry.get("step", 0)) for entry in entries), moments)


def _average(path: str | Path, content: Any, networks: Mapping[str, PublishedNetwork]) -> StateDict:
    """Returns the moving average of the generator's parameters; empty where the file holds none."""
    parts = content.values() if isinstance(content, dict) else ()
    lists: list[Sequence[Any]] = [
        part for part in parts
        if isinstance(part, list | tuple) and part and all(isinstance(value, np.ndarray) for value in part)
    ]  # fmt: skip
    if not lists:
        return {}
    learned = parameters(networks[GENERATOR].tensors) if GENERATOR in networks else {}
    shapes = [tensor.shape for tensor in learned.values()]
    if len(lists) > 1 or [value.shape for value in lists[0]] != shapes:
        raise ValueError(f"{path} holds a list of tensors that is no moving average of its generator; save it again")
    return _finite(path, dict(zip(learned, lists[0], strict=True)))
