"""Convolutions that halve or double the side of a map (N, H, W, C), as GCGAN has them."""

import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels.convolutions import LAYOUT, convolution, valid_convolution
from dim_jax.models.kernels.platforms import by_platform


def halving_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves x (N, H, W, C), H and W even, with kernel (4, 4, C, features) at every other pixel, padded by one zero.

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
    """With the pixels of a 2x2 block as channels, the kernel spans 2x2 blocks and steps from one to the next."""
    channels, features = kernel.shape[2:]
    windows = kernel.reshape(2, 2, 2, 2, channels, features).swapaxes(1, 2).reshape(2, 2, 4 * channels, features)
    number, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    blocks = padded.reshape(number, height // 2 + 1, 2, width // 2 + 1, 2, channels).swapaxes(2, 3)
    return valid_convolution(blocks.reshape(number, height // 2 + 1, width // 2 + 1, 4 * channels), windows)


def doubling_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Repeats every pixel of x (N, H, W, C) as a block of 2x2, then convolves with kernel (3, 3, C, features).

    Returns:
      (N, 2 H, 2 W, features).
    """

    def as_stated(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolution(repeat_pixels(x), kernel)

    # Below 8x8 pixels most of the work is on kernels, and the phases' one is larger.
    on_cpu = as_stated if x.shape[1] < 8 else _doubling_by_phases
    return by_platform(x, kernel, cpu=on_cpu, default=as_stated)


def repeat_pixels(x: jax.Array) -> jax.Array:
    """Doubles the side of x (N, H, W, C): every pixel becomes a block of 2x2."""
    number, height, width, channels = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (number, height, 2, width, 2, channels))
    return blocks.reshape(number, 2 * height, 2 * width, channels)


# Which taps of a 3x3 kernel fall onto the same pixel of the small map: (phase of the output, pixel, tap).
_SHARED_TAPS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def _doubling_by_phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each of the four pixels of an output block sees 2x2 pixels of the small map: 16 products in place of 36."""
    number, height, width, channels = x.shape
    features = kernel.shape[-1]
    shared = jnp.asarray(_SHARED_TAPS, kernel.dtype)
    phases = jnp.einsum("pir,qjs,rscf->ijcpqf", shared, shared, kernel)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = valid_convolution(padded, phases.reshape(2, 2, channels, 4 * features))
    seen = seen.reshape(number, height + 1, width + 1, 2, 2, features)
    rows = [jnp.stack([seen[:, p : p + height, q : q + width, p, q] for q in range(2)], axis=3) for p in range(2)]
    return jnp.stack(rows, axis=2).reshape(number, 2 * height, 2 * width, features)
