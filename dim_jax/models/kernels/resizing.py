"""Convolutions of GCGAN that halve or double the height and width of a feature map (N, H, W, C)."""

import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels.convolutions import LAYOUT, convolution, valid_convolution
from dim_jax.models.kernels.platforms import by_platform


def halving_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """4x4 convolution with stride 2, padded by one zero on every side.

    Args:
      x: (N, H, W, C), H and W even.
      kernel: (4, 4, C, features).

    Returns:
      (N, H / 2, W / 2, features).
    """
    return by_platform(
        x,
        kernel,
        cpu=_halving_by_blocks,
        default=lambda x, kernel: lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=LAYOUT
        ),
    )


def _halving_by_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Space-to-depth: with every 2x2 block of pixels as channels, a 2x2 kernel with stride 1 does the same."""
    channels, features = kernel.shape[2:]
    windows = kernel.reshape(2, 2, 2, 2, channels, features).swapaxes(1, 2).reshape(2, 2, 4 * channels, features)
    number, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    blocks = padded.reshape(number, height // 2 + 1, 2, width // 2 + 1, 2, channels).swapaxes(2, 3)
    return valid_convolution(blocks.reshape(number, height // 2 + 1, width // 2 + 1, 4 * channels), windows)


def doubling_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by 2, then a 3x3 same-size convolution.

    Args:
      x: (N, H, W, C).
      kernel: (3, 3, C, features).

    Returns:
      (N, 2 H, 2 W, features).
    """

    def upsample_and_convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolution(repeat_pixels(x), kernel)

    # Below 8x8 pixels most of the time goes into the kernel, and that of the phases is larger.
    on_cpu = upsample_and_convolve if x.shape[1] < 8 else _doubling_by_phases
    return by_platform(x, kernel, cpu=on_cpu, default=upsample_and_convolve)


def repeat_pixels(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling by 2: (N, H, W, C) -> (N, 2 H, 2 W, C)."""
    number, height, width, channels = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (number, height, 2, width, 2, channels))
    return blocks.reshape(number, 2 * height, 2 * width, channels)


# 1 where a tap of a 3x3 kernel falls onto a pixel of the small map: (phase of the output, pixel, tap).
_SHARED_TAPS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def _doubling_by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each of the four output phases is a 2x2 convolution of the small map: 16 products instead of 36."""
    number, height, width, channels = x.shape
    features = kernel.shape[-1]
    shared = jnp.asarray(_SHARED_TAPS, kernel.dtype)
    phases = jnp.einsum("pir,qjs,rscf->ijcpqf", shared, shared, kernel)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = valid_convolution(padded, phases.reshape(2, 2, channels, 4 * features))
    y = y.reshape(number, height + 1, width + 1, 2, 2, features)
    rows = [jnp.stack([y[:, p : p + height, q : q + width, p, q] for q in range(2)], axis=3) for p in range(2)]
    return jnp.stack(rows, axis=2).reshape(number, 2 * height, 2 * width, features)
