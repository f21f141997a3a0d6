"""GCGAN: a GAN whose small feature maps gate its large ones through global context (DIM, JBHI 2026).

Fields select FastGAN's blocks instead. Feature maps are keyed by their side in pixels. Sizes below 256 px leave out the
largest maps of the published networks, with the gates from or to them.
"""

import re
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.batch_norm import BatchNorm
from dim_jax.models.gcgan_blocks import (
    CompoundUpBlock,
    Decoder,
    DownBlock,
    Gate,
    Noise,
    UpBlock,
    gated_linear,
    leaky_relu,
)
from dim_jax.models.kernels.convolutions import valid_convolution
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.kernels.resizing import halving_convolution
from dim_jax.models.layers import Dtype
from dim_jax.models.ranges import Count, Width
from dim_jax.models.scales import small_size
from dim_jax.models.spectral import SpectralConv, SpectralEmbedding, SpectralSeed

SIZES = (64, 128, 256, 512, 1024)
GATES, UP_BLOCKS, CONTEXTS = ("gc", "sle", "none"), ("residual", "compound", "plain"), ("map", "context")

# Side of a map -> its channels.
GENERATOR_CHANNELS = {4: 1024, 8: 512, 16: 256, 32: 128, 64: 128, 128: 64, 256: 32, 512: 16, 1024: 8}
BIG_CHANNELS = {256: 16, 128: 32, 64: 64, 32: 128, 16: 256, 8: 512}
SMALL_CHANNELS = {64: 32, 32: 64, 16: 128, 8: 256}
STEM_CHANNELS = 8
DECODER_CHANNELS = {16: 128, 32: 64, 64: 64, 128: 32}
# Side of a gated map over that of its source in the generator; the inverse in the discriminator.
GENERATOR_REACH, DISCRIMINATOR_REACH = 16, 8
LABEL_FEATURES = 64


def scaled_channels(channels: int, width: float) -> int:
    """Returns `channels` times `width`, rounded, at least 1."""
    return max(round(channels * width), 1)


class BigBranch(nn.Module):
    """Discriminator of full-size images: a stem down to 256 px, then blocks down to 8 px, the later ones gated.

    Attributes:
      size: side of the images in px.
      width: multiplies the channels of BIG_CHANNELS.
      gate, context: as for Generator.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.
    """

    size: int
    width: float = 1.0
    gate: str = "gc"
    context: str = "map"
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[int, jax.Array]]:
        """Returns the logits (N, 25) and the feature maps by side in px."""

        def activated(y: jax.Array, name: str) -> jax.Array:
            return leaky_relu(BatchNorm(self.axis_name, dtype=self.dtype, name=f"{name}_norm")(y, train))

        def halve(y: jax.Array, features: int, name: str) -> jax.Array:
            return SpectralConv(features, 4, halving_convolution, self.dtype, name=name)(y, train)

        side = min(self.size, 256)
        features = scaled_channels(BIG_CHANNELS[side], self.width)
        if self.size == 1024:
            x = leaky_relu(halve(x, scaled_channels(STEM_CHANNELS, self.width), "stem"))
            x = activated(halve(x, features, "stem_second"), "stem_second")
        elif self.size == 512:
            x = leaky_relu(halve(x, features, "stem"))
        else:
            x = leaky_relu(SpectralConv(features, dtype=self.dtype, name="stem")(x, train))
        maps = {side: x}
        while side > 8:
            side //= 2
            features = scaled_channels(BIG_CHANNELS[side], self.width)
            x = DownBlock(features, self.axis_name, self.dtype, name=f"down{side}")(x, train)
            source = side * DISCRIMINATOR_REACH
            if self.gate != "none" and source in maps:
                x = Gate(self.gate, self.context, self.dtype, name=f"gate{side}")(maps[source], x, train)
            maps[side] = x
        hidden = SpectralConv(2 * features, 1, dtype=self.dtype, name="hidden")(x, train)
        hidden = activated(hidden, "hidden")
        logits = SpectralConv(1, 4, valid_convolution, self.dtype, name="logits")(hidden, train)
        return at_least_float32(logits).reshape(len(logits), -1), maps


class SmallBranch(nn.Module):
    """Discriminator of small images: convolutions down to 8 px.

    Attributes:
      size: side of the small images in px: 32, 64 or 128.
      width: multiplies the channels of SMALL_CHANNELS.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.
    """

    size: int
    width: float = 1.0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns the logits (N, 25) and the last map (N, 8, 8, C)."""
        for side, channels in SMALL_CHANNELS.items():
            if side >= self.size:
                continue
            features = scaled_channels(channels, self.width)
            x = SpectralConv(features, 4, halving_convolution, self.dtype, name=f"halve{side}")(x, train)
            if side < self.size // 2:  # not after the first convolution
                x = BatchNorm(self.axis_name, dtype=self.dtype, name=f"halve{side}_norm")(x, train)
            x = leaky_relu(x)
        logits = SpectralConv(1, 4, valid_convolution, self.dtype, name="logits")(x, train)
        return at_least_float32(logits).reshape(len(logits), -1), x


class Generator(nn.Module):
    """Generates images from latent vectors. The defaults are the published network at 1024 px.

    Attributes:
      size: side of the images in px: 64, 128, 256, 512 or 1024.
      width: multiplies all numbers of channels, rounded to at least 1; not the latent size.
      gate: "gc" (global context), "sle" (skip-layer excitation, as in FastGAN) or "none".
      up: "residual"; "compound" as in FastGAN, without the residual path; or "plain": all blocks are UpBlock.
      context: see GlobalContext.
      tanh: squash pixels to (-1, 1); published at 1024 px only.
      num_classes: number of classes of a conditional GAN, whose learned class embedding is appended to the latent
        vector; 0 for an unconditional one.
      latent_size: length of a latent vector.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation; parameters and images are float32.

    Reference: Yuan et al., "Dual-level imbalance mitigation for single-FoV colorectal histopathology image
    classification", IEEE JBHI 2026; Liu et al., "Towards faster and stabilized GAN training for high-fidelity few-shot
    image synthesis", ICLR 2021.
    """

    size: int
    width: Width = 1.0
    gate: Literal["gc", "sle", "none"] = "gc"
    up: Literal["residual", "compound", "plain"] = "residual"
    context: Literal["map", "context"] = "map"
    tanh: bool = True
    num_classes: int = 0
    latent_size: Count = 256
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        _check_fields(self)
        _check_choice("up", self.up, UP_BLOCKS)
        super().__post_init__()

    @property
    def noise_sides(self) -> dict[int, int]:
        """Layer with injected noise -> side of its map; the noise of an image is normal, (side, side, 1) a layer."""
        blocks = [(number, side) for number, side in enumerate(list(GENERATOR_CHANNELS)[1:]) if side <= self.size]
        noisy = [(number, side) for number, side in blocks if number % 2 == 0 and self.up != "plain"]
        return {2 * number + half: side for number, side in noisy for half in (0, 1)}

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        train: bool,
        labels: jax.Array | None = None,
        noise: Noise = None,
        label_strength: float | jax.Array = 1.0,
    ) -> tuple[jax.Array, jax.Array]:
        """Generates one image per latent vector, at two sizes.

        Args:
          z: (N, latent_size), standard normal.
          train: use and update batch statistics and singular vectors: needs mutable batch_stats and spectral.
          labels: (N,) int32; required if `num_classes` is above 0, else None.
          noise: random keys (N,), one per image, for the injected noise; the noise itself, layer -> (N, side, side, 1)
            as `noise_sides` has it; or None for no noise.
          label_strength: scalar in [0, 1], the scale of the class embedding; 0 ignores the labels.

        Returns:
          images (N, size, size, 3) and (N, s, s, 3) with s = small_size(size), float32.

        Raises:
          ValueError: labels are missing, or given to an unconditional network.
        """
        _check_labels(labels, self.num_classes)
        if labels is not None:
            table = self.param("labels", nn.initializers.normal(1.0), (self.num_classes, LABEL_FEATURES))
            embedding = jax.nn.one_hot(labels, self.num_classes, dtype=z.dtype) @ table
            z = jnp.concatenate([z, label_strength * embedding], axis=-1)
        features = 2 * scaled_channels(GENERATOR_CHANNELS[4], self.width)
        x = SpectralSeed(features, dtype=self.dtype, name="seed")(z, train)
        x = gated_linear(BatchNorm(self.axis_name, dtype=self.dtype, name="seed_norm")(x, train))
        maps = {4: x}
        for number, (side, channels) in enumerate(list(GENERATOR_CHANNELS.items())[1:]):
            if side > self.size:
                break
            features = scaled_channels(channels, self.width)
            if number % 2 == 0 and self.up != "plain":
                residual = self.up == "residual"
                block = CompoundUpBlock(features, number, residual, self.axis_name, self.dtype, name=f"up{side}")
                x = block(x, train, noise)
            else:
                x = UpBlock(features, self.axis_name, self.dtype, name=f"up{side}")(x, train)
            source = side // GENERATOR_REACH
            # As published, the last map has no gate, although its source map exists.
            if self.gate != "none" and source in maps and side < max(SIZES):
                x = Gate(self.gate, self.context, self.dtype, name=f"gate{side}")(maps[source], x, train)
            maps[side] = x
        images = SpectralConv(3, dtype=self.dtype, name="head")(x, train)
        small = SpectralConv(3, 1, dtype=self.dtype, name="small_head")(maps[small_size(self.size)], train)
        pair = at_least_float32(images), at_least_float32(small)
        return (jnp.tanh(pair[0]), jnp.tanh(pair[1])) if self.tanh else pair


class Discriminator(nn.Module):
    """Patch discriminator at two sizes, 25 patches each, with decoders that reconstruct real images.

    Attributes:
      size: side of the images in px: 64, 128, 256, 512 or 1024.
      width: multiplies all numbers of channels, rounded to at least 1.
      gate, context: as for Generator.
      num_classes: number of classes of a conditional GAN, whose logits also depend on the label; 0 for an
        unconditional one.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation; parameters, logits and images are float32.

    Reference: as for Generator; for labels Miyato & Koyama, "cGANs with projection discriminator", ICLR 2018,
    equation 4, with the mean over positions instead of the sum.
    """

    size: int
    width: Width = 1.0
    gate: Literal["gc", "sle", "none"] = "gc"
    context: Literal["map", "context"] = "map"
    num_classes: int = 0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        _check_fields(self)
        super().__post_init__()

    def setup(self) -> None:
        shared = {"axis_name": self.axis_name, "dtype": self.dtype}
        side = small_size(self.size)
        self.big = BigBranch(self.size, self.width, self.gate, self.context, **shared)
        self.small = SmallBranch(side, self.width, **shared)
        widths = tuple(scaled_channels(c, self.width) for reached, c in DECODER_CHANNELS.items() if reached <= side)
        self.decode_whole, self.decode_part, self.decode_small = (Decoder(widths, **shared) for _ in range(3))
        if self.num_classes:
            self.big_labels, self.small_labels = (
                SpectralEmbedding(self.num_classes, scaled_channels(channels[8], self.width))
                for channels in (BIG_CHANNELS, SMALL_CHANNELS)
            )

    def __call__(
        self,
        images: jax.Array,
        small: jax.Array,
        train: bool,
        labels: jax.Array | None = None,
        label_strength: float | jax.Array = 1.0,
    ) -> jax.Array:
        """Discriminates images.

        Args:
          images: (N, size, size, 3), in about [-1, 1].
          small: (N, s, s, 3), the same images with s = small_size(size).
          train: use and update batch statistics and singular vectors: needs mutable batch_stats and spectral.
          labels: (N,) int32; required if `num_classes` is above 0, else None.
          label_strength: scalar in [0, 1], the scale of the label's term in the logits.

        Returns:
          (N, 50) logits, float32, high for real: 25 of the images, then 25 of the small ones.

        Raises:
          ValueError: labels are missing, or given to an unconditional network.
        """
        return self._discriminate(images, small, train, labels, label_strength)[0]

    def reconstruct(
        self,
        images: jax.Array,
        small: jax.Array,
        part: int | jax.Array,
        train: bool,
        labels: jax.Array | None = None,
        label_strength: float | jax.Array = 1.0,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Discriminates real images and reconstructs them from feature maps.

        Initialise with this method, because it uses all parameters.

        Args:
          part: scalar int, the quadrant to reconstruct: 0 to 3, row by row from the top left.
          images, small, train, labels, label_strength: as in a call.

        Returns:
          logits as in a call, and three images (N, s, s, 3) in (-1, 1): "whole" and "small" reconstruct the image from
          the features of either size, "part" the quadrant from those of the full size.
        """
        logits, maps, small_map = self._discriminate(images, small, train, labels, label_strength)
        part = jnp.asarray(part)
        features = maps[16]
        corner = (0, part // 2 * 8, part % 2 * 8, 0)
        quadrant = lax.dynamic_slice(features, corner, (len(features), 8, 8, features.shape[-1]))
        return logits, {
            "whole": self.decode_whole(maps[8], train),
            "small": self.decode_small(small_map, train),
            "part": self.decode_part(quadrant, train),
        }

    def _discriminate(
        self,
        images: jax.Array,
        small: jax.Array,
        train: bool,
        labels: jax.Array | None,
        label_strength: float | jax.Array,
    ) -> tuple[jax.Array, dict[int, jax.Array], jax.Array]:
        """Returns the logits, the big branch's maps by side, and the small branch's last map."""
        _check_labels(labels, self.num_classes)
        big_logits, maps = self.big(images, train)
        small_logits, small_map = self.small(small, train)
        if labels is not None:
            big_logits += label_strength * _projection(maps[8], self.big_labels(labels, train))
            small_logits += label_strength * _projection(small_map, self.small_labels(labels, train))
        return jnp.concatenate([big_logits, small_logits], axis=-1), maps, small_map


def side_of_maps(path: Sequence[str], size: int) -> int:
    """Returns the side in px of the maps that a layer of the discriminator makes on the way down; 0 for other layers.

    Args:
      path: names from the branch to the parameter.
      size: side of the discriminator's images in px.
    """
    branch, layer = path[0], path[1].removesuffix("_norm")
    if branch == "big" and layer.startswith("stem"):
        return min(size, 256)
    named = re.fullmatch(r"(?:down|gate|halve)(\d+)", layer) if branch in ("big", "small") else None
    return int(named[1]) if named else 0


def _projection(features: jax.Array, embedding: jax.Array) -> jax.Array:
    """Returns the inner product (N, 1) of a map averaged over positions and the embedding (N, C) of the label."""
    return (at_least_float32(features).mean((1, 2)) * embedding).sum(-1, keepdims=True)


def _check_fields(network: Generator | Discriminator) -> None:
    _check_choice("size", network.size, SIZES)
    _check_choice("gate", network.gate, GATES)
    _check_choice("context", network.context, CONTEXTS)
    if not network.width > 0:
        raise ValueError(f"width={network.width} of a GCGAN must be above 0")


def _check_choice(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} of a GCGAN: choose one of {', '.join(map(str, choices))}")


def _check_labels(labels: jax.Array | None, num_classes: int) -> None:
    if (labels is not None) != (num_classes > 0):
        raise ValueError(f"a GCGAN with num_classes={num_classes} {'needs' if num_classes else 'takes no'} labels")
