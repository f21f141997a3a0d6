"""LRF-CNN: a classifier whose blocks combine four receptive fields (DIM, JBHI 2026)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from dim_jax.models.batch_norm import BatchNorm, fused_batch_norms
from dim_jax.models.feature_map import expose_feature_map
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.layers import Conv, DepthwiseSeparable, Dtype, Linear, fused_pointwise, max_pool
from dim_jax.models.ranges import Count, Dilation, Rate, Width

# Per branch: side of the depthwise kernel, and dilation of the 3x3 convolution after it (0: no convolution).
BRANCHES = ((3, 0), (3, 3), (5, 3), (5, 5))


class LRFBlock(nn.Module):
    """Large-receptive-field block: parallel branches of one input, merged and added to a projected shortcut.

    Attributes:
      features: output channels, also those of each branch.
      branches: (depthwise kernel, dilation) per branch.
      depthwise: use depthwise separable dilated 3x3 convolutions; the published ones are dense and have about two
        thirds of all parameters.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.
    """

    features: int
    branches: Sequence[tuple[int, int]] = BRANCHES
    depthwise: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm(name: str) -> BatchNorm:
            return BatchNorm(self.axis_name, dtype=self.dtype, name=name)

        def separable(
            name: str, kernel_size: int = 1, dilation: int = 1, before_norm: bool = train
        ) -> DepthwiseSeparable:
            return DepthwiseSeparable(
                self.features, kernel_size, dilation, dtype=self.dtype, before_norm=before_norm, name=name
            )

        # The entry 1x1 convolutions of the branches and the shortcut are fused into one matmul and one batch norm.
        entries = [f"branch{index}_reduce" for index in range(len(self.branches))] + ["shortcut"]
        y = fused_pointwise([separable(name) for name in entries], x)
        y = fused_batch_norms([norm(f"{name}_norm") for name in entries], y, train)
        *reduced, shortcut = jnp.split(y, len(entries), axis=-1)
        outputs = []
        for index, (y, (kernel_size, dilation)) in enumerate(zip(reduced, self.branches, strict=True)):
            branch = f"branch{index}"
            y = separable(f"{branch}_spatial", kernel_size)(nn.relu(y))
            y = nn.relu(norm(f"{branch}_spatial_norm")(y, train))
            if dilation:
                name = f"{branch}_dilated"
                if self.depthwise:
                    y = separable(name, 3, dilation)(y)
                else:
                    dense = Conv(self.features, 3, 1, dilation, dtype=self.dtype, before_norm=train, name=name)
                    y = dense(y)
                y = nn.relu(norm(f"{name}_norm")(y, train))
            outputs.append(y)
        merged = separable("merge", before_norm=False)(jnp.concatenate(outputs, axis=-1))
        return nn.relu(0.1 * merged + shortcut)


class LRFCNN(nn.Module):
    """LRF-CNN (24,413,190 parameters for 5 classes at full width; 9,880,326 where `depthwise`).

    Attributes:
      num_classes: number of logits.
      width: multiplies every number of channels and hidden units below, rounded to whole ones.
      stem_width: channels of the 7x7 stem.
      stages: output channels of the blocks of each stage; every stage starts with a max pooling.
      branches: (depthwise kernel, dilation) per branch of every block.
      attention_width: hidden units of the attention gate on each image's pooled features.
      drop_connect: probability of dropping a pooled feature in training, in [0, 1).
      depthwise: see LRFBlock.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation; logits and features are float32.

    Reference: Yuan et al., "Dual-level imbalance mitigation for single-FoV colorectal histopathology image
    classification", IEEE JBHI 2026.
    """

    num_classes: int
    width: Width = 1.0
    stem_width: Count = 64
    stages: Sequence[Sequence[Count]] = ((64, 128), (192, 224, 256, 288, 320), (320, 384))
    branches: Sequence[tuple[Count, Dilation]] = BRANCHES
    attention_width: Count = 512
    drop_connect: Rate = 0.5
    depthwise: bool = False
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @property
    def last_block(self) -> str:
        """Name of the module that computes the last feature map."""
        return f"block{sum(map(len, self.stages)) - 1}"

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, example_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Classifies normalised images.

        Args:
          images: (N, H, W, 3) float, normalised by the channel statistics of the training images.
          train: use and update batch statistics, and drop features.
          example_keys: (N,) random keys, one per image; needed when `train` and `drop_connect` > 0.

        Returns:
          logits (N, num_classes) and features (N, last width: the pooled map before dropping), both float32.

        Raises:
          ValueError: `width` or `drop_connect` is out of range, or `example_keys` are missing.
        """
        if not (self.width > 0 and 0 <= self.drop_connect < 1):
            raise ValueError(f"width={self.width} must be above 0 and drop_connect={self.drop_connect} in [0, 1)")

        def scaled(channels: int) -> int:
            return max(round(channels * self.width), 1)

        stem = Conv(scaled(self.stem_width), 7, stride=2, dtype=self.dtype, before_norm=train, name="stem")
        x = stem(images)
        x = nn.relu(BatchNorm(self.axis_name, dtype=self.dtype, name="stem_norm")(x, train))
        index = 0
        for stage in self.stages:
            x = max_pool(x)
            for features in stage:
                block = LRFBlock(
                    scaled(features), self.branches, self.depthwise, self.axis_name, self.dtype, name=f"block{index}"
                )
                x = block(x, train)
                index += 1
        x = expose_feature_map(self, x)
        features = at_least_float32(x).mean((1, 2))

        x = features
        if train and self.drop_connect > 0:
            if example_keys is None:
                raise ValueError("LRFCNN needs example_keys in training: one random key per image")
            uniform = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(example_keys)
            x = jnp.where(uniform > self.drop_connect, x / (1 - self.drop_connect), 0.0)
        attention = nn.relu(Linear(scaled(self.attention_width), name="attention_hidden")(x))
        attention = nn.sigmoid(Linear(1, name="attention_gate")(attention))
        return Linear(self.num_classes, name="head")(attention * x), features
