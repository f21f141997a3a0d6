"""Devices and hosts: the only file that says pmap, and the only one that knows how hosts tell one another things.

A host is a process with devices of its own; all of them run the same program. What lies on disk is host 0's.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
_CHUNK = 2**26  # bytes

Tree = Any
Value = TypeVar("Value")


def connect_devices() -> None:
    """Has all devices send one another a number; all hosts must ask at the same time."""
    jax.pmap(lambda count: lax.psum(count, AXIS), AXIS)(np.ones(jax.local_device_count()))


def check_batch_size(name: str, size: int) -> None:
    """Raises ValueError unless a global batch of `size` divides evenly among all devices."""
    if size < 1 or size % jax.device_count():
        raise ValueError(f"{name}={size} must be a multiple of the {jax.device_count()} devices")


def device_bytes() -> int | None:
    """Returns the memory of one device in bytes; None where it is not limited by itself, as on CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def device_memory() -> dict[str, int]:
    """Returns `bytes_in_use` and `peak_bytes_in_use` of this host's first device, or nothing where it does not tell."""
    told = jax.local_devices()[0].memory_stats() or {}
    return {name: int(told[name]) for name in ("bytes_in_use", "peak_bytes_in_use") if name in told}


def any_host(value: bool) -> bool:
    """Whether `value` is true on any host; all of them must ask at the same time."""
    if is_only_host():
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).any())


def pmap_train_step(train_step: Callable[[Tree, Tree, Tree, Tree], tuple[Tree, Tree]]) -> Callable:
    """Returns `dispatch(state, batches, constants, pixels) -> (state, metrics)`: several steps on all devices.

    `train_step(state, batch, constants, pixels)` is scanned over the leading axis of `batches`, so that one dispatch
    does many steps. A scan of any length gives the same numbers to rounding; a run keeps to one length.

    Args of the result:
      state: replicated; its memory is reused.
      batches: [devices, steps, per_device, ...] as `shard_steps` lays them out.
      constants: one copy, the same for all devices.
      pixels: replicated resident images, or None. An argument: what a step closed over would be part of its program.

    Returns of the result:
      the replicated state, and metrics of shape [devices, steps], equal on all devices.
    """

    def many_steps(state: Tree, batches: Tree, constants: Tree, pixels: Tree) -> tuple[Tree, Tree]:
        return lax.scan(lambda state, batch: train_step(state, batch, constants, pixels), state, batches)

    return jax.pmap(many_steps, axis_name=AXIS, in_axes=(0, 0, None, 0), donate_argnums=0)


def pmap_eval_step(eval_step: Callable[[Tree, Tree, Tree, Tree], Tree]) -> Callable:
    """Returns `dispatch(variables, batch, constants, pixels) -> outputs`.

    Variables and pixels are replicated, batch and outputs are sharded.
    """
    return jax.pmap(eval_step, axis_name=AXIS, in_axes=(0, 0, None, 0))


def pmap_once(function: Callable[[Tree], Tree]) -> Callable[[Tree], Tree]:
    """Returns `function` compiled to run on every device's own copy of a replicated tree."""
    return jax.pmap(function, axis_name=AXIS)


def replicate(tree: Tree) -> Tree:
    """Copies a tree of arrays to all local devices, laid out as the outputs of a pmapped step are.

    Another layout, as `flax.jax_utils.replicate` gives it, would compile the step a second time at its second call.
    """
    devices = jax.local_devices()
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))

    def copies(leaf: Any) -> jax.Array:
        one = np.asarray(leaf)[np.newaxis]
        # Each its own memory: on CPU a device may take over the array it is given, and a step may reuse it.
        placed = [jax.device_put(one.copy(), device) for device in devices]
        return jax.make_array_from_single_device_arrays((len(devices), *one.shape[1:]), sharding, placed)

    return jax.tree.map(copies, tree)


def unreplicate(tree: Tree) -> Tree:
    """Returns the first device's copy of a replicated tree, as NumPy arrays."""
    # Indexing a pmapped array starts a computation over all devices; a shard is just read.
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data).reshape(leaf.shape[1:]), tree)


def shard(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[local batch, ...] -> [local devices, per device, ...]."""
    devices = jax.local_device_count()
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in batch.items()}


def shard_steps(batches: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Lays several local batches out for `pmap_train_step`, and adds `row`: each example's place in the global batch.

    Returns:
      arrays of shape [local devices, steps, per device, ...].
    """
    devices = jax.local_device_count()
    local_size = len(batches[0]["label"])
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    first_row = jax.process_index() * local_size
    stacked["row"] = np.tile(np.arange(first_row, first_row + local_size, dtype=np.int32), (len(batches), 1))
    return {
        name: array.reshape(len(batches), devices, local_size // devices, *array.shape[2:]).swapaxes(0, 1)
        for name, array in stacked.items()
    }


def unshard(output: jax.Array) -> np.ndarray:
    """[local devices, per device, ...] -> [local batch, ...] on the host."""
    output = np.asarray(output)
    return output.reshape(-1, *output.shape[2:])


def is_only_host() -> bool:
    """Whether there is no other process to wait for."""
    # Asked first, since counting processes starts the devices.
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def is_first_host() -> bool:
    """Whether this process is the one that writes metrics, checkpoints and reports."""
    return is_only_host() or jax.process_index() == 0


def on_first_host(function: Callable[[], Value]) -> Value:
    """Returns on every host what `function()` returns on host 0; the others wait. What it raises, all raise.

    Args:
      function: its result can be pickled; only host 0 calls it.
    """
    if is_only_host():
        return function()
    value, error = _outcome(function) if is_first_host() else (None, None)
    told = _broadcast(pickle.dumps((value, _plain(error))) if is_first_host() else None)
    if not is_first_host():
        value, error = pickle.loads(told)
    if error is not None:
        raise error
    return value


def on_all_hosts(function: Callable[[], Value]) -> Value:
    """Returns what `function()` returns here. If it raises on any host, all raise, so that none waits for another."""
    if is_only_host():
        return function()
    value, error = _outcome(function)
    failed = multihost_utils.process_allgather(np.int32(error is not None))
    if failed.any():
        source = int(failed.argmax())
        told = pickle.loads(_broadcast(pickle.dumps(_plain(error)) if jax.process_index() == source else None, source))
        raise type(told)(f"host {source}: {told}") from error
    return value


def from_all_hosts(value: Value) -> list[Value]:
    """Returns the values of all hosts in their order; they can be pickled."""
    if is_only_host():
        return [value]
    content, this = pickle.dumps(value), jax.process_index()
    return [pickle.loads(_broadcast(content if host == this else None, host)) for host in range(jax.process_count())]


def share_of_host(items: Sequence[Value]) -> Sequence[Value]:
    """Returns the items that are for this host: each is for one, and host 0 gets the first."""
    return items if is_only_host() else items[jax.process_index() :: jax.process_count()]


def gather_batches(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Puts the parts of global batches together in the order of their rows: [local batch, ...] each -> [N, ...].

    All hosts give as many parts, of equal shapes, and get the whole.
    """
    parts = np.stack(parts)
    if not is_only_host():
        # [hosts, batches, local batch, ...]: the rows of a batch lie host after host.
        parts = multihost_utils.process_allgather(parts).swapaxes(0, 1)
        parts = parts.reshape(len(parts), -1, *parts.shape[3:])
    return parts.reshape(-1, *parts.shape[2:])


def _outcome(function: Callable[[], Value]) -> tuple[Value | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error


def _plain(error: Exception | None) -> Exception | None:
    """Returns an error that other hosts can be told: of the same kind, without what it may hold on to."""
    if error is None:
        return None
    for kind in (ArithmeticError, OSError, ValueError):
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def _broadcast(content: bytes | None, source: int = 0) -> bytes:
    """Sends bytes from the host `source` to all; the others give None. At most 4 GiB."""
    is_source = jax.process_index() == source
    size = int(multihost_utils.broadcast_one_to_all(np.uint32(len(content or b"")), is_source))
    # Few sizes, so that few programs are compiled; and in pieces, since every device holds what is sent.
    length = min(max(1 << (size - 1).bit_length(), 1024), _CHUNK)
    pieces = []
    for first in range(0, size, length):
        piece = np.zeros(length, np.uint8)
        if is_source:
            part = content[first : first + length]
            piece[: len(part)] = np.frombuffer(part, np.uint8)
        pieces.append(multihost_utils.broadcast_one_to_all(piece, is_source).tobytes())
    return b"".join(pieces)[:size]
