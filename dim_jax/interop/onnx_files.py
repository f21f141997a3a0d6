"""ONNX files of inference programs, written by jax2onnx and run by ONNX Runtime (both in the extra `onnx`)."""

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from dim_jax.interop.inference_program import InferenceProgram
from dim_jax.models.kernels.platforms import traced_for

OPSET = 21  # ONNX Runtime 1.18 and later, and its build for browsers
PACKAGES = ("jax2onnx", "onnxruntime")


def check_installed() -> None:
    """Raises ValueError if a package that ONNX files need is not installed."""
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"--to=onnx needs {' and '.join(missing)}; pip install 'dim_jax[onnx]'")


def serialize(program: InferenceProgram) -> bytes:
    """Converts a program to an ONNX model.

    Args:
      program: computes in float32.

    Returns:
      The file's bytes.

    Raises:
      ValueError: an operation cannot be converted, or the program computes in bfloat16.
    """
    if program.dtype != "float32":
        raise ValueError(f"it computes in {program.dtype}, and ONNX runtimes in float32; give --to=stablehlo")
    jax2onnx: Any = importlib.import_module("jax2onnx")
    levels = {name: logging.getLogger(name).level for name in ("jax2onnx", "onnx_ir")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    shapes = program.shapes()
    # Traced beforehand: while jax2onnx traces, it has functions of JAX and Flax replaced by its own.
    with traced_for("library"):
        traced = jax.make_jaxpr(program.make())(*shapes)
    try:
        model = jax2onnx.to_onnx(
            jaxpr_as_fun(traced),
            shapes,
            opset=OPSET,
            model_name="dim_jax",
            input_names=[tensor.name for tensor in program.inputs],
            output_names=[tensor.name for tensor in program.outputs],
        )
    except Exception as error:  # jax2onnx raises several kinds for what it cannot convert
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"jax2onnx cannot convert the network ({reason}); give --to=stablehlo") from error
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    return model.SerializeToString()


def run(path: str | Path, batches: Sequence[Sequence[np.ndarray]], program: InferenceProgram) -> list[list[np.ndarray]]:
    """Runs an ONNX file on the CPU.

    Args:
      path: the file.
      batches: arrays of the inputs, in order.
      program: names inputs and outputs.

    Returns:
      for each batch the outputs.

    Raises:
      ValueError: ONNX Runtime cannot run it.
    """
    onnxruntime: Any = importlib.import_module("onnxruntime")
    names, outputs = ([tensor.name for tensor in tensors] for tensors in (program.inputs, program.outputs))
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return [session.run(outputs, dict(zip(names, arrays, strict=True))) for arrays in batches]
    except Exception as error:  # ONNX Runtime's errors share no other base class
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"ONNX Runtime cannot run the network ({reason}); give --to=stablehlo") from error
