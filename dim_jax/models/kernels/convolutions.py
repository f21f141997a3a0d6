"""Convolutions over (N, H, W, C), each by the fastest algorithm for its platform.

XLA's CPU backend is fast at plain convolutions, but inside a `lax.scan` the convolutions that autodiff derives from
them were measured 20 to 60 times slower. Hence the custom VJPs: the input's gradient is a plain convolution again, the
kernel's one matmul per tap. Grouped convolutions are slow even in the forward pass, so a depthwise convolution is a sum
of shifted products. Convolutions with many channels use Winograd's algorithm or one matmul per tap where that is
faster, in their gradients too. In bfloat16 only matmuls are fast on CPU.
"""

import enum
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels import winograd
from dim_jax.models.kernels.platforms import by_platform, runs_in_library
from dim_jax.models.kernels.precision import at_least_float32, matmul

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """Same-size convolution, zero-padded.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C, features), k odd.
      dilation: spacing of the kernel's taps in pixels.

    Returns:
      (N, H, W, features).
    """
    if runs_in_library():
        return _convolution(x, kernel, 1, dilation)
    algorithm = cpu_algorithm(x, kernel, dilation)
    direct = partial(_direct_convolution, dilation=dilation)
    if algorithm == Algorithm.DIRECT:
        return direct(x, kernel)  # the same on all platforms: traced once
    on_cpu = partial(convolution_by_matrices, dilation=dilation, algorithm=algorithm)
    return by_platform(x, kernel, cpu=lambda x, kernel: on_cpu(x, kernel_matrices(kernel, algorithm)), default=direct)


class Algorithm(enum.Enum):
    """Algorithms of a same-size convolution."""

    DIRECT = enum.auto()
    TAP_BY_TAP = enum.auto()
    WINOGRAD = enum.auto()


# With fewer channels there is little to gain, and the other two take longer to compile than one convolution.
_MIN_CHANNELS = 48
# Cost of accumulating the products of one tap, relative to the matmul, in channels.
_ADDING_CHANNELS = 64


def cpu_algorithm(x: jax.Array, kernel: jax.Array, dilation: int) -> Algorithm:
    """Returns the fastest algorithm on XLA's CPU backend for x (N, H, W, C) and kernel (k, k, C, features).

    Costs are those of a training step relative to the direct algorithm in float32; they fit measurements on AVX-512 to
    within 20 %.
    """
    size, _, channels, features = kernel.shape
    if size == 1 or min(channels, features) < _MIN_CHANNELS:
        return Algorithm.DIRECT
    real_share = math.prod(_real_share(side, size, dilation) for side in x.shape[1:3])
    costs = {
        # In bfloat16 only matmuls are faster than in float32: XLA widens the operands of a convolution.
        Algorithm.DIRECT: 1.5 if x.dtype == jnp.bfloat16 else 1.0,
        Algorithm.TAP_BY_TAP: real_share * (1 + _ADDING_CHANNELS / min(channels, features)),
    }
    if size == 3:
        costs[Algorithm.WINOGRAD] = winograd.cost(x.shape, dilation)
    return min(costs, key=costs.__getitem__)


def _real_share(side: int, size: int, dilation: int) -> float:
    """Returns the share of the inputs of `size` taps along a side that is not padding."""
    num_real = sum(len(range(*_inside(side, offset))) for offset in _offsets(size, dilation))
    return num_real / (size * side)


def _offsets(size: int, dilation: int) -> range:
    """Returns the positions of `size` taps along an axis, relative to their output, in pixels."""
    margin = dilation * (size // 2)
    return range(-margin, margin + 1, dilation)


def _inside(side: int, offset: int) -> tuple[int, int]:
    """Returns the range (first, last + 1) of outputs along a side whose input at this offset is not padding."""
    return max(0, -offset), min(side, side - offset)


def kernel_matrices(kernel: jax.Array, algorithm: Algorithm) -> tuple[jax.Array, ...]:
    """Returns the kernel as the matrices (C, features) that `convolution_by_matrices` takes."""
    if algorithm == Algorithm.WINOGRAD:
        return winograd.transform_kernel(kernel)
    return tuple(kernel.reshape(-1, *kernel.shape[2:]))


def convolution_by_matrices(
    x: jax.Array, matrices: Sequence[jax.Array], dilation: int, algorithm: Algorithm
) -> jax.Array:
    """Same-size convolution by an algorithm other than the direct one.

    Args:
      x: (N, H, W, C).
      matrices: from `kernel_matrices` for this algorithm.
      dilation: spacing of the kernel's taps in pixels.
      algorithm: not `Algorithm.DIRECT`.

    Returns:
      (N, H, W, features).
    """
    convolve = winograd.winograd_convolution if algorithm == Algorithm.WINOGRAD else _tap_by_tap
    return convolve(x, matrices, dilation)


def _tap_by_tap(x: jax.Array, taps: Sequence[jax.Array], dilation: int) -> jax.Array:
    """Sum of one matmul per tap over its real pixels alone: with a large dilation most taps fall on padding."""
    size = math.isqrt(len(taps))
    height, width = x.shape[1:3]
    total: Any = 0
    taps = iter(taps)
    for down in _offsets(size, dilation):
        top, bottom = _inside(height, down)
        for across in _offsets(size, dilation):
            left, right = _inside(width, across)
            tap = next(taps)
            if top < bottom and left < right:
                pixels = x[:, top + down : bottom + down, left + across : right + across]
                margins = ((0, 0), (top, height - bottom), (left, width - right), (0, 0))
                total += jnp.pad(_wide_pointwise(pixels, tap), margins)
    return total.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _direct_convolution(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    return _convolution(x, kernel, 1, dilation)


def _forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _direct_convolution(x, kernel, dilation), (x, kernel)


def _backward(
    dilation: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def by_taps(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        x_gradient = _direct_convolution(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), dilation)
        return x_gradient, _kernel_gradient(_padded(x, kernel.shape[0], dilation), kernel, cotangent, dilation)

    def derived(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(lambda x, kernel: _convolution(x, kernel, 1, dilation), x, kernel)[1](cotangent)

    return by_platform(*residuals, cotangent, cpu=by_taps, default=derived)


_direct_convolution.defvjp(_forward, _backward)


def _kernel_gradient(padded: jax.Array, kernel: jax.Array, cotangent: jax.Array, dilation: int) -> jax.Array:
    """Returns the gradient for the kernel, one tap at a time: all at once would put k * k copies of x into memory."""
    size, _, channels, features = kernel.shape
    slice_shape = (*cotangent.shape[:-1], channels)

    def tap(number: jax.Array) -> jax.Array:
        corner = (0, number // size * dilation, number % size * dilation, 0)
        pixels = lax.dynamic_slice(padded, corner, slice_shape)
        return matmul(pixels.reshape(-1, channels).T, cotangent.reshape(-1, features)).astype(kernel.dtype)

    return lax.map(tap, jnp.arange(size * size)).reshape(kernel.shape)


def pointwise_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution: x (N, H, W, C) @ kernel (C, features) -> (N, H, W, features)."""
    if runs_in_library():
        return _convolution(x, kernel[None, None], 1, 1)
    # Reshaped to a matrix: with four axes, XLA's CPU backend transposes the operands of the gradients.
    return _wide_pointwise(x, kernel).astype(x.dtype)


def _wide_pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Like `pointwise_convolution`, with the dtype of `matmul`."""
    return matmul(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def valid_convolution(x: jax.Array, kernel: jax.Array, margin: int = 0) -> jax.Array:
    """Convolution of x (N, H, W, C) with kernel (k, k, C, features), padded by `margin` zeros on every side.

    Returns:
      (N, H + 2 margin - k + 1, W + 2 margin - k + 1, features).
    """
    if runs_in_library():
        return lax.conv_general_dilated(x, kernel, (1, 1), ((margin, margin),) * 2, dimension_numbers=LAYOUT)
    if margin:
        x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    if x.shape[1:3] == kernel.shape[:2]:
        return pointwise_convolution(x.reshape(x.shape[0], 1, 1, -1), kernel.reshape(-1, kernel.shape[-1]))
    return _valid_convolution(x, kernel)


@jax.custom_vjp
def _valid_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain_valid(x, kernel)


def _plain_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT)


def _valid_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _valid_convolution(x, kernel), (x, kernel)


def _valid_backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    margin = kernel.shape[0] - 1
    padded = jnp.pad(cotangent, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    kernel_gradient = by_platform(
        x,
        kernel,
        cotangent,
        cpu=partial(_kernel_gradient, dilation=1),
        default=lambda x, kernel, cotangent: jax.vjp(lambda k: _plain_valid(x, k), kernel)[1](cotangent)[0],
    )
    return _valid_convolution(padded, kernel[::-1, ::-1].swapaxes(2, 3)), kernel_gradient


_valid_convolution.defvjp(_valid_forward, _valid_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Strided convolution, padded by k // 2 zeros on every side.

    On CPU its gradients are those of one matmul over shifted copies, which is fast with few input channels.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C, features), k odd.
      stride: step in pixels.

    Returns:
      (N, ceil(H / stride), ceil(W / stride), features).
    """
    return _convolution(x, kernel, stride, 1)


def _strided_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return strided_convolution(x, kernel, stride), (x, kernel)


def _strided_backward(
    stride: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def vjp_of(convolve: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
        return lambda x, kernel, cotangent: jax.vjp(partial(convolve, stride=stride), x, kernel)[1](cotangent)

    direct = partial(_convolution, dilation=1)
    return by_platform(*residuals, cotangent, cpu=vjp_of(_strided_by_matmul), default=vjp_of(direct))


strided_convolution.defvjp(_strided_forward, _strided_backward)


def _strided_by_matmul(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size, _, channels, features = kernel.shape
    height, width = x.shape[1:3]
    slices = tap_slices(_padded(x, size, 1), size, height, width, stride=stride)
    return pointwise_convolution(jnp.concatenate(slices, axis=-1), kernel.reshape(size * size * channels, features))


def _convolution(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    margin = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((margin, margin), (margin, margin)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=LAYOUT,
    )


def tap_slices(
    padded: jax.Array, size: int, height: int, width: int, *, stride: int = 1, dilation: int = 1
) -> list[jax.Array]:
    """Returns the input slice of each tap of a kernel, row by row.

    Args:
      padded: (N, H, W, C), the padded input.
      size: side of the kernel, k.
      height, width: size in pixels of the slices before striding.
      stride: step in pixels.
      dilation: spacing of the kernel's taps in pixels.

    Returns:
      k * k arrays (N, ceil(height / stride), ceil(width / stride), C).
    """
    starts = range(0, size * dilation, dilation)
    return [padded[:, top : top + height : stride, left : left + width : stride] for top in starts for left in starts]


def _padded(x: jax.Array, size: int, dilation: int) -> jax.Array:
    margin = dilation * (size // 2)
    return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


def depthwise_convolution(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """Same-size depthwise convolution, zero-padded.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C), k odd.
      dilation: spacing of the taps in pixels.

    Returns:
      (N, H, W, C).
    """
    if runs_in_library():
        margin = dilation * (kernel.shape[0] // 2)
        return grouped_convolution(x, kernel, dilation=dilation, padding=((margin, margin), (margin, margin)))
    return _depthwise_by_taps(x, kernel, dilation)


def grouped_convolution(
    x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]], stride: int = 1, dilation: int = 1
) -> jax.Array:
    """Depthwise convolution of x (N, H, W, C) with kernel (k, k, C) as one operation, for `runs_in_library`.

    Args:
      padding: zeros before and after height and width.
      stride: step in pixels.
      dilation: spacing of the taps in pixels.
    """
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=LAYOUT,
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_by_taps(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    size, _, channels = kernel.shape
    height, width = x.shape[1:3]
    padded = at_least_float32(_padded(x, size, dilation))
    slices = tap_slices(padded, size, height, width, dilation=dilation)
    taps = at_least_float32(kernel).reshape(size * size, channels)
    return sum(pixels * tap for pixels, tap in zip(slices, taps, strict=True)).astype(x.dtype)


def _depthwise_forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise_by_taps(x, kernel, dilation), (x, kernel)


def _depthwise_backward(
    dilation: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    size = kernel.shape[0]
    height, width = x.shape[1:3]
    starts = range(0, size * dilation, dilation)

    def by_rows(padded: jax.Array, cotangent: jax.Array) -> jax.Array:
        def row(number: jax.Array) -> jax.Array:
            # A row of taps at a time, to save memory as in `_kernel_gradient`.
            rows = at_least_float32(lax.dynamic_slice_in_dim(padded, number * dilation, height, axis=1))
            wide_cotangent = at_least_float32(cotangent)
            return jnp.stack([_sum_over_pixels(rows[:, :, start : start + width] * wide_cotangent) for start in starts])

        return lax.map(row, jnp.arange(size))

    def without_loop(padded: jax.Array, cotangent: jax.Array) -> jax.Array:
        slices = tap_slices(padded, size, height, width, dilation=dilation)
        sums = lax.platform_dependent(slices, cotangent, tpu=_sum_by_tap, default=_sum_of_all_taps)
        return sums.reshape(kernel.shape)

    kernel_gradient = by_platform(_padded(x, size, dilation), cotangent, cpu=by_rows, default=without_loop)
    kernel_gradient = kernel_gradient.astype(kernel.dtype)
    return _depthwise_by_taps(cotangent, kernel[::-1, ::-1], dilation), kernel_gradient


def _sum_of_all_taps(slices: Sequence[jax.Array], cotangent: jax.Array) -> jax.Array:
    """Returns the kernel gradient (taps, C) of a depthwise convolution by one sum, which is one kernel on a GPU.

    Args:
      slices: the input slice of each tap, (N, H, W, C), as `tap_slices` returns them.
      cotangent: (N, H, W, C).
    """
    products = at_least_float32(jnp.stack(slices, axis=3)) * at_least_float32(cotangent)[:, :, :, None]
    return products.sum((0, 1, 2))


def _sum_by_tap(slices: Sequence[jax.Array], cotangent: jax.Array) -> jax.Array:
    """Like `_sum_of_all_taps`, by one sum for each tap: on a TPU the stacked slices would be written to memory."""
    wide_cotangent = at_least_float32(cotangent)
    return jnp.stack([(at_least_float32(pixels) * wide_cotangent).sum((0, 1, 2)) for pixels in slices])


def _sum_over_pixels(x: jax.Array) -> jax.Array:
    """Returns the sum (C,) of x (N, H, W, C). On CPU a matmul with ones, which takes two thirds of a sum's time."""

    def by_matmul(x: jax.Array) -> jax.Array:
        return jnp.ones(x.size // x.shape[-1], x.dtype) @ x.reshape(-1, x.shape[-1])

    return by_platform(x, cpu=by_matmul, default=lambda x: x.sum((0, 1, 2)))


_depthwise_by_taps.defvjp(_depthwise_forward, _depthwise_backward)
