"""In how many digits is computed: where sums over many values need those of float32, and what gives them."""

import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels.platforms import runs_on_cpu


def at_least_float32(x: jax.Array) -> jax.Array:
    """Returns `x` in float32, or in its own dtype where that is wider: sums over many values need the digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Returns x (N, C) @ matrix (C, features), both of one dtype.

    Returns:
      (N, features), in float32 where bfloat16 is multiplied on CPU, else in the operands' dtype.
    """
    # XLA's CPU backend uses the instructions for bfloat16 only where sums stay in float32; else it widens the operands.
    return _wide_product(x, matrix) if x.dtype == jnp.bfloat16 and runs_on_cpu() else x @ matrix


@jax.custom_vjp
def _wide_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return _sum_in_float32(x, matrix, (1, 0))


def _forward(x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _wide_product(x, matrix), (x, matrix)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, matrix = saved
    gradient = gradient.astype(x.dtype)
    for_x, for_matrix = _sum_in_float32(gradient, matrix, (1, 1)), _sum_in_float32(x, gradient, (0, 0))
    return for_x.astype(x.dtype), for_matrix.astype(x.dtype)


_wide_product.defvjp(_forward, _backward)


def _sum_in_float32(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
    dimensions = (tuple((axis,) for axis in axes), ((), ()))
    return lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)
