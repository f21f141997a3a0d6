"""Choice between implementations of a computation for CPU, for accelerators and for other runtimes than XLA."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

_runtime: ContextVar[str] = ContextVar("runtime", default="here")


@contextlib.contextmanager
def traced_for(runtime: Literal["here", "xla", "accelerator", "library"]) -> Iterator[None]:
    """Within the block, programs are traced for another machine than this one.

    Args:
      runtime: "here" for this machine; "xla" for XLA on any platform, so that `by_platform` keeps both implementations;
        "accelerator" for XLA on a GPU or TPU; "library" for a runtime with a library of convolutions, such as ONNX
        Runtime, so that each convolution is one operation.
    """
    token = _runtime.set(runtime)
    try:
        yield
    finally:
        _runtime.reset(token)


def runs_on_cpu() -> bool:
    """Returns whether programs run here and CPU is the default backend."""
    return _runtime.get() == "here" and jax.default_backend() == "cpu"


def runs_in_library() -> bool:
    """Returns whether programs are traced for a runtime with a library of convolutions (see `traced_for`)."""
    return _runtime.get() == "library"


def by_platform(*operands: jax.Array, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """Returns `cpu(*operands)` or `default(*operands)`, which must agree to rounding.

    With an accelerator as the default backend, the choice is made when the program is lowered for a device. Without
    one, `cpu` is chosen while tracing, because tracing both takes a third of the tracing time of a training step: a
    program traced there and lowered for another platform contains the CPU implementation. `traced_for` has another
    choice made.
    """
    if runs_on_cpu():
        return cpu(*operands)
    if _runtime.get() in ("accelerator", "library"):
        return default(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)


def materialized(tree: Any) -> Any:
    """Returns arrays unchanged; on accelerators they are computed before what uses them, and not fused with it."""
    return tree if runs_on_cpu() else lax.optimization_barrier(tree)


def computed_together(tree: Any, step: jax.Array) -> Any:
    """Returns arrays unchanged; on accelerators those of one shape are computed by a few kernels instead of one each.

    XLA makes one kernel of several that have results of one shape and read the same array of more than one value. That
    array holds ones here, which depend on the step so that the compiler does not know them. Without it, the updates of
    a network's hundreds of tensors, which have only scalars in common, are as many kernels.

    Args:
      tree: arrays to be computed for the same end, such as the new state of a training step.
      step: number of completed steps, a scalar.
    """
    if runs_on_cpu():
        return tree
    ones = materialized(jnp.where(step >= 0, jnp.ones(2), 0.0))

    def shared(array: jax.Array) -> jax.Array:
        return array * ones[0].astype(array.dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

    return materialized(jax.tree.map(shared, tree))
