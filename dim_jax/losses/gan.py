"""The objectives of a GAN's two networks, one number per image.

The mean over the images of the global batch is the loss, so that any number of devices gives the same value. Logits are
(N, L) float32: a discriminator that judges patches gives L of them per image, which are averaged. High means real.
"""

import jax
import jax.numpy as jnp


def margins(example_keys: jax.Array, num_logits: int) -> jax.Array:
    """Draws how far logits have to go: uniform in 0.8 to 1 per logit, from each image's own key.

    Args:
      example_keys: (N,) random keys.
      num_logits: logits per image, L.

    Returns:
      (N, L) margins for `hinge_real` or `hinge_fake`.
    """
    return jax.vmap(lambda key: jax.random.uniform(key, (num_logits,), minval=0.8, maxval=1.0))(example_keys)


def hinge_real(logits: jax.Array, margins: jax.Array | float = 1.0) -> jax.Array:
    """The discriminator's loss on real images, the mean of max(0, margin - logit), (N,): 0 where all pass the margin.

    Args:
      logits: (N, L) of real images.
      margins: (N, L), above 0.

    Reference: Lim & Ye, "Geometric GAN", 2017; with drawn margins: Liu et al., FastGAN, ICLR 2021.
    """
    return jax.nn.relu(margins - logits).mean(-1)


def hinge_fake(logits: jax.Array, margins: jax.Array | float = 1.0) -> jax.Array:
    """The discriminator's loss on generated images, the mean of max(0, margin + logit), (N,).

    Args:
      logits: (N, L) of generated images.
      margins: (N, L), above 0.
    """
    return hinge_real(-logits, margins)


def generator(logits: jax.Array) -> jax.Array:
    """The generator's loss, minus the mean of the (N, L) logits of its images, (N,)."""
    return -logits.mean(-1)


def pixel_distance(images: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the mean squared difference of two (N, H, W, C) arrays over all but the first axis, (N,)."""
    return jnp.square(images - targets).mean((1, 2, 3))
