"""Float32 accumulation for reductions and matmuls."""

import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels.platforms import runs_on_cpu


def at_least_float32(x: jax.Array) -> jax.Array:
    """Returns `x` as float32, or unchanged if its dtype is wider; for sums over many values."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x (N, C) @ matrix (C, features), both of one dtype.

    Returns:
      (N, features), float32 for bfloat16 operands on CPU, else the operands' dtype.
    """
    # XLA's CPU backend uses bfloat16 instructions only for a float32 result; otherwise it widens the operands.
    return _wide_matmul(x, matrix) if x.dtype == jnp.bfloat16 and runs_on_cpu() else x @ matrix


@jax.custom_vjp
def _wide_matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return _float32_dot(x, matrix, (1, 0))


def _forward(x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _wide_matmul(x, matrix), (x, matrix)


def _backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, matrix = residuals
    cotangent = cotangent.astype(x.dtype)
    x_gradient, matrix_gradient = _float32_dot(cotangent, matrix, (1, 1)), _float32_dot(x, cotangent, (0, 0))
    return x_gradient.astype(x.dtype), matrix_gradient.astype(x.dtype)


_wide_matmul.defvjp(_forward, _backward)


def _float32_dot(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """Contracts axis `axes[0]` of the matrix x with `axes[1]` of y, accumulated and returned in float32."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)
