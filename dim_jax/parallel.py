"""Devices and hosts: the only file that says pmap."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"

Tree = Any


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk for the next start, in JAX_COMPILATION_CACHE_DIR or ~/.cache/dim_jax/xla."""
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "dim_jax" / "xla"))


def forget_programs() -> None:
    """Lets go of compiled programs; each holds tens of memory maps, of which a process may have 65,530."""
    jax.clear_caches()


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
    from jax.experimental import multihost_utils

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


def draw_on_cpu(init: Callable[[jax.Array], Tree], seed: int) -> Tree:
    """Returns `init(key)` as NumPy arrays, compiled for the CPU: what is drawn does not depend on the accelerator."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        # Keys of this kind compile in a third of the time of the default ones; only the layers' names are folded in.
        return jax.device_get(jax.jit(init)(jax.random.key(seed, impl="unsafe_rbg")))


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
    return jax.process_count() == 1


def is_first_host() -> bool:
    """Whether this process is the one that writes metrics, checkpoints and reports."""
    return jax.process_index() == 0
