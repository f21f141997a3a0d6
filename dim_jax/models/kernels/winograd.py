"""Winograd's 3x3 convolution, also dilated: 16 products per 2x2 outputs instead of 36.

A dilated kernel reads pixels on a grid; the image splits into dilation x dilation such grids, each convolved on its own
in tiles of 2x2 outputs. All tiles of all grids are one matmul per entry of the 4x4 transformed kernel.

Reference: Lavin & Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, F(2x2, 3x3).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels.precision import at_least_float32, matmul

# Tiles that overhang the edge cost as much as whole ones. The largest measured ratio of tiled to real pixels.
_MAX_OVERHANG = 1.7


def cost(shape: Sequence[int], dilation: int) -> float:
    """Returns the estimated time on CPU relative to the direct 3x3 convolution; inf where it was not measured.

    Args:
      shape: (N, H, W, C) of the input.
      dilation: spacing of the kernel's taps in pixels.
    """
    _, height, width, _ = shape
    overhang = 4 * dilation**2 * _tiles(height, dilation) * _tiles(width, dilation) / (height * width)
    return 0.2 + 0.35 * overhang if overhang <= _MAX_OVERHANG else math.inf


def transform_kernel(kernel: jax.Array) -> tuple[jax.Array, ...]:
    """Transforms a kernel (3, 3, C, features) into the 16 matrices (C, features) of `winograd_convolution`."""
    rows = _transform_taps(at_least_float32(kernel), 0)
    matrices = (matrix for row in rows for matrix in _transform_taps(row, 1))
    return tuple(matrix.reshape(kernel.shape[2:]).astype(kernel.dtype) for matrix in matrices)


def winograd_convolution(x: jax.Array, matrices: Sequence[jax.Array], dilation: int = 1) -> jax.Array:
    """Same-size 3x3 convolution, zero-padded.

    Args:
      x: (N, H, W, C).
      matrices: from `transform_kernel`.
      dilation: spacing of the kernel's taps in pixels.

    Returns:
      (N, H, W, features).
    """
    batch, height, width, channels = x.shape
    features, d, dtype = matrices[0].shape[-1], dilation, x.dtype
    down, across = _tiles(height, d), _tiles(width, d)
    # The batch axis after the pixels: XLA would unroll loops over few tiles, which takes seconds to compile.
    margins = ((d, d * (2 * down + 1) - height), (d, d * (2 * across + 1) - width), (0, 0), (0, 0))
    x = lax.optimization_barrier(jnp.pad(x.transpose(1, 2, 0, 3), margins))
    x = at_least_float32(x.reshape(2 * down + 2, d, 2 * across + 2, d, batch * channels))
    parts = (part for rows in _transform_tiles(x, 0) for part in _transform_tiles(rows, 2))
    products = [
        matmul(part.reshape(-1, channels).astype(dtype), matrix).reshape(down, d, across, d, batch * features)
        for part, matrix in zip(parts, matrices, strict=True)
    ]
    by_column = [_to_outputs(products[column::4]) for column in range(4)]
    outputs = [jnp.stack(_to_outputs(columns), axis=3) for columns in zip(*by_column, strict=True)]
    y = jnp.stack(outputs, axis=1).reshape(2 * d * down, 2 * d * across, batch, features)
    return y[:height, :width].transpose(2, 0, 1, 3).astype(dtype)


def _tiles(side: int, dilation: int) -> int:
    """Returns the number of tiles of two outputs that cover the longest grid along a side."""
    return -(-side // (2 * dilation))


def _transform_taps(kernel: jax.Array, axis: int) -> list[jax.Array]:
    """Transforms the three taps along an axis into the four factors of a tile's products."""
    # As sums: XLA's CPU backend is slow at matmuls with such a small matrix.
    first, second, third = jnp.split(kernel, 3, axis)
    outer = 0.5 * (first + third)
    return [first, outer + 0.5 * second, outer - 0.5 * second, third]


def _transform_tiles(x: jax.Array, axis: int) -> list[jax.Array]:
    """Transforms the four inputs of every tile along an axis; neighbouring tiles share two."""
    even, odd = (lax.slice_in_dim(x, start, None, 2, axis) for start in range(2))
    tiles = even.shape[axis] - 1
    (first, third), (second, fourth) = (
        [lax.slice_in_dim(part, start, start + tiles, 1, axis) for start in range(2)] for part in (even, odd)
    )
    return [first - third, second + third, third - second, second - fourth]


def _to_outputs(products: Sequence[jax.Array]) -> list[jax.Array]:
    """Transforms the four products of every tile along an axis into its two outputs."""
    return [products[0] + products[1] + products[2], products[1] - products[2] - products[3]]
