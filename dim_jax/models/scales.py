"""Resizing of images to the two sizes of a GAN's discriminator."""

import jax
import numpy as np
from jax import lax


def small_size(size: int) -> int:
    """Returns the side in px of the small version of an image of side `size`: half of it, at most 128."""
    return min(128, size // 2)


def shrink_nearest(images: jax.Array, size: int) -> jax.Array:
    """Nearest-neighbour downsampling: pixel i of the result is the source pixel floor(i * side / size) of each axis.

    Detail finer than a step aliases; `shrink_area` avoids that. Equals PyTorch's mode "nearest" where `size` divides
    the side; `jax.image.resize` rounds differently.

    Args:
      images: (N, S, S, C).
      size: side of the result in px, 1 to S.

    Returns:
      (N, size, size, C).

    Raises:
      ValueError: the images are not square or smaller than `size`.
    """
    side = _side(images, size)
    if side % size == 0:
        return images[:, :: side // size, :: side // size]
    sources = np.arange(size) * side // size
    return images[:, sources][:, :, sources]


def shrink_area(images: jax.Array, size: int) -> jax.Array:
    """Downsampling by the average over blocks of (S / size) x (S / size) pixels.

    Args:
      images: (N, S, S, C).
      size: side of the result in px; divides S.

    Returns:
      (N, size, size, C).

    Raises:
      ValueError: the images are not square, or `size` does not divide their side.
    """
    side = _side(images, size)
    if side % size:
        raise ValueError(f"images of {side} px cannot be averaged to {size} px: give a size that divides {side}")
    num_images, channels = len(images), images.shape[-1]
    # One axis at a time: XLA's CPU backend takes twice as long for both at once.
    images = images.reshape(num_images, size, side // size, side, channels).mean(2)
    return images.reshape(num_images, size, size, side // size, channels).mean(3)


def quadrant(images: jax.Array, part: jax.Array | int) -> jax.Array:
    """Crops a quadrant of every image.

    Args:
      images: (N, S, S, C), S even.
      part: 0 to 3 for top left, top right, bottom left, bottom right; may be traced.

    Returns:
      (N, S / 2, S / 2, C).

    Raises:
      ValueError: the images are not square, their side is odd, or `part` is a number other than 0 to 3.
    """
    side = _side(images, 1)
    if side % 2:
        raise ValueError(f"images of {side} px have no quadrants: give an even side")
    if isinstance(part, int) and part not in range(4):
        raise ValueError(f"part={part} is not a quadrant: give 0, 1, 2 or 3")
    half = side // 2
    rows = lax.dynamic_slice_in_dim(images, part // 2 * half, half, axis=1)
    return lax.dynamic_slice_in_dim(rows, part % 2 * half, half, axis=2)


def _side(images: jax.Array, size: int) -> int:
    """Returns the side of square images, after checking that they can shrink to `size` px."""
    if images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images of shape {images.shape} are not (N, S, S, C): make them square first")
    if not 1 <= size <= images.shape[1]:
        raise ValueError(f"images of {images.shape[1]} px cannot shrink to {size} px: give 1 to {images.shape[1]}")
    return images.shape[1]
