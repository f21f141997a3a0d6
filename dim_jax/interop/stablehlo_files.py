"""StableHLO files of inference programs, written by jax.export and run with JAX alone."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax import export

from dim_jax.interop.inference_program import InferenceProgram
from dim_jax.models.kernels.platforms import traced_for

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Arguments: the file, an .npz with the input arrays of every batch as 0_0, 0_1, 1_0 ..., the .npz to write.
_PROGRAM = """\
import sys
sys.modules["dim_jax"] = None
import numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    program = export.deserialize(bytearray(file.read()))
with np.load(sys.argv[2]) as archive:
    arrays = dict(archive)
results = {}
for batch in sorted({int(name.split("_")[0]) for name in arrays}):
    inputs = [arrays[f"{batch}_{number}"] for number in range(len(program.in_avals))]
    results |= {f"{batch}_{number}": output for number, output in enumerate(program.call(*inputs))}
np.savez(sys.argv[3], **results)
"""


def serialize(program: InferenceProgram) -> bytes:
    """Serialises a program for CPU, NVIDIA's and AMD's GPUs and TPU.

    Returns:
      The file's bytes; `jax.export.deserialize` reads them.
    """
    shapes = program.shapes()
    with traced_for("xla"):
        return bytes(export.export(jax.jit(program.make()), platforms=PLATFORMS)(*shapes).serialize())


def run(path: str | Path, batches: Sequence[Sequence[np.ndarray]], program: InferenceProgram) -> list[list[np.ndarray]]:
    """Runs a file on the CPU, in a new process that cannot import this package.

    Args:
      path: the file.
      batches: arrays of the inputs, in order.
      program: what the file was made of.

    Returns:
      for each batch the outputs.

    Raises:
      ValueError: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        named = {f"{b}_{i}": array for b, arrays in enumerate(batches) for i, array in enumerate(arrays)}
        np.savez(inputs, **named)  # type: ignore[arg-type]
        command = [sys.executable, "-I", "-c", _PROGRAM, os.path.abspath(path), str(inputs), str(outputs)]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = " ".join(done.stderr.split())[-300:]
            raise ValueError(f"the exported program does not run in a new process ({reason})")
        with np.load(outputs) as archive:
            number = len(program.outputs)
            return [[archive[f"{batch}_{i}"] for i in range(number)] for batch in range(len(batches))]
