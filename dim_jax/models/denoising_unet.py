"""Denoising U-Net of a diffusion model, with the noise level and the class as further inputs."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.kernels.resizing import repeat_pixels
from dim_jax.models.layers import Conv, Dtype, Linear
from dim_jax.models.ranges import Count, Width
from dim_jax.models.scales import shrink_area

GROUP_CHANNELS = 8  # of a group norm
FREQUENCIES = 32
LOWEST_FREQUENCY, HIGHEST_FREQUENCY = 0.25, 16.0  # cycles per unit of c_noise, which is from about -1.6 to 1.1


def normalize_groups(x: jax.Array, dtype: Dtype, name: str) -> jax.Array:
    """Applies a group norm over groups of GROUP_CHANNELS channels to x (N, H, W, C), called in a compact module."""
    return nn.GroupNorm(num_groups=None, group_size=GROUP_CHANNELS, epsilon=1e-5, dtype=dtype, name=name)(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norms, the second one scaled and shifted by the embedding.

    Attributes:
      features: output channels, a multiple of GROUP_CHANNELS.
      dtype: dtype of the computation.

    Reference: Dhariwal & Nichol, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, section 3.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        y = nn.silu(normalize_groups(x, self.dtype, "norm0"))
        y = Conv(self.features, 3, dtype=self.dtype, name="conv0")(y)
        modulation = Linear(2 * self.features, name="modulation")(embedding)[:, None, None].astype(self.dtype)
        scale, shift = jnp.split(modulation, 2, -1)
        y = nn.silu(normalize_groups(y, self.dtype, "norm1") * (1 + scale) + shift)
        y = Conv(self.features, 3, dtype=self.dtype, starts_at_zero=True, name="conv1")(y)
        return y + (x if x.shape[-1] == self.features else Conv(self.features, dtype=self.dtype, name="shortcut")(x))


class SelfAttention(nn.Module):
    """Residual self-attention of one head over all positions of a map.

    Attributes:
      dtype: dtype of the computation; the softmax is float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        number, height, width, channels = x.shape
        projected = Conv(3 * channels, dtype=self.dtype, name="project")(normalize_groups(x, self.dtype, "norm"))
        queries, keys, values = jnp.split(projected.reshape(number, height * width, 3 * channels), 3, -1)
        scores = jnp.einsum("nqc,nkc->nqk", queries * channels**-0.5, keys)
        weights = nn.softmax(at_least_float32(scores)).astype(self.dtype)
        y = jnp.einsum("nqk,nkc->nqc", weights, values).reshape(x.shape)
        return x + Conv(channels, dtype=self.dtype, starts_at_zero=True, name="merge")(y)


class DenoisingUNet(nn.Module):
    """U-Net F(x; c_noise, label) of a denoiser (models/preconditioning.py), 5.5 M parameters by default.

    Attributes:
      num_classes: number of classes; 0 for a network without labels. The label `num_classes` stands for no class.
      width: multiplies all numbers of channels, rounded to whole groups of a group norm.
      patch: side in px of the squares of pixels whose colours are the channels of one position of the first map.
      channels: channels of each level; every level but the first halves the resolution.
      blocks: residual blocks of each level, on the way down and on the way up.
      attention_side: attention follows the blocks of maps of at most this side.
      dtype: dtype of the computation; parameters and the result are float32.

    Reference: Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015; Ho et
    al., "Denoising diffusion probabilistic models", NeurIPS 2020, appendix B.
    """

    num_classes: int = 0
    width: Width = 1.0
    patch: Count = 2
    channels: Sequence[Count] = (64, 128, 128)
    blocks: Count = 2
    attention_side: Count = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, noise: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Args:
          x: scaled noisy images (N, S, S, C), S a multiple of `granularity`.
          noise: c_noise, (N,).
          labels: (N,) int32, from 0 to `num_classes`; required if `num_classes` is above 0, else None.

        Returns:
          (N, S, S, C) float32.

        Raises:
          ValueError: labels are missing or given to a network without labels.
        """
        if (labels is None) != (self.num_classes == 0):
            raise ValueError("labels are required by a class-conditional network, and by no other")
        widths = [GROUP_CHANNELS * max(round(number * self.width / GROUP_CHANNELS), 1) for number in self.channels]
        embedding = self._embed(noise, labels, 4 * widths[0])
        colours = x.shape[-1]
        x = Conv(widths[0], 3, dtype=self.dtype, name="stem")(fold(x, self.patch))
        skips = []

        def refine(x: jax.Array, features: int, name: str) -> jax.Array:
            x = ResidualBlock(features, self.dtype, name=name)(x, embedding)
            if x.shape[1] > self.attention_side:
                return x
            return SelfAttention(self.dtype, name=f"{name}_attention")(x)

        for level, features in enumerate(widths):
            x = shrink_area(x, x.shape[1] // 2) if level else x
            for number in range(self.blocks):
                x = refine(x, features, f"down{level}_{number}")
                skips.append(x)
        x = refine(x, widths[-1], "middle0")
        x = ResidualBlock(widths[-1], self.dtype, name="middle1")(x, embedding)
        for level, features in reversed(list(enumerate(widths))):
            for number in range(self.blocks):
                x = refine(jnp.concatenate([x, skips.pop()], -1), features, f"up{level}_{number}")
            x = repeat_pixels(x) if level else x
        x = nn.silu(normalize_groups(x, self.dtype, "norm"))
        x = Conv(self.patch**2 * colours, 3, dtype=self.dtype, starts_at_zero=True, name="head")(x)
        return at_least_float32(unfold(x, self.patch))

    @property
    def granularity(self) -> int:
        """The number of pixels that the side of an image must be a multiple of."""
        return self.patch * 2 ** (len(self.channels) - 1)

    def _embed(self, noise: jax.Array, labels: jax.Array | None, features: int) -> jax.Array:
        """Returns the embedding (N, features) of noise levels and classes."""
        frequencies = np.geomspace(LOWEST_FREQUENCY, HIGHEST_FREQUENCY, FREQUENCIES)
        angles = 2 * np.pi * noise[:, None] * frequencies.astype(noise.dtype)
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
        embedding = Linear(features, name="embed0")(waves)
        if labels is not None:
            table = self.param("labels", nn.initializers.normal(1.0), (self.num_classes + 1, features))
            embedding += table[labels]
        return nn.silu(Linear(features, name="embed1")(nn.silu(embedding)))


def fold(images: jax.Array, side: int) -> jax.Array:
    """Space to depth: (N, H, W, C) -> (N, H / side, W / side, side^2 C)."""
    number, height, width, channels = images.shape
    squares = images.reshape(number, height // side, side, width // side, side, channels).swapaxes(2, 3)
    return squares.reshape(number, height // side, width // side, side * side * channels)


def unfold(maps: jax.Array, side: int) -> jax.Array:
    """Depth to space, the inverse of `fold`."""
    number, height, width, channels = maps.shape
    squares = maps.reshape(number, height, width, side, side, channels // side**2).swapaxes(2, 3)
    return squares.reshape(number, height * side, width * side, channels // side**2)
