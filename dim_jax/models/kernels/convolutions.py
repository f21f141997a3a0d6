"""Convolutions over (N, H, W, C), each in the formulation that its platform runs fastest.

XLA's CPU backend computes a plain convolution well, but inside a loop, as `lax.scan` makes one, the convolutions that
autodiff derives from it take a path that was measured 20 to 60 times slower. So their gradients are stated here: that
for the input is a plain convolution again, that for the kernel one matrix product per tap. A grouped convolution takes
the slow path even forward, so a depthwise one is a sum of shifted products. One with many channels goes by Winograd's
products or tap by tap where that is faster, and its gradients with it. In bfloat16 only products are fast on CPU.
"""

import enum
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels import winograd
from dim_jax.models.kernels.platforms import by_platform
from dim_jax.models.kernels.precision import at_least_float32, product

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolution(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """Convolves x (N, H, W, C) with kernel (k, k, C, features), k odd, zero-padded so that the size stays.

    Args:
      dilation: spacing of the kernel's taps in pixels.
    """
    formulation = formulation_on_cpu(x, kernel, dilation)
    direct = partial(_direct_convolution, dilation=dilation)
    if formulation == Formulation.DIRECT:
        return direct(x, kernel)  # what the platforms share is traced once
    on_cpu = partial(convolution_by_matrices, dilation=dilation, formulation=formulation)
    return by_platform(x, kernel, cpu=lambda x, kernel: on_cpu(x, matrices_of(kernel, formulation)), default=direct)


class Formulation(enum.Enum):
    """How a convolution is computed."""

    DIRECT = enum.auto()
    TAP_BY_TAP = enum.auto()
    WINOGRAD = enum.auto()


# With fewer channels there is little to gain, and both others take longer to compile than one convolution.
_MIN_CHANNELS = 48
# What adding up the products of one tap costs, beside the products, in channels.
_ADDING_CHANNELS = 64


def formulation_on_cpu(x: jax.Array, kernel: jax.Array, dilation: int) -> Formulation:
    """Returns what XLA's CPU backend convolves x (N, H, W, C) by kernel (k, k, C, features) fastest with.

    The costs, of a training step with the direct one's in float32 as 1, follow measurements on AVX-512 to a fifth.
    """
    size, _, channels, features = kernel.shape
    if size == 1 or min(channels, features) < _MIN_CHANNELS:
        return Formulation.DIRECT
    real_share = math.prod(_real_share(side, size, dilation) for side in x.shape[1:3])
    costs = {
        # In bfloat16 only products are faster than in float32: XLA widens the operands of a convolution.
        Formulation.DIRECT: 1.5 if x.dtype == jnp.bfloat16 else 1.0,
        Formulation.TAP_BY_TAP: real_share * (1 + _ADDING_CHANNELS / min(channels, features)),
    }
    if size == 3:
        costs[Formulation.WINOGRAD] = winograd.cost(x.shape, dilation)
    return min(costs, key=costs.__getitem__)


def _real_share(side: int, size: int, dilation: int) -> float:
    """Returns which share of what `size` taps see along a side is not padding."""
    seen = sum(len(range(*_inside(side, offset))) for offset in _offsets(size, dilation))
    return seen / (size * side)


def _offsets(size: int, dilation: int) -> range:
    """Returns where `size` taps look, relative to their output."""
    margin = dilation * (size // 2)
    return range(-margin, margin + 1, dilation)


def _inside(side: int, offset: int) -> tuple[int, int]:
    """Returns first and last + 1 of the outputs of a side for which a tap at this offset does not see padding."""
    return max(0, -offset), min(side, side - offset)


def matrices_of(kernel: jax.Array, formulation: Formulation) -> tuple[jax.Array, ...]:
    """Returns the matrices (C, features) that `convolution_by_matrices` multiplies by in place of the kernel."""
    if formulation == Formulation.WINOGRAD:
        return winograd.transform_kernel(kernel)
    return tuple(kernel.reshape(-1, *kernel.shape[2:]))


def convolution_by_matrices(
    x: jax.Array, matrices: Sequence[jax.Array], dilation: int, formulation: Formulation
) -> jax.Array:
    """Returns `convolution` of x (N, H, W, C), in a formulation that is not the direct one, by its `matrices_of`."""
    form = winograd.winograd_convolution if formulation == Formulation.WINOGRAD else _tap_by_tap
    return form(x, matrices, dilation)


def _tap_by_tap(x: jax.Array, taps: Sequence[jax.Array], dilation: int) -> jax.Array:
    """Adds up one matrix product per tap, of the pixels that it sees: where taps reach far, most see padding."""
    size = math.isqrt(len(taps))
    height, width = x.shape[1:3]
    taps, total = iter(taps), 0
    for down in _offsets(size, dilation):
        top, bottom = _inside(height, down)
        for across in _offsets(size, dilation):
            left, right = _inside(width, across)
            tap = next(taps)
            if top < bottom and left < right:
                seen = x[:, top + down : bottom + down, left + across : right + across]
                margins = ((0, 0), (top, height - bottom), (left, width - right), (0, 0))
                total += jnp.pad(_wide_pointwise(seen, tap), margins)
    return total.astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _direct_convolution(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    return _convolution(x, kernel, 1, dilation)


def _forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _direct_convolution(x, kernel, dilation), (x, kernel)


def _backward(dilation: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    for_x = _direct_convolution(gradient, kernel[::-1, ::-1].swapaxes(2, 3), dilation)
    for_kernel = by_platform(
        x,
        kernel,
        gradient,
        cpu=lambda x, kernel, gradient: _kernel_gradient(
            _padded(x, kernel.shape[0], dilation), kernel, gradient, dilation
        ),
        default=lambda x, kernel, gradient: jax.vjp(lambda k: _convolution(x, k, 1, dilation), kernel)[1](gradient)[0],
    )
    return for_x, for_kernel


_direct_convolution.defvjp(_forward, _backward)


def _kernel_gradient(padded: jax.Array, kernel: jax.Array, gradient: jax.Array, dilation: int) -> jax.Array:
    """Returns the gradient for the kernel, tap after tap: all at once would put k * k copies of x into memory."""
    size, _, channels, features = kernel.shape
    seen = (*gradient.shape[:-1], channels)  # by one tap

    def tap(number: jax.Array) -> jax.Array:
        corner = (0, number // size * dilation, number % size * dilation, 0)
        pixels = lax.dynamic_slice(padded, corner, seen)
        return product(pixels.reshape(-1, channels).T, gradient.reshape(-1, features)).astype(kernel.dtype)

    return lax.map(tap, jnp.arange(size * size)).reshape(kernel.shape)


def pointwise_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x (N, H, W, C) @ kernel (C, features)."""
    # As one matrix: with four axes, XLA's CPU backend lays the operands of its gradients out anew.
    return _wide_pointwise(x, kernel).astype(x.dtype)


def _wide_pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def valid_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves x (N, H, W, C) with kernel (k, k, C, features), without padding.

    Returns:
      (N, H - k + 1, W - k + 1, features).
    """
    if x.shape[1:3] == kernel.shape[:2]:
        return pointwise_convolution(x.reshape(len(x), 1, 1, -1), kernel.reshape(-1, kernel.shape[-1]))
    return _valid_convolution(x, kernel)


@jax.custom_vjp
def _valid_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _plain_valid(x, kernel)


def _plain_valid(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT)


def _valid_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _valid_convolution(x, kernel), (x, kernel)


def _valid_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    margin = kernel.shape[0] - 1
    padded = jnp.pad(gradient, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    for_kernel = by_platform(
        x,
        kernel,
        gradient,
        cpu=partial(_kernel_gradient, dilation=1),
        default=lambda x, kernel, gradient: jax.vjp(lambda k: _plain_valid(x, k), kernel)[1](gradient)[0],
    )
    return _valid_convolution(padded, kernel[::-1, ::-1].swapaxes(2, 3)), for_kernel


_valid_convolution.defvjp(_valid_forward, _valid_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def strided_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves x (N, H, W, C) with kernel (k, k, C, features), padded by k // 2 zeros, at every `stride`-th pixel.

    On CPU its gradients are those of one matrix product over shifted copies, which suits few input channels.
    """
    return _convolution(x, kernel, stride, 1)


def _strided_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return strided_convolution(x, kernel, stride), (x, kernel)


def _strided_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def pulled_back(form: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, jax.Array]]:
        return lambda x, kernel, gradient: jax.vjp(partial(form, stride=stride), x, kernel)[1](gradient)

    plain = partial(_convolution, dilation=1)
    return by_platform(*saved, gradient, cpu=pulled_back(_as_matrix_product), default=pulled_back(plain))


strided_convolution.defvjp(_strided_forward, _strided_backward)


def _as_matrix_product(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size, _, channels, features = kernel.shape
    height, width = x.shape[1:3]
    copies = seen_by_taps(_padded(x, size, 1), size, height, width, stride=stride)
    return pointwise_convolution(jnp.concatenate(copies, axis=-1), kernel.reshape(size * size * channels, features))


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


def seen_by_taps(
    padded: jax.Array, size: int, height: int, width: int, *, stride: int = 1, dilation: int = 1
) -> list[jax.Array]:
    """Returns what each of size x size taps of a kernel sees of a padded image: every `stride`-th pixel of a map."""
    starts = range(0, size * dilation, dilation)
    return [padded[:, top : top + height : stride, left : left + width : stride] for top in starts for left in starts]


def _padded(x: jax.Array, size: int, dilation: int) -> jax.Array:
    margin = dilation * (size // 2)
    return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_convolution(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """Filters every channel of x (N, H, W, C) on its own with kernel (k, k, C), k odd, zero-padded: the size stays.

    Args:
      dilation: spacing of the taps in pixels.
    """
    size, _, channels = kernel.shape
    height, width = x.shape[1:3]
    padded = at_least_float32(_padded(x, size, dilation))
    copies = seen_by_taps(padded, size, height, width, dilation=dilation)
    taps = at_least_float32(kernel).reshape(size * size, channels)
    return sum(copy * tap for copy, tap in zip(copies, taps, strict=True)).astype(x.dtype)


def _depthwise_forward(x: jax.Array, kernel: jax.Array, dilation: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_convolution(x, kernel, dilation), (x, kernel)


def _depthwise_backward(
    dilation: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size = kernel.shape[0]
    height, width = x.shape[1:3]
    padded = _padded(x, size, dilation)

    def row(number: jax.Array) -> jax.Array:
        # A row of taps at a time, for the same reason.
        rows = at_least_float32(lax.dynamic_slice_in_dim(padded, number * dilation, height, axis=1))
        wide_gradient = at_least_float32(gradient)
        starts = range(0, size * dilation, dilation)
        return jnp.stack([_sum_over_pixels(rows[:, :, start : start + width] * wide_gradient) for start in starts])

    for_kernel = lax.map(row, jnp.arange(size)).astype(kernel.dtype)
    return depthwise_convolution(gradient, kernel[::-1, ::-1], dilation), for_kernel


def _sum_over_pixels(x: jax.Array) -> jax.Array:
    """Returns the sum (C,) of x (N, H, W, C). On CPU it is a product with ones: two thirds of the time of a sum."""

    def as_product(x: jax.Array) -> jax.Array:
        return jnp.ones(x.size // x.shape[-1], x.dtype) @ x.reshape(-1, x.shape[-1])

    return by_platform(x, cpu=as_product, default=lambda x: x.sum((0, 1, 2)))


depthwise_convolution.defvjp(_depthwise_forward, _depthwise_backward)
