"""Differentiable augmentation of the inputs of a GAN's discriminator: colour, translation, and optionally Cutout.

Real and generated images are augmented with the same distribution, and gradients reach the generator through the
augmentation: the discriminator cannot memorise a few dozen images, and the generator does not learn the augmentation.

Reference: Zhao et al., "Differentiable augmentation for data-efficient GAN training", NeurIPS 2020; DeVries &
Taylor, "Improved regularization of convolutional neural networks with Cutout", 2017.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

CUTOUT_SHARE = 0.5  # of the side of an image


class Draws(flax.struct.PyTreeNode):
    """Random numbers of the augmentation of N images, uniform in [0, 1) and independent of the image size.

    Attributes:
      brightness, saturation, contrast: (N,).
      shift: (N, 2), for rows and columns.
      applied: (N,) bool; False leaves the image unchanged.
      cutout: (N, 2), for the row and the column of the centre of Cutout's square; None for no Cutout.
    """

    brightness: jax.Array
    saturation: jax.Array
    contrast: jax.Array
    shift: jax.Array
    applied: jax.Array
    cutout: jax.Array | None = None


def draw(example_keys: jax.Array, probability: jax.Array | float, cutout: bool = False) -> Draws:
    """Draws the random numbers of each image from its own key, independently of the rest of the batch.

    Args:
      example_keys: (N,) random keys.
      probability: probability of augmenting an image, in [0, 1]; 1 is the published augmentation. May be traced.
      cutout: also draw the place of a square that is set to 0.
    """
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (6,)))(example_keys)
    return Draws(
        brightness=uniform[:, 0],
        saturation=uniform[:, 1],
        contrast=uniform[:, 2],
        shift=uniform[:, 3:5],
        applied=uniform[:, 5] < probability,
        # Of a key of its own, so that the other numbers do not depend on it.
        cutout=jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 2), (2,)))(example_keys)
        if cutout
        else None,
    )


@jax.named_scope("augmentation")
def apply(images: jax.Array, draws: Draws) -> jax.Array:
    """Augments images: colour jitter, a shift of up to an eighth of the side, and Cutout if `draws` has it.

    Args:
      images: (N, S, S, C), in about [-1, 1].
      draws: random numbers of N images.

    Returns:
      (N, S, S, C); values may leave [-1, 1]. Images with `applied` False are unchanged bit for bit.
    """
    side = images.shape[1]
    limit = largest_shift(side)
    shifted = translate(change_colours(images, draws), shifts_in_pixels(draws, limit), limit)
    return shifted if draws.cutout is None else jnp.where(cutout_squares(draws, side), 0.0, shifted)


@jax.named_scope("augmentation")
def apply_to_scales(images: jax.Array, small: jax.Array, draws: Draws) -> tuple[jax.Array, jax.Array]:
    """Augments two sizes of the same images identically.

    Shifts are whole pixels of the small images. If `small` is the block average of `images`, so is the result.

    Args:
      images: (N, S, S, C).
      small: (N, s, s, C) with s a divisor of S.
      draws: random numbers of N images.

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
    images = translate(change_colours(images, draws), factor * shifts, factor * limit)
    small = translate(change_colours(small, draws), shifts, limit)
    if draws.cutout is None:
        return images, small
    squares = cutout_squares(draws, small_side)
    return jnp.where(squares.repeat(factor, 1).repeat(factor, 2), 0.0, images), jnp.where(squares, 0.0, small)


def change_colours(images: jax.Array, draws: Draws) -> jax.Array:
    """Jitters brightness, then saturation, then contrast.

    Brightness adds -1/2 to 1/2; saturation scales the distance from each pixel's grey by 0 to 2; contrast scales the
    distance from the image's mean by 1/2 to 3/2.

    Args:
      images: (N, H, W, C).
      draws: random numbers of N images.

    Returns:
      (N, H, W, C).
    """

    def strength(value: jax.Array, neutral: float) -> jax.Array:
        return jnp.where(draws.applied, value, neutral)[:, None, None, None]

    brightness = strength(draws.brightness - 0.5, 0.0)
    saturation = strength(2.0 * draws.saturation, 1.0)
    contrast = strength(draws.contrast + 0.5, 1.0)
    # As weighted means, which return the image itself for a strength of 1.
    images = images + brightness
    images = saturation * images + (1.0 - saturation) * _grey(images)
    return contrast * images + (1.0 - contrast) * images.mean((1, 2, 3), keepdims=True)


def largest_shift(side: int) -> int:
    """Returns the largest shift in pixels of an image of `side` px: an eighth, rounded half up."""
    return int(side / 8 + 0.5)


def shifts_in_pixels(draws: Draws, limit: int) -> jax.Array:
    """Returns the shifts, (N, 2) int32 in pixels: uniform from -limit to limit, 0 where `applied` is False."""
    steps = jnp.floor(draws.shift * (2 * limit + 1)).astype(jnp.int32)
    return jnp.where(draws.applied[:, None], jnp.minimum(steps, 2 * limit) - limit, 0)


def cutout_squares(draws: Draws, side: int) -> jax.Array:
    """Returns whether each pixel is in the square that Cutout sets to 0, (N, side, side, 1) bool.

    The square has half the side of the image, rounded half up. Its centre is uniform over the image, so it may reach
    beyond the edge; a square of even side has its centre between pixels, also on the edge. Empty where `applied` is
    False.
    """
    size = int(side * CUTOUT_SHARE + 0.5)
    places = side + 1 - size % 2
    centres = jnp.minimum(jnp.floor(jnp.asarray(draws.cutout) * places).astype(jnp.int32), places - 1)
    first = (centres - size // 2)[:, None]
    pixels = jnp.arange(side)[:, None]
    is_inside = (first <= pixels) & (pixels < first + size)  # (N, side, 2)
    return (is_inside[:, :, None, 0] & is_inside[:, None, :, 1] & draws.applied[:, None, None])[..., None]


def adapt_probability(
    probability: jax.Array,
    sign_mean: jax.Array,
    target: jax.Array | float,
    step_images: jax.Array | float,
    images_to_one: jax.Array | float,
) -> jax.Array:
    """Adaptive discriminator augmentation: one update of the augmentation probability.

    The mean sign of the logits of real images approaches 1 as the discriminator overfits. The probability increases
    while it is above the target and decreases while it is below.

    Args:
      probability: scalar, in [0, 1].
      sign_mean: mean sign of the logits of real images, in [-1, 1].
      target: value of sign_mean to hold; the paper uses 0.6.
      step_images: real images since the last update.
      images_to_one: number of images in which the probability can go from 0 to 1; the paper uses 500,000.

    Returns:
      The new probability, in [0, 1].

    Reference: Karras et al., "Training generative adversarial networks with limited data", NeurIPS 2020, section 3.
    """
    return jnp.clip(probability + jnp.sign(sign_mean - target) * (step_images / images_to_one), 0.0, 1.0)


# Both functions below have a custom VJP. Autodiff derives a scatter and additions into padded slices, five to ten times
# slower on CPU than the functions themselves.


@jax.custom_vjp
def _grey(images: jax.Array) -> jax.Array:
    """Returns (N, H, W, C) images whose channels all are the mean over channels; self-adjoint."""
    # A reduction over an axis of size three is slow on CPU; a sum of three slices is not.
    channels = images.shape[-1]
    mean = sum(images[..., channel : channel + 1] for channel in range(channels)) / channels
    return jnp.broadcast_to(mean, images.shape)


_grey.defvjp(lambda images: (_grey(images), None), lambda _, cotangent: (_grey(cotangent),))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def translate(images: jax.Array, shifts: jax.Array, limit: int) -> jax.Array:
    """Shifts each image, padding with zeros: result[r, c] = image[r + shift_r, c + shift_c].

    Args:
      images: (N, H, W, C).
      shifts: (N, 2) int32 in pixels, each -limit to limit.
      limit: largest shift.

    Returns:
      (N, H, W, C).
    """
    padded = jnp.pad(images, ((0, 0), (limit, limit), (limit, limit), (0, 0)))

    def crop(padded: jax.Array, shift: jax.Array) -> jax.Array:
        row, column = limit + shift
        return lax.dynamic_slice(padded, (row, column, jnp.zeros_like(row)), images.shape[1:])

    return jax.vmap(crop)(padded, shifts)


translate.defvjp(
    lambda images, shifts, limit: (translate(images, shifts, limit), shifts),
    lambda limit, shifts, cotangent: (translate(cotangent, -shifts, limit), None),
)
