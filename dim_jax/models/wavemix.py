"""WaveMix: a classifier whose blocks mix positions by the parameter-free Haar wavelet transform."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dim_jax.models.batch_norm import BatchNorm
from dim_jax.models.feature_map import expose_feature_map
from dim_jax.models.kernels.convolutions import pointwise_convolution, valid_convolution
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.layers import Conv, Dtype, Linear, fan_in_uniform
from dim_jax.models.ranges import Count, Rate, Width


def haar(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One level of the 2D Haar wavelet transform.

    Args:
      x: (N, H, W, C), H and W even.

    Returns:
      approximation (N, H / 2, W / 2, C) and details (N, H / 2, W / 2, 3 C): along columns, rows, both.
    """
    upper, lower = x[:, ::2], x[:, 1::2]
    low, high = upper + lower, upper - lower
    (left_low, right_low), (left_high, right_high) = ((rows[:, :, ::2], rows[:, :, 1::2]) for rows in (low, high))
    details = (left_low - right_low, left_high + right_high, left_high - right_high)
    return (left_low + right_low) / 2, jnp.concatenate(details, axis=-1) / 2


def pad_to_multiple(x: jax.Array, unit: int) -> jax.Array:
    """Pads x (N, H, W, C) with zeros at the bottom and right so that `unit` divides height and width."""
    margins = [(0, -side % unit) for side in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *margins, (0, 0))) if any(after for _, after in margins) else x


class Upsampling(nn.Module):
    """4x4 transposed convolution with stride 2 and padding 1, which doubles height and width.

    Attributes:
      features: output channels.
      dtype: dtype of the computation.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        number, height, width, channels = x.shape
        init = fan_in_uniform(16 * self.features)  # PyTorch's bound uses the number of outputs
        # Each of the 2 x 2 outputs per pixel depends on its own 2 x 2 inputs: one convolution computes all four.
        kernel = self.param("kernel", init, (2, 2, channels, 2, 2, self.features)).astype(self.dtype)
        bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        y = valid_convolution(x.astype(self.dtype), kernel.reshape(2, 2, channels, -1), margin=1)
        y = y.reshape(number, height + 1, width + 1, 2, 2, self.features)
        rows = [
            jnp.stack([y[:, row : row + height, column : column + width, row, column] for column in range(2)], axis=3)
            for row in range(2)
        ]
        return jnp.stack(rows, axis=2).reshape(number, 2 * height, 2 * width, self.features) + bias


class WaveMixBlock(nn.Module):
    """Residual block: wavelet transform of a quarter of the channels, channel MLP and upsampling at every level.

    Attributes:
      features: input and output channels.
      levels: levels of the wavelet transform.
      expansion: hidden channels of the MLP, as a multiple of `features`.
      dropout: dropout probability of the hidden values.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.
    """

    features: int
    levels: int
    expansion: int
    dropout: float
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, example_keys: jax.Array | None = None) -> jax.Array:
        height, width = x.shape[1:3]
        y = Conv(max(self.features // 4, 1), dtype=self.dtype, name="reduce")(x)
        y = pad_to_multiple(y, 2**self.levels)
        bands = []
        for _ in range(self.levels):
            y, details = haar(y)
            bands.append(jnp.concatenate([y, details], axis=-1))
        deeper: list[jax.Array] = []
        for level in reversed(range(self.levels)):
            y = jnp.concatenate([bands[level], *deeper], axis=-1)
            y = nn.gelu(Conv(self.features * self.expansion, dtype=self.dtype, name=f"expand{level}")(y), False)
            if train and self.dropout > 0:
                keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys, level)
                mask = jax.vmap(lambda key, shape=y.shape[1:]: jax.random.bernoulli(key, 1 - self.dropout, shape))(keys)
                y = jnp.where(mask, y / (1 - self.dropout), 0).astype(y.dtype)
            y = Conv(self.features, dtype=self.dtype, name=f"mix{level}")(y)
            y = Upsampling(max(self.features // 2, 1) if level else self.features, self.dtype, name=f"up{level}")(y)
            y = BatchNorm(self.axis_name, dtype=self.dtype, name=f"up{level}_norm")(y, train)
            deeper = [y]
        return x + y[:, :height, :width]


class WaveMix(nn.Module):
    """WaveMix-192/16 with three levels (27,857,608 parameters for 1000 classes; the paper says 28 M).

    Attributes:
      num_classes: number of logits.
      width: multiplies the channels, which are rounded to a multiple of 4.
      channels: channels of all blocks.
      blocks: number of blocks.
      levels, expansion: see WaveMixBlock.
      patch_size: side of the stem's patches in px; images are padded to whole patches.
      dropout: see WaveMixBlock; in [0, 1).
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation; logits and features are float32.

    Reference: Jeevan, Viswanathan, Anandu & Sethi, "WaveMix: a resource-efficient neural network for image analysis",
    arXiv 2205.14375, 2022.
    """

    num_classes: int
    width: Width = 1.0
    channels: Count = 192
    blocks: Count = 16
    levels: Count = 3
    expansion: Count = 2
    patch_size: Count = 4
    dropout: Rate = 0.5
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @property
    def last_block(self) -> str:
        """Name of the module that computes the last feature map."""
        return f"block{self.blocks - 1}"

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, example_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Classifies normalised images.

        Args:
          images: (N, H, W, 3) float, normalised by the channel statistics of the training images.
          train: use and update batch statistics, and apply dropout.
          example_keys: (N,) random keys, one per image; needed when `train` and `dropout` > 0.

        Returns:
          logits (N, num_classes) and features (N, channels: the pooled last map), both float32.

        Raises:
          ValueError: `width` or `dropout` is out of range, or `example_keys` are missing.
        """
        if not (self.width > 0 and 0 <= self.dropout < 1):
            raise ValueError(f"width={self.width} must be above 0 and dropout={self.dropout} in [0, 1)")
        if train and self.dropout > 0 and example_keys is None:
            raise ValueError("WaveMix needs example_keys in training: one random key per image")
        features, side = 4 * max(round(self.channels * self.width / 4), 1), self.patch_size
        x = pad_to_multiple(images, side)
        x = Conv(features // 4, 3, dtype=self.dtype, name="stem0")(x)
        x = Conv(features // 2, 3, dtype=self.dtype, name="stem1")(x)
        x = Patches(features, side, self.dtype, name="patches")(x)
        x = BatchNorm(self.axis_name, dtype=self.dtype, name="patches_norm")(nn.gelu(x, False), train)
        for index in range(self.blocks):
            keys = None
            if train and self.dropout > 0:
                keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys, index)
            x = WaveMixBlock(
                features, self.levels, self.expansion, self.dropout, self.axis_name, self.dtype, name=f"block{index}"
            )(x, train, keys)
        x = expose_feature_map(self, x)
        pooled = at_least_float32(x).mean((1, 2))
        return Linear(self.num_classes, name="head")(pooled), pooled


class Patches(nn.Module):
    """Patch embedding: (N, H, W, C) -> (N, H / side, W / side, features).

    Attributes:
      features: output channels.
      side: side of a patch in pixels.
      dtype: dtype of the computation.
    """

    features: int
    side: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        (number, height, width, channels), side = x.shape, self.side
        init = fan_in_uniform(side**2 * channels)
        kernel = self.param("kernel", init, (side, side, channels, self.features)).astype(self.dtype)
        bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype).reshape(number, height // side, side, width // side, side, channels).swapaxes(2, 3)
        x = x.reshape(number, height // side, width // side, -1)
        return pointwise_convolution(x, kernel.reshape(-1, self.features)) + bias
