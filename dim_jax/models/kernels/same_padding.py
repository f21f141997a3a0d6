"""Strided convolutions over (N, H, W, C) with TensorFlow's SAME padding, the same code on all platforms.

SAME gives ceil(size / stride) outputs and puts an odd zero at the end: an image of even size is padded only at the
bottom and right. PyTorch pads both ends equally, so weights trained with one convention are off by a pixel with the
other.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels.convolutions import LAYOUT, grouped_convolution, tap_slices
from dim_jax.models.kernels.platforms import runs_in_library


def same_margins(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Returns the zeros before and after an axis of `size` pixels."""
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def _margins(x: jax.Array, kernel_size: int, stride: int) -> list[tuple[int, int]]:
    """Returns the zeros before and after the height and the width of x (N, H, W, C)."""
    return [same_margins(size, kernel_size, stride) for size in x.shape[1:3]]


def _padded(x: jax.Array, kernel_size: int, stride: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), *_margins(x, kernel_size, stride), (0, 0)))


def _shifted(x: jax.Array, kernel_size: int, stride: int) -> list[jax.Array]:
    """Returns the input slice of each tap: kernel_size^2 arrays (N, ceil(H / stride), ceil(W / stride), C)."""
    height, width = (-(-size // stride) * stride for size in x.shape[1:3])
    return tap_slices(_padded(x, kernel_size, stride), kernel_size, height, width, stride=stride)


def strided_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Strided convolution with SAME padding, as one matmul over shifted copies: fast with few input channels.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C, features).
      stride: step in pixels.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), features).
    """
    if runs_in_library():
        margins = _margins(x, kernel.shape[0], stride)
        return lax.conv_general_dilated(x, kernel, (stride, stride), margins, dimension_numbers=LAYOUT)
    slices = jnp.concatenate(_shifted(x, kernel.shape[0], stride), axis=-1)
    return slices @ kernel.reshape(-1, kernel.shape[-1])


def strided_depthwise_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Strided depthwise convolution with SAME padding, with a custom VJP.

    The gradient that autodiff derives was measured 5 to 7 times slower on CPU, because it scatters every tap over the
    full size before it adds them up.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C).
      stride: step in pixels, at most k.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), C).
    """
    if runs_in_library():
        return grouped_convolution(x, kernel, _margins(x, kernel.shape[0], stride), stride)
    return _strided_by_taps(x, kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _strided_by_taps(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    taps = kernel.reshape(-1, kernel.shape[-1])
    return sum(pixels * tap for pixels, tap in zip(_shifted(x, kernel.shape[0], stride), taps, strict=True))


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _strided_by_taps(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return _input_gradient(x, kernel, cotangent, stride), _kernel_gradient(x, kernel, cotangent, stride)


_strided_by_taps.defvjp(_forward, _backward)


def _input_gradient(x: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int) -> jax.Array:
    """Computed per phase: pixels with the same row and column modulo the stride met the same taps."""
    size, (batch, height, width, channels) = kernel.shape[0], x.shape
    reach = -(-size // stride)
    padded_cotangent = jnp.pad(cotangent, ((0, 0), (reach - 1, reach - 1), (reach - 1, reach - 1), (0, 0)))
    rows, columns = (side + reach - 1 for side in cotangent.shape[1:3])

    def phase(row: int, column: int) -> jax.Array:
        total = jnp.zeros((batch, rows, columns, channels), cotangent.dtype)
        for i, tap_row in enumerate(range(row, size, stride)):
            for j, tap_column in enumerate(range(column, size, stride)):
                top, left = reach - 1 - i, reach - 1 - j
                total += padded_cotangent[:, top : top + rows, left : left + columns] * kernel[tap_row, tap_column]
        return total

    phases = [jnp.stack([phase(row, column) for column in range(stride)], axis=3) for row in range(stride)]
    padded = jnp.stack(phases, axis=2).reshape(batch, rows * stride, columns * stride, channels)
    (top, _), (left, _) = (same_margins(side, size, stride) for side in (height, width))
    return padded[:, top : top + height, left : left + width]


def _kernel_gradient(x: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int) -> jax.Array:
    size = kernel.shape[0]
    height, width = (side * stride for side in cotangent.shape[1:3])
    padded = _padded(x, size, stride)
    # The last slice may end past the padding, between two strides.
    padded = jnp.pad(padded, ((0, 0), (0, stride - 1), (0, stride - 1), (0, 0)))

    def row(top: jax.Array) -> jax.Array:
        # A row of taps at a time: all at once would put size^2 copies of x into memory.
        rows = lax.dynamic_slice_in_dim(padded, top, height, axis=1)[:, ::stride]
        columns = (rows[:, :, left : left + width : stride] for left in range(size))
        return jnp.stack([(pixels * cotangent).sum((0, 1, 2)) for pixels in columns])

    return lax.map(row, jnp.arange(size))
