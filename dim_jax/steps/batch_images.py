"""Images of a batch, stored in the batch itself or in an array resident on the device."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Batch = Mapping[str, jax.Array]


def partners(batch: Batch) -> Batch:
    """Returns the batch of the second examples, which are mixed with the first."""
    return {name.removeprefix("partner_"): value for name, value in batch.items() if name.startswith("partner_")}


def gather_images(batch: Batch, pixels: jax.Array | None) -> jax.Array:
    """Returns the images or features of a batch.

    Args:
      batch: has `image`, (B, H, W, 3) uint8 or (B, F) float32, or, with `pixels`, `index` (B,): their rows in `pixels`.
      pixels: array resident on the device, images (N, H, W, 3) uint8 or features (N, F) float32, or None.

    Returns:
      images (B, H, W, 3) float32 in [0, 1], or features (B, F) float32, unscaled.
    """
    images = batch["image"] if pixels is None else pixels[batch["index"]]
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images
