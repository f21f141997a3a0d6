"""Commands on two processes with two devices each, connected as the hosts of a job."""

import os
import subprocess
import sys
from pathlib import Path

from bucket_servers import free_port

ROOT = Path(__file__).parents[1]


def on_two_hosts(command, *arguments, settings=None):
    """Runs a command as two processes with two devices each; returns their outputs and exit codes."""
    common = {
        # Of two such flags the last one counts.
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2", "PYTHONPATH": str(ROOT),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"dim_jax.{command}", *map(str, arguments)],
            env={**os.environ, **common, "JAX_PROCESS_ID": str(host), **(settings or {}).get(host, {})},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for host in range(2)
    ]  # fmt: skip
    try:
        written = [process.communicate(timeout=600) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(started, written, strict=True)]
