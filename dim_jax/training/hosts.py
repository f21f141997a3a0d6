"""How the hosts of one job find one another: by three settings, by SLURM, or as a TPU pod."""

import collections
import importlib.util
import logging
import os
import socket
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import jax

from dim_jax.cli import command_line
from dim_jax.training import parallel

# Where no scheduler says it: address of host 0 with a port, number of hosts, and number of this one.
ADDRESS, NUM_HOSTS, HOST = SETTINGS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
PATIENCE = 300.0  # s
_TPU_HOSTS = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/worker-network-endpoints"

log = logging.getLogger(__name__)


def join() -> None:
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
    if not parallel.is_first_host():
        command_line.only_warn()
    # Every host sees the devices of all: nothing need be sent.
    counts = list(collections.Counter(device.process_index for device in jax.devices()).values())
    if len(set(counts)) > 1:
        raise ValueError(f"the hosts have {counts} devices; give each as many as the others")
    # Connects all devices while the hosts are abreast: gloo waits only 30 s for the last of them at their first sum,
    # which would otherwise follow on a compilation.
    parallel.connect_devices()


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
