"""The images of a batch, wherever they are: in the batch, or among those that live on the device."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]


def images_of(batch: Batch, pixels: jax.Array | None) -> jax.Array:
    """Returns the images of a batch, (B, H, W, 3) float32 in [0, 1]; or features, (B, F) float32, as they are.

    Args:
      batch: holds them as `image`, uint8, or with `pixels` only their rows `index`.
      pixels: what lives on the device, images (N, H, W, 3) uint8 or features (N, F) float32, or None.
    """
    images = batch["image"] if pixels is None else pixels[batch["index"]]
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images
