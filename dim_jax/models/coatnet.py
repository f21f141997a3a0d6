"""CoAtNet: a classifier of convolution blocks followed by attention blocks with relative positions."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.models.batch_norm import BatchNorm
from dim_jax.models.efficientnet_lite import Convolution
from dim_jax.models.feature_map import expose_feature_map
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.layers import Conv, Dtype, Linear, max_pool
from dim_jax.models.ranges import Count, Rate, Width

# Blocks and channels of every stage after the stem; each stage halves the resolution.
CONVOLUTIONS = ((2, 96), (6, 192))
TRANSFORMERS = ((14, 384), (2, 768))


def _drop_path(y: jax.Array, probability: float, train: bool, example_keys: jax.Array | None) -> jax.Array:
    """Stochastic depth: zeroes a branch's output y for random images in training, and rescales the others.

    Reference: Huang et al., "Deep networks with stochastic depth", ECCV 2016.
    """
    if not (train and probability > 0):
        return y
    keep_mask = jax.vmap(jax.random.bernoulli, (0, None))(example_keys, 1 - probability)
    return jnp.where(keep_mask[:, None, None, None], y / (1 - probability), 0).astype(y.dtype)


class ConvolutionBlock(nn.Module):
    """Inverted residual block with squeeze-and-excitation and pre-normalisation.

    Attributes:
      features: output channels.
      halve: downsample by 2, in the depthwise convolution and by a max pooling of the shortcut.
      expansion: hidden channels, as a multiple of `features`.
      drop_connect: probability of dropping an image's branch in training.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.

    Reference: Hu et al., "Squeeze-and-excitation networks", CVPR 2018.
    """

    features: int
    halve: bool
    expansion: int = 4
    drop_connect: float = 0.0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, example_keys: jax.Array | None = None) -> jax.Array:
        def norm(name: str, y: jax.Array) -> jax.Array:
            return BatchNorm(self.axis_name, dtype=self.dtype, name=name)(y, train)

        inner = self.features * self.expansion
        y = Convolution(inner, dtype=self.dtype, name="expand")(norm("norm", x))
        y = nn.gelu(norm("expand_norm", y))
        y = Convolution(inner, 3, 2 if self.halve else 1, True, self.dtype, name="depthwise")(y)
        y = nn.gelu(norm("depthwise_norm", y))
        gate = nn.gelu(Linear(max(inner // 16, 1), name="squeeze")(at_least_float32(y).mean((1, 2))))
        gate = nn.sigmoid(Linear(inner, name="excite")(gate))
        y = Conv(self.features, dtype=self.dtype, name="project")(y * gate[:, None, None].astype(y.dtype))
        if self.halve:
            x = Conv(self.features, dtype=self.dtype, name="shortcut")(max_pool(x))
        return x + _drop_path(y, self.drop_connect, train, example_keys)


class RelativeAttention(nn.Module):
    """Self-attention over all positions of a map, with a learned bias per head and relative position.

    The bias table has (2 H - 1) x (2 W - 1) entries per head, so weights fit one image size only.

    Attributes:
      features: output channels, a multiple of `head_size`.
      head_size: channels of a head.
      dtype: dtype of the computation; the softmax is float32.

    Reference: Dai et al. 2021, equation 3.
    """

    features: int
    head_size: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        number, height, width, _ = x.shape
        positions, heads = height * width, self.features // self.head_size
        projected = Conv(3 * self.features, dtype=self.dtype, name="project")(x)
        queries, keys, values = jnp.moveaxis(projected.reshape(number, positions, 3, heads, self.head_size), 2, 0)
        scores = jnp.einsum("nqhc,nkhc->nhqk", queries * self.head_size**-0.5, keys)
        table = self.param("bias_table", nn.initializers.zeros, ((2 * height - 1) * (2 * width - 1), heads))
        bias = table[relative_position_index(height, width)].transpose(2, 0, 1)
        weights = nn.softmax(at_least_float32(scores) + bias).astype(self.dtype)
        y = jnp.einsum("nhqk,nkhc->nqhc", weights, values).reshape(number, height, width, self.features)
        return Conv(self.features, dtype=self.dtype, name="merge")(y)


def relative_position_index(height: int, width: int) -> np.ndarray:
    """Returns the row of the bias table for every pair of positions of a map, (H W, H W) int."""
    rows, columns = np.divmod(np.arange(height * width), width)
    down, across = (positions[None] - positions[:, None] for positions in (rows, columns))
    return (down + height - 1) * (2 * width - 1) + across + width - 1


class TransformerBlock(nn.Module):
    """Pre-normalised transformer block: relative attention, then an MLP at every position.

    Attributes:
      features: output channels.
      head_size: channels of a head.
      halve: downsample by 2 with a max pooling, in branch and shortcut.
      expansion: hidden channels of the MLP, as a multiple of `features`.
      drop_connect: probability of dropping an image's branch in training.
      dtype: dtype of the computation.
    """

    features: int
    head_size: int
    halve: bool
    expansion: int = 4
    drop_connect: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, example_keys: jax.Array | None = None) -> jax.Array:
        y = nn.LayerNorm(dtype=self.dtype, name="attention_norm")(x)
        if self.halve:
            y = max_pool(y)
            x = Conv(self.features, dtype=self.dtype, name="shortcut")(max_pool(x))
        first = second = None
        if train and self.drop_connect > 0:
            first, second = jax.vmap(lambda key: jax.random.split(key), out_axes=1)(example_keys)
        y = RelativeAttention(self.features, self.head_size, self.dtype, name="attention")(y)
        x = x + _drop_path(y, self.drop_connect, train, first)
        y = nn.LayerNorm(dtype=self.dtype, name="mlp_norm")(x)
        y = nn.gelu(Conv(self.features * self.expansion, dtype=self.dtype, name="mlp_expand")(y))
        y = Conv(self.features, dtype=self.dtype, name="mlp_project")(y)
        return x + _drop_path(y, self.drop_connect, train, second)


class CoAtNet(nn.Module):
    """CoAtNet-1 (41,635,248 parameters for 1000 classes at 224 px; the paper says 42 M).

    Attributes:
      num_classes: number of logits.
      width: multiplies every number of channels below, rounded to whole channels, or whole heads for attention.
      stem_width: channels of the stem, two 3x3 convolutions of which the first has a stride of 2.
      convolutions, transformers: blocks and channels of every stage.
      head_size: channels of an attention head.
      drop_connect: probability of dropping an image's last branch in training, in [0, 1); it grows linearly from 0 at
        the first block.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation; logits and features are float32.

    Reference: Dai et al., "CoAtNet: marrying convolution and attention for all data sizes", NeurIPS 2021, table 3; the
    stride of a convolution block is that of its depthwise convolution.
    """

    num_classes: int
    width: Width = 1.0
    stem_width: Count = 64
    convolutions: Sequence[Sequence[Count]] = CONVOLUTIONS
    transformers: Sequence[Sequence[Count]] = TRANSFORMERS
    head_size: Count = 32
    drop_connect: Rate = 0.3
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @property
    def _depth(self) -> int:
        return sum(blocks for blocks, _ in (*self.convolutions, *self.transformers))

    @property
    def last_block(self) -> str:
        """Name of the module that computes the last feature map."""
        return f"block{self._depth - 1}"

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, example_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Classifies normalised images.

        Args:
          images: (N, H, W, 3) float, normalised by the channel statistics of the training images; of the same size as
            at initialisation (see RelativeAttention).
          train: use and update batch statistics, and drop branches.
          example_keys: (N,) random keys, one per image; needed when `train` and `drop_connect` > 0.

        Returns:
          logits (N, num_classes) and features (N, last width: the pooled, normalised last map), both float32.

        Raises:
          ValueError: `width` or `drop_connect` is out of range, or `example_keys` are missing.
        """
        if not (self.width > 0 and 0 <= self.drop_connect < 1):
            raise ValueError(f"width={self.width} must be above 0 and drop_connect={self.drop_connect} in [0, 1)")
        if train and self.drop_connect > 0 and example_keys is None:
            raise ValueError("CoAtNet needs example_keys in training: one random key per image")

        def scaled(channels: int, unit: int = 1) -> int:
            return unit * max(round(channels * self.width / unit), 1)

        x = Convolution(scaled(self.stem_width), 3, 2, dtype=self.dtype, name="stem0")(images)
        x = nn.gelu(BatchNorm(self.axis_name, dtype=self.dtype, name="stem_norm")(x, train))
        x = Conv(scaled(self.stem_width), 3, dtype=self.dtype, name="stem1")(x)
        index, stages = 0, (*self.convolutions, *self.transformers)
        for stage, (blocks, features) in enumerate(stages):
            for number in range(blocks):
                keys = None
                if train and self.drop_connect > 0:
                    keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys, index)
                shared = {
                    "halve": number == 0,
                    "drop_connect": self.drop_connect * index / max(self._depth - 1, 1),
                    "dtype": self.dtype,
                    "name": f"block{index}",
                }
                if stage < len(self.convolutions):
                    block = ConvolutionBlock(scaled(features), axis_name=self.axis_name, **shared)
                else:
                    block = TransformerBlock(scaled(features, self.head_size), self.head_size, **shared)
                x = block(x, train, keys)
                index += 1
        x = expose_feature_map(self, x)
        pooled = at_least_float32(nn.LayerNorm(dtype=self.dtype, name="norm")(x)).mean((1, 2))
        return Linear(self.num_classes, name="head")(pooled), pooled
