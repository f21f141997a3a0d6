"""Devices and hosts: the only file that says pmap, and the only one that knows how hosts find and tell one another.

A host is a process with devices of its own; all of them run the same program. What lies on disk is host 0's.
"""

import collections
import importlib.util
import logging
import os
import pickle
import socket
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dim_jax import command_line

AXIS = "batch"
# Where no scheduler says it: address of host 0 with a port, number of hosts, and number of this one.
ADDRESS, NUM_HOSTS, HOST = SETTINGS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
PATIENCE = 300.0  # s
_TPU_HOSTS = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
_CHUNK = 2**26  # bytes

Tree = Any
Value = TypeVar("Value")

log = logging.getLogger(__name__)


def start() -> None:
    """Joins the hosts of a job, where the environment says that there are several; nothing happens where it does not.

    They are told by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID together; by SLURM, inside srun; or
    by a TPU pod. Must come before anything else is asked of JAX. From here on the others tell only warnings and errors.

    Raises:
      ValueError: only some of the three are set, or they make no sense; host 0 cannot be reached, or hosts have unequal
        numbers of devices.
    """
    if jax.distributed.is_initialized():
        return
    given = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    if given:
        num_hosts, arguments = _explicit(given)
    elif num_hosts := _slurm_tasks():
        # JAX gives every task one device; a node's only task is to have all of them.
        is_alone = os.environ.get("SLURM_STEP_NUM_NODES") == str(num_hosts)
        arguments = {"local_device_ids": []} if is_alone else {}
    else:
        num_hosts, arguments = _tpu_hosts(), {}
    if num_hosts < 2:
        return
    log.info("waiting up to %.0f s for all %d hosts", PATIENCE, num_hosts)
    try:
        jax.distributed.initialize(initialization_timeout=int(PATIENCE), **arguments)
    except RuntimeError as error:
        raise ValueError(f"the {num_hosts} hosts of this job cannot be joined ({error})") from error
    if not is_first_host():
        command_line.only_warn()
    # Every host sees the devices of all: nothing need be sent.
    counts = list(collections.Counter(device.process_index for device in jax.devices()).values())
    if len(set(counts)) > 1:
        raise ValueError(f"the hosts have {counts} devices; give each as many as the others")
    # Connects all devices while the hosts are abreast: gloo waits only 30 s for the last of them at their first sum,
    # which would otherwise follow on a compilation.
    jax.pmap(lambda count: lax.psum(count, AXIS), AXIS)(np.ones(counts[0]))


def _explicit(given: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Returns the number of hosts and the arguments of jax.distributed.initialize that three settings stand for."""
    missing = [name for name in SETTINGS if name not in given]
    if missing:
        raise ValueError(f"{', '.join(given)} is set and {', '.join(missing)} is not; set all of them or none")
    address, num_hosts, host = (given[name] for name in SETTINGS)
    if not (num_hosts.isdigit() and host.isdigit() and int(host) < int(num_hosts)):
        raise ValueError(f"{NUM_HOSTS}={num_hosts} and {HOST}={host}: the second must be from 0 to one below the first")
    name, _, port = address.rpartition(":")
    if not name or not port.isdigit():
        raise ValueError(f"{ADDRESS}={address} must be host 0's name and a free port, for example node1:12345")
    if int(host) and int(num_hosts) > 1:
        _wait_for(name, int(port))
    ids = {"coordinator_address": address, "num_processes": int(num_hosts), "process_id": int(host)}
    return int(num_hosts), ids | {"cluster_detection_method": "deactivate"}


def _wait_for(name: str, port: int) -> None:
    """Waits until host 0 listens. JAX would try as long, and then end the process with a page of its own internals."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((name.strip("[]"), port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{ADDRESS}={name}:{port} cannot be reached within {PATIENCE:.0f} s ({error}); start host 0 there, "
                    "or open the port"
                ) from None
            time.sleep(0.5)


def _slurm_tasks() -> int:
    """Returns the number of tasks of this job step, 0 outside of one."""
    # Only srun sets it: a batch script by itself is one process, however many tasks its job may have.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 0))


def _tpu_hosts() -> int:
    """Returns the number of hosts of the TPU slice that this process is part of, 0 where there is none."""
    listed = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    has_tpu = importlib.util.find_spec("libtpu") and any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0")))
    if not listed and has_tpu and not os.environ.get("TPU_SKIP_MDS_QUERY"):
        request = urllib.request.Request(_TPU_HOSTS, headers={"Metadata-Flavor": "Google"})
        try:
            listed = urllib.request.urlopen(request, timeout=10).read().decode()
        except OSError:
            return 0
    return len(listed.split(",")) * int(os.environ.get("MEGASCALE_NUM_SLICES") or 1) if listed else 0


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
