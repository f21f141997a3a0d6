"""Augmentation of histology images, with one random key per image."""

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.augmentation import Augmentation

# Rows: absorption of red, green and blue (optical density, unit norm) by haematoxylin, eosin and a residual direction.
# Reference: Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution", 2001.
_HAEMATOXYLIN = np.array([0.650, 0.704, 0.286])
_EOSIN = np.array([0.072, 0.990, 0.105])
_RESIDUAL = np.cross(_HAEMATOXYLIN, _EOSIN)
STAINS = np.stack([vector / np.linalg.norm(vector) for vector in (_HAEMATOXYLIN, _EOSIN, _RESIDUAL)]).astype(np.float32)


@jax.named_scope("augmentation")
def augment(
    example_keys: jax.Array,
    images: jax.Array,
    *,
    flip: bool,
    rotate: bool,
    stain_jitter: float,
    function: Augmentation | None = None,
) -> jax.Array:
    """Augments each image with its own key, independently of the rest of the batch.

    Args:
      example_keys: (N,) random keys.
      images: (N, H, W, 3) float32 in [0, 1]; H = W where `rotate` is on.
      flip: mirror left-right with probability 1/2.
      rotate: rotate by 0, 90, 180 or 270 degrees, each with probability 1/4.
      stain_jitter: strength of `jitter_stains`, >= 0; 0 is off.
      function: applied to each image after the above; see `dim_jax.augmentation.get_function`.

    Returns:
      (N, H, W, 3) float32 in [0, 1].
    """

    def augment_one(key: jax.Array, image: jax.Array) -> jax.Array:
        flip_key, rotate_key, stain_key = jax.random.split(key, 3)
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        if rotate:
            image = rotate_by_right_angles(image, jax.random.randint(rotate_key, (), 0, 4))
        if stain_jitter:
            image = jitter_stains(stain_key, image, stain_jitter)
        return image if function is None else function(jax.random.fold_in(key, 3), image)

    return jax.vmap(augment_one)(example_keys, images)


def rotate_by_right_angles(image: jax.Array, turns: jax.Array) -> jax.Array:
    """Rotates a square (S, S, C) image counter-clockwise by `turns` (0 to 3) times 90 degrees."""
    image = jnp.where(turns % 2 == 1, jnp.rot90(image), image)
    return jnp.where(turns >= 2, image[::-1, ::-1], image)


def jitter_stains(key: jax.Array, image: jax.Array, strength: float) -> jax.Array:
    """Stain augmentation: scales and shifts the amount of each stain in optical density.

    In optical density, -log of the transmitted light, stains add up (Beer-Lambert law). The amount c of each of three
    stains becomes c (1 + a) + b / 10, with a and b uniform in +-`strength` per stain; the small shift keeps the
    background near white.

    Args:
      key: random key.
      image: (H, W, 3) in [0, 1].
      strength: largest relative change of a stain's amount, >= 0.

    Returns:
      (H, W, 3) in [0, 1].

    Reference: Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
    distilled stain-invariant convolutional networks", IEEE TMI 2018.
    """
    gain_key, shift_key = jax.random.split(key)
    gain = 1.0 + jax.random.uniform(gain_key, (3,), minval=-strength, maxval=strength)
    shift = 0.1 * jax.random.uniform(shift_key, (3,), minval=-strength, maxval=strength)
    optical_density = -jnp.log((image * 255.0 + 1.0) / 256.0)
    # Written out for three channels: stays in float32 on every backend, and fuses with the operations around it.
    amounts = _channel_product(optical_density, np.linalg.inv(STAINS))
    optical_density = _channel_product(amounts * gain + shift, STAINS)
    return jnp.clip((jnp.exp(-optical_density) * 256.0 - 1.0) / 255.0, 0.0, 1.0)


def _channel_product(image: jax.Array, matrix: np.ndarray) -> jax.Array:
    """Returns image @ matrix for (H, W, 3) and (3, 3) as nine multiply-adds."""
    return sum(image[..., channel : channel + 1] * matrix[channel].astype(np.float32) for channel in range(3))


def normalize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Normalises images per channel, (x - mean) / std.

    Args:
      images: (N, H, W, 3) in [0, 1], or features (N, F).
      mean, std: (3,) or (F,), on the same scale.

    Returns:
      array of the shape of `images`.
    """
    return (images - mean) / std
