"""Test-time views of an image: the flips and right-angle turns that a classifier was trained on."""

import jax
import jax.numpy as jnp

from dim_jax.augmentation.histology import rotate_by_right_angles

IDENTITY = 0


def trained_views(flip: bool, rotate: bool) -> tuple[int, ...]:
    """Returns the views that `histology.augment` draws from: both add up to the eight symmetries of the square.

    A view is 2 * turns + mirrored, with 0 to 3 turns by 90 degrees after mirroring; IDENTITY comes first. A network
    that was not trained on a view can be worse on it than on the image itself.

    Args:
      flip, rotate: as in `histology.augment`.

    Reference: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", NeurIPS 2012,
    section 4.1 (predictions averaged over views at test time).
    """
    return tuple(2 * turns + mirrored for turns in range(4 if rotate else 1) for mirrored in range(2 if flip else 1))


def show_all_alike(images: jax.Array, view: int) -> jax.Array:
    """Mirrors and turns images (N, S, S, C) in the same way; see `show_view`, which has a view for each of them.

    Args:
      images: square images.
      view: 0 to 7, known when the program is traced.
    """
    images = images[:, :, ::-1] if view % 2 == 1 else images
    return jnp.rot90(images, view // 2, axes=(1, 2))


def show_view(images: jax.Array, views: jax.Array) -> jax.Array:
    """Mirrors and turns each image.

    Args:
      images: square images, (N, S, S, C).
      views: view of each image, (N,) int in 0 to 7.

    Returns:
      (N, S, S, C).
    """

    def show_one(image: jax.Array, view: jax.Array) -> jax.Array:
        image = jnp.where(view % 2 == 1, image[:, ::-1], image)
        return rotate_by_right_angles(image, view // 2)

    return jax.vmap(show_one)(images, views)
