"""Which formulation of a computation a program holds: CPUs and accelerators are fast at different ones."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def runs_on_cpu() -> bool:
    """Returns whether programs run on CPU where nothing else is said."""
    return jax.default_backend() == "cpu"


def by_platform(*operands: jax.Array, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """Returns `cpu(*operands)` or `default(*operands)`, which must be equal to rounding.

    Where there is an accelerator the device decides on which the program runs. Where there is none `cpu` is taken at
    once: tracing both is a third of the time that a network's training step is traced in. So a program that is traced
    there and lowered for another platform holds the formulation for CPUs.
    """
    if runs_on_cpu():
        return cpu(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)
