"""pmap, and the layouts of arrays over local devices; the only module that calls jax.pmap."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"

Tree = Any


def connect_devices() -> None:
    """Runs one collective over all devices, which connects them. All hosts must call it at the same time."""
    jax.pmap(lambda count: lax.psum(count, AXIS), AXIS)(np.ones(jax.local_device_count()))


def check_batch_size(name: str, size: int) -> None:
    """Raises ValueError unless the global batch `size` is a positive multiple of the number of devices.

    Args:
      name: of the config field, for the message.
      size: examples per global batch.
    """
    if size < 1 or size % jax.device_count():
        raise ValueError(f"{name}={size} must be a multiple of the {jax.device_count()} devices")


def device_bytes() -> int | None:
    """Returns the memory limit of one device in bytes; None where there is none, as on CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def device_memory() -> dict[str, int]:
    """Returns `bytes_in_use` and `peak_bytes_in_use` of the first local device; empty where they are not reported."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {name: int(stats[name]) for name in ("bytes_in_use", "peak_bytes_in_use") if name in stats}


def pmap_train_step(
    train_step: Callable[[Tree, Tree, Tree, Tree], tuple[Tree, Tree]], devices: Sequence[jax.Device] | None = None
) -> Callable:
    """Returns `dispatch(state, batches, constants, pixels) -> (state, metrics)`: several steps on all devices.

    `train_step(state, batch, constants, pixels)` is scanned over the leading axis of `batches`. Scans of different
    lengths agree to rounding only, so a run uses a single length.

    Args:
      train_step: one step as one device sees it.
      devices: other devices than those of this machine, to compile for.

    Args of the result:
      state: replicated; its buffers are donated.
      batches: [devices, steps, per_device, ...] as `shard_steps` lays them out.
      constants: broadcast to all devices.
      pixels: replicated resident images, or None. An argument, since a closure would make them part of the program.

    Returns of the result:
      the replicated state, and metrics of shape [steps], equal on all devices.
    """

    def many_steps(state: Tree, batches: Tree, constants: Tree, pixels: Tree) -> tuple[Tree, Tree]:
        return lax.scan(lambda state, batch: train_step(state, batch, constants, pixels), state, batches)

    return jax.pmap(
        many_steps, axis_name=AXIS, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=0,
        devices=devices,
    )  # fmt: skip


def pmap_eval_step(eval_step: Callable[[Tree, Tree, Tree, Tree], Tree]) -> Callable:
    """Returns `dispatch(variables, batch, constants, pixels) -> outputs`.

    Variables and pixels are replicated, batch and outputs are sharded.
    """
    return jax.pmap(eval_step, axis_name=AXIS, in_axes=(None, 0, None, None))


def jit_replicated(function: Callable[[Tree], Tree]) -> Callable[[Tree], Tree]:
    """Returns `function` compiled to turn a replicated tree into another; every device computes all of it."""
    return jax.jit(function, out_shardings=_sharding(PartitionSpec()))


def replicate(tree: Tree) -> Tree:
    """Copies a tree of arrays to all local devices, in the layout of the state that a pmapped step returns."""
    devices = jax.local_devices()
    sharding = _sharding(PartitionSpec())

    def copies(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        # One copy per device: on CPU device_put may alias the host array, which a donating step would overwrite.
        placed = [jax.device_put(array.copy(), device) for device in devices]
        return jax.make_array_from_single_device_arrays(array.shape, sharding, placed)

    return jax.tree.map(copies, tree)


def unreplicate(tree: Tree) -> Tree:
    """Returns the first local device's copy of a replicated tree, as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_shards[0].data), tree)


def _sharding(spec: PartitionSpec) -> NamedSharding:
    """Returns a sharding over this host's devices; a step of several hosts takes and returns such arrays."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), spec)


def shard(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[local batch, ...] -> [local devices, per device, ...]."""
    devices = jax.local_device_count()
    return {name: array.reshape(devices, -1, *array.shape[1:]) for name, array in batch.items()}


def shard_steps(batches: list[Mapping[str, np.ndarray]]) -> dict[str, jax.Array]:
    """Stacks local batches for `pmap_train_step` and adds `row`, the index of each example in the global batch.

    The arrays are copied to the devices while these compute, so that the next step finds them there.

    Returns:
      arrays of shape [local devices, steps, per device, ...].
    """
    devices = jax.local_device_count()
    local_size = len(batches[0]["label"])
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    first_row = jax.process_index() * local_size
    stacked["row"] = np.tile(np.arange(first_row, first_row + local_size, dtype=np.int32), (len(batches), 1))
    by_device = {
        name: array.reshape(len(batches), devices, local_size // devices, *array.shape[2:]).swapaxes(0, 1)
        for name, array in stacked.items()
    }
    return jax.device_put(by_device, _sharding(PartitionSpec(AXIS)))


def unshard(output: jax.Array) -> np.ndarray:
    """[local devices, per device, ...] -> [local batch, ...] as a NumPy array."""
    output = np.asarray(output)
    return output.reshape(-1, *output.shape[2:])
