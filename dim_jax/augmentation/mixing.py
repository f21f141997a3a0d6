"""Mixing of training examples in pairs: MixUp, CutMix and Balanced-MixUp.

A method is called as `method(key, x, partner, alpha)` for one example and returns the mixed input and the partner's
share of the label. The loss of a mixed example is that of both labels, weighted by their shares.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Mixed = tuple[jax.Array, jax.Array]


def mixup(key: jax.Array, x: jax.Array, partner: jax.Array, alpha: float) -> Mixed:
    """MixUp, (1 - s) x + s partner with a share s from Beta(alpha, alpha).

    Args:
      key: random key of the example.
      x, partner: images (H, W, 3) or features (F,).
      alpha: above 0; small values leave most examples almost unmixed.

    Returns:
      the mixed input, and the partner's share s.

    Reference: Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018, section 2.
    """
    share = jax.random.beta(key, alpha, alpha)
    return x + share * (partner - x), share


def cutmix(key: jax.Array, x: jax.Array, partner: jax.Array, alpha: float) -> Mixed:
    """CutMix: a rectangle of `x` is replaced by that of the partner.

    Its area before it is clipped to the image is a share from Beta(alpha, alpha), its centre uniform in the image, and
    its shape the image's.

    Args:
      key: random key of the example.
      x, partner: images (H, W, 3).
      alpha: above 0; 1, as published, makes every area equally likely.

    Returns:
      the mixed image, and the share of pixels that are the partner's.

    Reference: Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features",
    ICCV 2019, section 3.1.
    """
    area_key, centre_key = jax.random.split(key)
    half_side = 0.5 * jnp.sqrt(jax.random.beta(area_key, alpha, alpha))
    centre = jax.random.uniform(centre_key, (2,))

    def is_inside(size: int, centre: jax.Array) -> jax.Array:
        first, last = (jnp.round(size * (centre + side)) for side in (-half_side, half_side))
        pixels = jnp.arange(size)
        return (pixels >= first) & (pixels < last)

    height, width, _ = x.shape
    is_partner = is_inside(height, centre[0])[:, None] & is_inside(width, centre[1])[None, :]
    return jnp.where(is_partner[..., None], partner, x), is_partner.mean(dtype=x.dtype)


def balanced_mixup(key: jax.Array, x: jax.Array, partner: jax.Array, alpha: float) -> Mixed:
    """Balanced-MixUp, (1 - s) x + s partner with s from Beta(alpha, 1) and a partner drawn from a random class.

    `x` is drawn by instance; the sampler draws partners of all classes equally often. Most shares are small, so that
    rare classes are learned without being repeated unmixed.

    Args:
      key: random key of the example.
      x, partner: images (H, W, 3) or features (F,).
      alpha: above 0; published are 0.1 and 0.2. The mean share is `balanced_share`.

    Returns:
      the mixed input, and the partner's share s.

    Reference: Galdran et al., "Balanced-MixUp for highly imbalanced medical image classification", MICCAI 2021,
    section 2.2.
    """
    # The inverse of the distribution function s^alpha, of a uniform number in (0, 1].
    share = (1.0 - jax.random.uniform(key)) ** (1.0 / alpha)
    return x + share * (partner - x), share


def balanced_share(alpha: float) -> float:
    """Returns the mean share of the partner in `balanced_mixup`."""
    return alpha / (1.0 + alpha)


METHODS: dict[str, Callable[..., Mixed]] = {
    "mixup": mixup,
    "cutmix": cutmix,
    "balanced_mixup": balanced_mixup,
}
