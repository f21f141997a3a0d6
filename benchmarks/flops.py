"""Floating-point operations of a program, counted without running it."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

from dim_jax.models.kernels import platforms


def of_program(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns the floating-point operations of one call, counted in the program lowered for a GPU.

    A multiply-add counts as two. Products with the padding of a convolution are not counted, and the body of a loop is
    counted once, so the function should be one step and not a scan of several.

    The program is lowered for a GPU, because on CPU some gradients are loops (models/kernels/convolutions.py), and
    analysed by the CPU backend, because JAX's GPU plugin has no cost analysis before compilation.

    Args:
      function: traceable, outside of pmap.
      arguments: arrays, or whatever has their shapes and dtypes.
    """
    shapes = jax.eval_shape(lambda *arguments: arguments, *arguments)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)
    # A function of its own: what was traced for CPU alone is not taken again.
    program = jax.jit(lambda *arguments: function(*arguments))
    elsewhere = mock.patch.object(platforms, "runs_on_cpu", return_value=False)
    with elsewhere, jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = program.trace(*shapes).lower(lowering_platforms=("cuda",))
        return float(lowered.cost_analysis()["flops"])
