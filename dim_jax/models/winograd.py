"""Winograd's 3x3 convolution, dilated too: 16 products for every 2x2 outputs, where the plain sum takes 36.

The pixels that a dilated kernel sees from one place lie on a grid; the image falls apart into dilation x dilation such
grids, each convolved on its own with tiles of 2x2 outputs. All tiles of all grids are one matrix product per place of
the 4x4 transformed kernel.

Reference: Lavin & Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, F(2x2, 3x3).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_KERNEL_TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
# Below so many channels there is little to gain, and the transforms take longer to compile than one convolution. With
# a kernel that is transformed anew for every batch it takes more channels, and so many pixels over all images.
_MIN_CHANNELS, _MIN_CHANNELS_ANEW, _MIN_PIXELS_ANEW = 32, 64, 1024
# Tiles that stick out over the edge cost as much as whole ones: up to this ratio of tiled to real pixels it pays.
_MAX_OVERHANG = 1.62


def pays(x: jax.Array, kernel: jax.Array, dilation: int, *, prepared: bool) -> bool:
    """Returns whether XLA's CPU backend convolves x (N, H, W, C) with kernel (k, k, C, features) faster this way.

    Args:
      dilation: spacing of the kernel's taps in pixels.
      prepared: the kernel is transformed once for many batches.
    """
    # What is summed before it is multiplied needs the digits of float32.
    if kernel.shape[:2] != (3, 3) or x.dtype != jnp.float32:
        return False
    if min(kernel.shape[2:]) < (_MIN_CHANNELS if prepared else _MIN_CHANNELS_ANEW):
        return False
    if not prepared and x.size < _MIN_PIXELS_ANEW * x.shape[-1]:
        return False
    height, width = x.shape[1:3]
    tiled = 4 * dilation**2 * _tiles(height, dilation) * _tiles(width, dilation)
    return tiled <= _MAX_OVERHANG * height * width


def transform_kernel(kernel: jax.Array) -> tuple[jax.Array, ...]:
    """Returns what `winograd_convolution` multiplies by: 16 matrices (C, features) for a kernel (3, 3, C, features)."""
    transform = jnp.asarray(_KERNEL_TRANSFORM, kernel.dtype)
    transformed = jnp.einsum("ai,bj,ijcf->abcf", transform, transform, kernel)
    return tuple(transformed.reshape(16, *kernel.shape[2:]))


def winograd_convolution(x: jax.Array, matrices: Sequence[jax.Array], dilation: int = 1) -> jax.Array:
    """Convolves x (N, H, W, C) with a 3x3 kernel, zero-padded so that the size stays: (N, H, W, features).

    Args:
      matrices: of `transform_kernel`.
      dilation: spacing of the kernel's taps in pixels.
    """
    batch, height, width, channels = x.shape
    features, d = matrices[0].shape[-1], dilation
    down, across = _tiles(height, d), _tiles(width, d)
    # Images innermost, after the pixels: loops over few tiles would be unrolled, which takes seconds to compile.
    margins = ((d, d * (2 * down + 1) - height), (d, d * (2 * across + 1) - width), (0, 0), (0, 0))
    x = lax.optimization_barrier(jnp.pad(x.transpose(1, 2, 0, 3), margins))
    x = x.reshape(2 * down + 2, d, 2 * across + 2, d, batch * channels)
    parts = (part for rows in _transform_tiles(x, 0) for part in _transform_tiles(rows, 2))
    products = [
        (part.reshape(-1, channels) @ matrix).reshape(down, d, across, d, batch * features)
        for part, matrix in zip(parts, matrices, strict=True)
    ]
    by_column = [_to_outputs(products[column::4]) for column in range(4)]
    outputs = [jnp.stack(_to_outputs(columns), axis=3) for columns in zip(*by_column, strict=True)]
    y = jnp.stack(outputs, axis=1).reshape(2 * d * down, 2 * d * across, batch, features)
    return y[:height, :width].transpose(2, 0, 1, 3)


def _tiles(side: int, dilation: int) -> int:
    """Returns how many tiles of two outputs cover the longest grid along a side."""
    return -(-side // (2 * dilation))


def _transform_tiles(x: jax.Array, axis: int) -> list[jax.Array]:
    """Turns the four inputs of every tile along an axis into what is multiplied; neighbouring tiles share two."""
    even, odd = (lax.slice_in_dim(x, start, None, 2, axis) for start in range(2))
    tiles = even.shape[axis] - 1
    (first, third), (second, fourth) = (
        [lax.slice_in_dim(part, start, start + tiles, 1, axis) for start in range(2)] for part in (even, odd)
    )
    return [first - third, second + third, third - second, second - fourth]


def _to_outputs(products: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns the two outputs of every tile along one axis."""
    return [products[0] + products[1] + products[2], products[1] - products[2] - products[3]]
