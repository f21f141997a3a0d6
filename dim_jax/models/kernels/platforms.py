"""Choice between implementations of a computation for CPU and for accelerators."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def runs_on_cpu() -> bool:
    """Returns whether CPU is the default backend."""
    return jax.default_backend() == "cpu"


def by_platform(*operands: jax.Array, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """Returns `cpu(*operands)` or `default(*operands)`, which must agree to rounding.

    With an accelerator as the default backend, the choice is made when the program is lowered for a device. Without
    one, `cpu` is chosen while tracing, because tracing both takes a third of the tracing time of a training step: a
    program traced there and lowered for another platform contains the CPU implementation.
    """
    if runs_on_cpu():
        return cpu(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)
