"""Differentiable augmentation of what a GAN's discriminator sees: colour, then translation.

Real and generated images are augmented alike, and the generator learns through the augmentation, so the discriminator
cannot learn a few dozen images by heart while the generator does not learn to draw augmented ones.

Reference: Zhao et al., "Differentiable augmentation for data-efficient GAN training", NeurIPS 2020.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax


class Draws(flax.struct.PyTreeNode):
    """Random numbers behind the augmentation of N images, uniform in [0, 1) and free of any image size.

    Attributes:
      brightness, saturation, contrast: (N,).
      shift: (N, 2), for rows and columns.
      applied: (N,) bool; False leaves the image as it is.
    """

    brightness: jax.Array
    saturation: jax.Array
    contrast: jax.Array
    shift: jax.Array
    applied: jax.Array


def draw(example_keys: jax.Array, probability: jax.Array | float) -> Draws:
    """Draws for each image from its own key, so that the batch around it does not matter.

    Args:
      example_keys: (N,) random keys.
      probability: with which an image is augmented at all, 0 to 1; 1 is the published augmentation. May be traced.
    """
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (6,)))(example_keys)
    return Draws(
        brightness=uniform[:, 0],
        saturation=uniform[:, 1],
        contrast=uniform[:, 2],
        shift=uniform[:, 3:5],
        applied=uniform[:, 5] < probability,
    )


def apply(images: jax.Array, draws: Draws) -> jax.Array:
    """Augments (N, S, S, C) images of about [-1, 1]; colours may leave that range. The shift is up to an eighth of S.

    Images that are not to be augmented come out bit for bit as they went in.
    """
    limit = largest_shift(images.shape[1])
    return translate(change_colours(images, draws), shifts_in_pixels(draws, limit), limit)


def apply_to_scales(images: jax.Array, small: jax.Array, draws: Draws) -> tuple[jax.Array, jax.Array]:
    """Augments both sizes of the same images alike.

    Shifts are whole pixels of the small image. Where `small` is `images` averaged over blocks, so is the result.

    Args:
      images: (N, S, S, C).
      small: (N, s, s, C) with s a divisor of S.

    Returns:
      The augmented `images` and `small`.

    Raises:
      ValueError: s does not divide S.
    """
    side, small_side = images.shape[1], small.shape[1]
    if side % small_side:
        raise ValueError(f"images of {side} px and {small_side} px cannot shift alike: give sides of a whole ratio")
    factor, limit = side // small_side, largest_shift(small_side)
    shifts = shifts_in_pixels(draws, limit)
    return (
        translate(change_colours(images, draws), factor * shifts, factor * limit),
        translate(change_colours(small, draws), shifts, limit),
    )


def change_colours(images: jax.Array, draws: Draws) -> jax.Array:
    """Changes the brightness, then saturation, then contrast of (N, H, W, C) images.

    Brightness adds -1/2 to 1/2; saturation scales the distance from each pixel's grey by 0 to 2; contrast scales the
    distance from the image's mean by 1/2 to 3/2.
    """

    def strength(value: jax.Array, neutral: float) -> jax.Array:
        return jnp.where(draws.applied, value, neutral)[:, None, None, None]

    brightness = strength(draws.brightness - 0.5, 0.0)
    saturation = strength(2.0 * draws.saturation, 1.0)
    contrast = strength(draws.contrast + 0.5, 1.0)
    # As weighted means, because these give back the image itself where the strength is 1.
    images = images + brightness
    images = saturation * images + (1.0 - saturation) * _grey(images)
    return contrast * images + (1.0 - contrast) * images.mean((1, 2, 3), keepdims=True)


def largest_shift(side: int) -> int:
    """Returns by how many pixels at most an image of `side` px is shifted: an eighth, rounded half up."""
    return int(side / 8 + 0.5)


def shifts_in_pixels(draws: Draws, limit: int) -> jax.Array:
    """Returns the drawn shifts, (N, 2) int32: each of -limit to limit is equally likely; 0 where nothing is applied."""
    steps = jnp.floor(draws.shift * (2 * limit + 1)).astype(jnp.int32)
    return jnp.where(draws.applied[:, None], jnp.minimum(steps, 2 * limit) - limit, 0)


def adapt_probability(
    probability: jax.Array,
    sign_mean: jax.Array,
    target: jax.Array | float,
    step_images: jax.Array | float,
    images_to_one: jax.Array | float,
) -> jax.Array:
    """Moves the probability of augmentation one step towards where the discriminator overfits just as much as allowed.

    A discriminator that knows the real images by heart calls all of them real: the mean sign of its logits nears 1.
    Above the target, augmentation becomes more likely; below, less.

    Args:
      probability: scalar, 0 to 1.
      sign_mean: mean over all real images and their logits of the sign, -1 to 1.
      target: sign_mean to hold; the paper uses 0.6.
      step_images: real images seen since the last call.
      images_to_one: how many images take the probability from 0 to 1 at the quickest; the paper uses 500,000.

    Returns:
      The new probability, 0 to 1.

    Reference: Karras et al., "Training generative adversarial networks with limited data", NeurIPS 2020, section 3.
    """
    return jnp.clip(probability + jnp.sign(sign_mean - target) * (step_images / images_to_one), 0.0, 1.0)


# The gradients of both functions below are stated. Those that autodiff derives are a scatter and additions into padded
# slices, five to ten times slower on the CPU than the functions themselves.


@jax.custom_vjp
def _grey(images: jax.Array) -> jax.Array:
    """Returns (N, H, W, C) images whose channels are all the mean over channels; its own adjoint."""
    # A reduction over an axis of three is slow on the CPU; a sum of three slices is not.
    channels = images.shape[-1]
    mean = sum(images[..., channel : channel + 1] for channel in range(channels)) / channels
    return jnp.broadcast_to(mean, images.shape)


_grey.defvjp(lambda images: (_grey(images), None), lambda _, gradient: (_grey(gradient),))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def translate(images: jax.Array, shifts: jax.Array, limit: int) -> jax.Array:
    """Moves each image over a surrounding of zeros: result[r, c] = image[r + shift_r, c + shift_c].

    Args:
      images: (N, H, W, C).
      shifts: (N, 2) int32 in pixels, each -limit to limit.
      limit: largest shift.

    Returns:
      (N, H, W, C).
    """
    padded = jnp.pad(images, ((0, 0), (limit, limit), (limit, limit), (0, 0)))

    def cut(padded: jax.Array, shift: jax.Array) -> jax.Array:
        row, column = limit + shift
        return lax.dynamic_slice(padded, (row, column, jnp.zeros_like(row)), images.shape[1:])

    return jax.vmap(cut)(padded, shifts)


translate.defvjp(
    lambda images, shifts, limit: (translate(images, shifts, limit), shifts),
    lambda limit, shifts, gradient: (translate(gradient, -shifts, limit), None),
)
