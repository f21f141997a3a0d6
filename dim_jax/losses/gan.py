"""Per-example losses of a GAN's generator and discriminator.

The loss is their mean over the global batch, which does not depend on the number of devices. Logits are (N, L) float32,
high for real: L per image, from a patch discriminator, which are averaged.
"""

import jax
import jax.numpy as jnp


def margins(example_keys: jax.Array, num_logits: int) -> jax.Array:
    """Draws hinge margins, uniform in [0.8, 1) per logit.

    Args:
      example_keys: (N,) random keys.
      num_logits: logits per image, L.

    Returns:
      (N, L) margins for `hinge_real` or `hinge_fake`.
    """
    return jax.vmap(lambda key: jax.random.uniform(key, (num_logits,), minval=0.8, maxval=1.0))(example_keys)


def hinge_real(logits: jax.Array, margins: jax.Array | float = 1.0) -> jax.Array:
    """Hinge loss of the discriminator on real images, mean_l max(0, margin_l - logit_l).

    Args:
      logits: (N, L) of real images.
      margins: (N, L) or scalar, > 0.

    Returns:
      (N,) per-example losses.

    Reference: Lim & Ye, "Geometric GAN", arXiv 1705.02894, 2017; random margins as in Liu et al., "Towards faster and
    stabilized GAN training for high-fidelity few-shot image synthesis", ICLR 2021.
    """
    return jax.nn.relu(margins - logits).mean(-1)


def hinge_fake(logits: jax.Array, margins: jax.Array | float = 1.0) -> jax.Array:
    """Hinge loss of the discriminator on generated images, mean_l max(0, margin_l + logit_l).

    Args:
      logits: (N, L) of generated images.
      margins: (N, L) or scalar, > 0.

    Returns:
      (N,) per-example losses.
    """
    return hinge_real(-logits, margins)


def generator(logits: jax.Array) -> jax.Array:
    """Hinge loss of the generator, -mean_l logit_l, (N,) for logits (N, L) of generated images."""
    return -logits.mean(-1)


def pixel_distance(images: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean squared error per image, (N,), of images and targets (N, H, W, C)."""
    return jnp.square(images - targets).mean((1, 2, 3))
