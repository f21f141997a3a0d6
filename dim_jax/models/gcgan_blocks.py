"""Building blocks of GCGAN's generator and discriminator, on square feature maps (N, H, W, C), H = W."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from dim_jax.models.batch_norm import BatchNorm
from dim_jax.models.kernels.convolutions import convolution, pointwise_convolution, valid_convolution
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.kernels.resizing import doubling_convolution, halving_convolution, repeat_pixels
from dim_jax.models.layers import Dtype, fan_in_uniform
from dim_jax.models.spectral import SpectralConv

# Random keys (N,), one per image, or layer -> normal noise (N, side, side, 1), or None for no noise.
Noise = jax.Array | Mapping[int, jax.Array] | None


def block_means(x: jax.Array, side: int) -> jax.Array:
    """Average pooling of x (N, H, W, C) over equal blocks, to (N, side, side, C)."""
    number, height, width, channels = x.shape
    return x.reshape(number, side, height // side, side, width // side, channels).mean((2, 4))


def gated_linear(x: jax.Array) -> jax.Array:
    """Gated linear unit: the first half of the channels times the sigmoid of the second half.

    Reference: Dauphin et al., "Language modeling with gated convolutional networks", ICML 2017, equation 1.
    """
    values, gates = jnp.split(x, 2, axis=-1)
    return values * nn.sigmoid(gates)


def leaky_relu(x: jax.Array) -> jax.Array:
    """Leaky ReLU with slope 0.2, the discriminator's activation."""
    return nn.leaky_relu(x, 0.2)


class InjectedNoise(nn.Module):
    """Adds normal noise that all channels of a position share, times a learned gain that is 0 at first.

    Attributes:
      layer: index of the layer, different for every layer of a network.
    """

    layer: int

    @nn.compact
    def __call__(self, x: jax.Array, noise: Noise) -> jax.Array:
        gain = self.param("gain", nn.initializers.zeros, (1,))
        if noise is None:
            return x
        if not isinstance(noise, Mapping):
            noise = {self.layer: draw_noise(noise, self.layer, x.shape[1])}
        return x + (gain * noise[self.layer]).astype(x.dtype)


def draw_noise(keys: jax.Array, layer: int, side: int) -> jax.Array:
    """Returns the noise (N, side, side, 1) of a layer, of the random keys (N,)."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, layer), (side, side, 1)))(keys)


class UpBlock(nn.Module):
    """Upsampling by 2: nearest neighbour, 3x3 convolution, batch norm, gated linear unit.

    Attributes:
      features: output channels.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.
    """

    features: int
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = SpectralConv(2 * self.features, 3, doubling_convolution, self.dtype, name="conv")(x, train)
        return gated_linear(BatchNorm(self.axis_name, dtype=self.dtype, name="norm")(x, train))


class CompoundUpBlock(nn.Module):
    """Upsampling by 2 with two convolutions, injected noise and a residual path of a 1x1 convolution.

    Attributes:
      features: output channels.
      layer: index of the block; its noise has the layers 2 * layer and 2 * layer + 1.
      residual: add the residual path; FastGAN has none.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.
    """

    features: int
    layer: int
    residual: bool = True
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, noise: Noise) -> jax.Array:
        y = x
        for number, (name, convolve) in enumerate((("first", doubling_convolution), ("second", convolution))):
            y = SpectralConv(2 * self.features, 3, convolve, self.dtype, name=name)(y, train)
            y = InjectedNoise(2 * self.layer + number, name=f"{name}_noise")(y, noise)
            y = gated_linear(BatchNorm(self.axis_name, dtype=self.dtype, name=f"{name}_norm")(y, train))
        if not self.residual:
            return y
        # Upsampling after the 1x1 convolution gives the same result at a quarter of the cost.
        skip = repeat_pixels(SpectralConv(self.features, 1, dtype=self.dtype, name="skip")(x, train))
        return y + BatchNorm(self.axis_name, dtype=self.dtype, name="skip_norm")(skip, train)


class Pointwise(nn.Module):
    """1x1 convolution without bias and without spectral normalisation.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", fan_in_uniform(x.shape[-1]), (1, 1, x.shape[-1], self.features))
        return pointwise_convolution(x, kernel[0, 0].astype(x.dtype))


class GlobalContext(nn.Module):
    """Adds global context to a map, through a bottleneck with a sixteenth of its channels.

    Attributes:
      context: "map" as in the published code: the bottleneck of the mean over positions, weighted at each position by
        the softmax of the map over positions; "context" as in the paper's figure: the bottleneck of an average over
        positions with learned attention, added to all positions.

    Reference: Cao et al., "GCNet: Non-local networks meet squeeze-excitation networks and beyond", ICCVW 2019.
    """

    context: str = "map"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def bottleneck(pooled: jax.Array) -> jax.Array:
            hidden = nn.relu(Pointwise(max(x.shape[-1] // 16, 1), name="hidden")(pooled))
            return Pointwise(x.shape[-1], name="output")(hidden)

        if self.context == "map":
            shared = bottleneck(x.mean((1, 2), keepdims=True))
            return x + shared * nn.softmax(at_least_float32(x), axis=(1, 2)).astype(x.dtype)
        attention = nn.softmax(at_least_float32(Pointwise(1, name="attention")(x)), axis=(1, 2)).astype(x.dtype)
        return x + bottleneck((attention * x).sum((1, 2), keepdims=True))


class Gate(nn.Module):
    """Scales the channels of a target map by a gate computed from a source map.

    Attributes:
      kind: "gc" adds global context to the source first; "sle" does not.
      context: see GlobalContext.
      dtype: dtype of the computation.

    Reference: Liu et al., "Towards faster and stabilized GAN training for high-fidelity few-shot image synthesis",
    ICLR 2021, equation 2 (skip-layer excitation).
    """

    kind: str = "gc"
    context: str = "map"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, source: jax.Array, target: jax.Array, train: bool) -> jax.Array:
        if self.kind == "gc":
            source = GlobalContext(self.context, name="context")(source)
        features = target.shape[-1]
        gate = block_means(source, 4)
        gate = nn.swish(SpectralConv(features, 4, valid_convolution, self.dtype, name="squeeze")(gate, train))
        return target * nn.sigmoid(SpectralConv(features, 1, dtype=self.dtype, name="excite")(gate, train))


class DownBlock(nn.Module):
    """Downsampling by 2: the mean of a path of two convolutions and one of average pooling and a 1x1 convolution.

    Attributes:
      features: output channels.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.
    """

    features: int
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def activated(y: jax.Array, name: str) -> jax.Array:
            return leaky_relu(BatchNorm(self.axis_name, dtype=self.dtype, name=f"{name}_norm")(y, train))

        main = SpectralConv(self.features, 4, halving_convolution, self.dtype, name="halve")(x, train)
        main = SpectralConv(self.features, dtype=self.dtype, name="refine")(activated(main, "halve"), train)
        direct = SpectralConv(self.features, 1, dtype=self.dtype, name="direct")(block_means(x, x.shape[1] // 2), train)
        return (activated(main, "refine") + activated(direct, "direct")) / 2


class Decoder(nn.Module):
    """Reconstructs an image in (-1, 1) from a small feature map.

    Attributes:
      widths: output channels of the blocks, each of which upsamples by 2.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation; the image is float32.
    """

    widths: Sequence[int]
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for number, features in enumerate(self.widths):
            x = UpBlock(features, self.axis_name, self.dtype, name=f"up{number}")(x, train)
        return jnp.tanh(at_least_float32(SpectralConv(3, dtype=self.dtype, name="head")(x, train)))
