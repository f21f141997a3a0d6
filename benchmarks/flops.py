"""How many floating-point operations a program asks for, whatever device is at hand."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

from dim_jax.models.kernels import platforms


def of_program(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns the floating-point operations of one call, counted in the program as it is lowered for a GPU.

    A multiplication and the addition after it are two. Products that fall on the padding of a convolution are left out,
    and what stands in a loop is counted once: so give it one step, and no scan of several. Nothing is computed.

    Lowered for a GPU, because on CPU some gradients are loops (models/convolutions.py); but counted by the CPU's own
    library, because JAX's GPU plugin offers no such analysis before compilation.

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
