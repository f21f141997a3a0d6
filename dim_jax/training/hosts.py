"""Multi-host jobs: initialization of jax.distributed, and collectives between hosts.

A host is a JAX process with its own devices; all hosts run the same program. Host 0 owns the files on disk.
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
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dim_jax.cli import command_line
from dim_jax.cli.errors import Diverged, is_reported
from dim_jax.training import parallel

# Environment variables of a job without a scheduler: address and port of host 0, number of hosts, index of this host.
ADDRESS, NUM_HOSTS, HOST = SETTINGS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
PATIENCE = 300.0  # s
_TPU_HOSTS = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"
_CHUNK = 2**26  # bytes

Value = TypeVar("Value")

log = logging.getLogger(__name__)


def join() -> None:
    """Joins the hosts of a job if the environment names several; does nothing otherwise.

    The hosts are named by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID together, by SLURM inside srun,
    or by a TPU pod. Must be called before any other use of JAX. Afterwards only host 0 logs below warnings.

    Raises:
      ValueError: only some of the three variables are set, or their values are invalid; host 0 cannot be reached, or
        the hosts have unequal numbers of devices.
    """
    if jax.distributed.is_initialized():
        return
    settings = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    if settings:
        num_hosts, arguments = _explicit(settings)
    elif num_hosts := _slurm_tasks():
        # JAX assigns one device to every task; the only task of a node must get all of them.
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
        command_line.log_warnings_only()
    # Every host lists the devices of all hosts, so no message is needed.
    counts = list(collections.Counter(device.process_index for device in jax.devices()).values())
    if len(set(counts)) > 1:
        raise ValueError(f"the hosts have {counts} devices; give each as many as the others")
    # Connects all devices while the hosts are in step: gloo waits only 30 s for the last host at the first collective,
    # which would otherwise come after a compilation of unknown length.
    parallel.connect_devices()


def is_only_host() -> bool:
    """Whether this is the only process of the job."""
    # is_initialized comes first because process_count initializes the devices.
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def is_first_host() -> bool:
    """Whether this is host 0, which writes metrics, checkpoints and reports."""
    return is_only_host() or jax.process_index() == 0


def on_first_host(function: Callable[[], Value]) -> Value:
    """Calls `function` on host 0 and returns its result, or raises its error, on every host.

    Args:
      function: called on host 0 only; its result must be picklable.
    """
    if is_only_host():
        return function()
    value, error = _outcome(function) if is_first_host() else (None, None)
    message = _broadcast(pickle.dumps((value, _plain(error))) if is_first_host() else None)
    if not is_first_host():
        value, error = pickle.loads(message)
    if error is not None:
        raise error
    return value


def on_all_hosts(function: Callable[[], Value]) -> Value:
    """Calls `function` on every host and returns this host's result. An error on any host is raised on all of them."""
    if is_only_host():
        return function()
    value, error = _outcome(function)
    failed = multihost_utils.process_allgather(np.int32(error is not None))
    if failed.any():
        source = int(failed.argmax())
        message = _broadcast(pickle.dumps(_plain(error)) if jax.process_index() == source else None, source)
        raised = pickle.loads(message)
        raise type(raised)(f"host {source}: {raised}") from error
    return value


def from_all_hosts(value: Value) -> list[Value]:
    """Returns the values of all hosts, in host order; they must be picklable."""
    if is_only_host():
        return [value]
    message, this = pickle.dumps(value), jax.process_index()
    return [pickle.loads(_broadcast(message if host == this else None, host)) for host in range(jax.process_count())]


def share_of_host(items: Sequence[Value]) -> Sequence[Value]:
    """Returns this host's share of `items`: every process_count-th item, from process_index on."""
    return items if is_only_host() else items[jax.process_index() :: jax.process_count()]


def gather_batches(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates the local parts of global batches in the order of their rows: [local batch, ...] each -> [N, ...].

    All hosts pass equally many parts of equal shapes, and all get the whole array.
    """
    parts = np.stack(parts)
    if not is_only_host():
        # [hosts, batches, local batch, ...]: the rows of a batch are ordered by host.
        parts = multihost_utils.process_allgather(parts).swapaxes(0, 1)
        parts = parts.reshape(len(parts), -1, *parts.shape[3:])
    return parts.reshape(-1, *parts.shape[2:])


def any_host(value: bool) -> bool:
    """Whether `value` is true on any host. A collective: all hosts must call it at the same time."""
    if is_only_host():
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).any())


def _explicit(settings: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Returns the number of hosts and the arguments of jax.distributed.initialize from the three variables."""
    missing = [name for name in SETTINGS if name not in settings]
    if missing:
        raise ValueError(f"{', '.join(settings)} is set and {', '.join(missing)} is not; set all of them or none")
    address, num_hosts, host = (settings[name] for name in SETTINGS)
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
    """Waits until host 0 listens. JAX itself would abort the process with a long internal error instead."""
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
    """Returns the number of tasks of this SLURM job step, 0 outside of one."""
    # Set by srun only: a batch script is one process, whatever the number of tasks of its job.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 0))


def _tpu_hosts() -> int:
    """Returns the number of hosts of the TPU slice that this process belongs to, 0 if none."""
    listed = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    has_tpu = importlib.util.find_spec("libtpu") and any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0")))
    if not listed and has_tpu and not os.environ.get("TPU_SKIP_MDS_QUERY"):
        request = urllib.request.Request(_TPU_HOSTS, headers={"Metadata-Flavor": "Google"})
        try:
            listed = urllib.request.urlopen(request, timeout=10).read().decode()
        except OSError:
            return 0
    return len(listed.split(",")) * int(os.environ.get("MEGASCALE_NUM_SLICES") or 1) if listed else 0


def _outcome(function: Callable[[], Value]) -> tuple[Value | None, Exception | None]:
    try:
        return function(), None
    except Exception as error:
        return None, error


def _plain(error: Exception | None) -> Exception | None:
    """Returns a picklable error of the same kind with the same message."""
    if error is None:
        return None
    for kind in (Diverged, OSError, ValueError):
        if isinstance(error, kind) and is_reported(error):
            return kind(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def _broadcast(message: bytes | None, source: int = 0) -> bytes:
    """Sends bytes, at most 4 GiB, from the host `source` to all hosts; the others pass None."""
    is_source = jax.process_index() == source
    size = int(multihost_utils.broadcast_one_to_all(np.uint32(len(message or b"")), is_source))
    # Lengths are powers of two, so that few programs are compiled; chunks bound the memory on every device.
    length = min(max(1 << (size - 1).bit_length(), 1024), _CHUNK)
    pieces = []
    for first in range(0, size, length):
        piece = np.zeros(length, np.uint8)
        if is_source:
            part = message[first : first + length]
            piece[: len(part)] = np.frombuffer(part, np.uint8)
        pieces.append(multihost_utils.broadcast_one_to_all(piece, is_source).tobytes())
    return b"".join(pieces)[:size]
