"""EfficientNet-Lite: small classifiers; with ImageNet weights also feature extractors."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dim_jax.models.batch_norm import BatchNorm
from dim_jax.models.feature_map import expose_feature_map
from dim_jax.models.kernels.convolutions import depthwise_convolution, pointwise_convolution
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.kernels.same_padding import strided_convolution, strided_depthwise_convolution
from dim_jax.models.layers import Dtype, Linear, fan_in_uniform
from dim_jax.models.ranges import Count, Rate, Width

# Collection and name under which the maps at strides 2, 4, 8, ... are sown.
INTERMEDIATES, TAPS = "intermediates", "taps"
# Per channel, for pixels in [0, 1]: the published weights expect (p - 127) / 128 of pixels p in 0..255.
PIXEL_MEAN, PIXEL_STD = (127 / 255,) * 3, (128 / 255,) * 3


class Stage(NamedTuple):
    """A stage of blocks with the same number of channels.

    Attributes:
      blocks: number of blocks.
      features: output channels of each.
      kernel_size: side of the depthwise kernels, odd.
      stride: of the first block, 1 or 2.
      expansion: hidden channels of a block, as a multiple of its input channels.
    """

    blocks: int
    features: int
    kernel_size: int
    stride: int
    expansion: int


STAGES = (
    Stage(1, 16, 3, 1, 1),
    Stage(2, 24, 3, 2, 6),
    Stage(2, 40, 5, 2, 6),
    Stage(3, 80, 3, 2, 6),
    Stage(3, 112, 5, 1, 6),
    Stage(4, 192, 5, 2, 6),
    Stage(1, 320, 3, 1, 6),
)


def scaled_stages(width: float, depth: float) -> tuple[Stage, ...]:
    """Returns the stages of a variant of Lite0 by the rule of its authors, which leaves stem and top as they are.

    Args:
      width: multiplies the channels, which are rounded to a multiple of 8, but not below nine tenths.
      depth: multiplies the number of blocks, rounded up, of all stages but the first and the last.
    """

    def scaled(stage: Stage, is_inner: bool) -> Stage:
        features = stage.features * width
        rounded = max(int(features + 4) // 8 * 8, 8)
        rounded += 8 * (rounded < 0.9 * features)
        return stage._replace(features=rounded, blocks=math.ceil(stage.blocks * (depth if is_inner else 1)))

    return tuple(scaled(stage, 0 < index < len(STAGES) - 1) for index, stage in enumerate(STAGES))


def scale_pixels(images: jax.Array) -> jax.Array:
    """Scales images in [-1, 1] as the published weights expect, see PIXEL_MEAN."""
    return ((images + 1) * 127.5 - 127) / 128


class Convolution(nn.Module):
    """Convolution with SAME padding and without bias.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel, odd; more than 1 only with a stride or depthwise.
      stride: step in pixels.
      depthwise: one filter per input channel (features must equal the input's channels).
      dtype: dtype of the computation; parameters stay float32.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    depthwise: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs_per_filter = 1 if self.depthwise else x.shape[-1]
        init = fan_in_uniform(self.kernel_size**2 * inputs_per_filter)
        shape = (self.kernel_size, self.kernel_size, inputs_per_filter, self.features)
        kernel = self.param("kernel", init, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.depthwise and self.stride > 1:
            return strided_depthwise_convolution(x, kernel[:, :, 0], self.stride)
        if self.depthwise:
            return depthwise_convolution(x, kernel[:, :, 0])
        if self.kernel_size > 1:
            return strided_convolution(x, kernel, self.stride)
        return pointwise_convolution(x, kernel[0, 0])


class Block(nn.Module):
    """Inverted residual block; the input is added where stride and channels allow it.

    Attributes:
      features, kernel_size, stride, expansion: see Stage.
      drop_connect: probability of dropping an image's branch in training.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation.

    Reference: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018.
    """

    features: int
    kernel_size: int
    stride: int
    expansion: int
    drop_connect: float = 0.0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, example_keys: jax.Array | None = None) -> jax.Array:
        inner = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = Convolution(inner, dtype=self.dtype, name="expand")(y)
            y = nn.relu6(_norm(self, "expand_norm")(y, train))
        y = Convolution(inner, self.kernel_size, self.stride, True, self.dtype, name="depthwise")(y)
        y = nn.relu6(_norm(self, "depthwise_norm")(y, train))
        y = Convolution(self.features, dtype=self.dtype, name="project")(y)
        y = _norm(self, "project_norm")(y, train)
        if self.stride > 1 or x.shape[-1] != self.features:
            return y
        if train and self.drop_connect > 0:
            keep_probability = 1 - self.drop_connect
            keep_mask = jax.vmap(jax.random.bernoulli, (0, None))(example_keys, keep_probability)
            y = jnp.where(keep_mask[:, None, None, None], y / keep_probability, 0).astype(y.dtype)
        return x + y


def _norm(module: nn.Module, name: str) -> BatchNorm:
    return BatchNorm(module.axis_name, epsilon=1e-3, dtype=module.dtype, parent=module, name=name)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite, by default Lite0: no squeeze-and-excitation, ReLU6 throughout.

    For 1000 classes Lite0 has 4,652,008 parameters and Lite2 6,092,072.

    Attributes:
      num_classes: number of logits.
      width: multiplies every number of channels below, rounded to whole channels.
      stem_width: channels of the 3x3 stem, which has a stride of 2.
      stages: see Stage.
      top_width: channels of the last feature map.
      drop_connect: probability of dropping an image's last residual branch in training, in [0, 1); it grows linearly
        from 0 at the first block.
      axis_name: device axis for batch statistics.
      dtype: dtype of the computation; logits and features are float32.

    Reference: Tan & Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019, table 1;
    the Lite variants are defined in their authors' repository.
    """

    num_classes: int = 1000
    width: Width = 1.0
    stem_width: Count = 32
    stages: Sequence[Sequence[Count]] = STAGES
    top_width: Count = 1280
    drop_connect: Rate = 0.0
    axis_name: str | None = None
    dtype: Dtype = jnp.float32

    @property
    def last_block(self) -> str:
        """Name of the module that computes the last feature map."""
        return "top"

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, example_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Classifies normalised images; see `map_taps` for the intermediate maps.

        Args:
          images: (N, H, W, 3) float, H and W at least 32, normalised: for the published weights by PIXEL_MEAN and
            PIXEL_STD.
          train: use and update batch statistics, and drop branches.
          example_keys: (N,) random keys, one per image; needed when `train` and `drop_connect` > 0.

        Returns:
          logits (N, num_classes) and features (N, top_width: the pooled last map), both float32.

        Raises:
          ValueError: `width` or `drop_connect` is out of range, or `example_keys` are missing.
        """
        if not (self.width > 0 and 0 <= self.drop_connect < 1):
            raise ValueError(f"width={self.width} must be above 0 and drop_connect={self.drop_connect} in [0, 1)")
        if train and self.drop_connect > 0 and example_keys is None:
            raise ValueError("EfficientNetLite needs example_keys in training: one random key per image")

        def scaled(channels: int) -> int:
            return max(round(channels * self.width), 1)

        x = Convolution(scaled(self.stem_width), 3, 2, dtype=self.dtype, name="stem")(images)
        x = nn.relu6(_norm(self, "stem_norm")(x, train))
        stages = [Stage(*stage) for stage in self.stages]
        index, depth = 0, sum(stage.blocks for stage in stages)
        for stage in stages:
            if stage.stride > 1:
                self._tap(x)
            for number in range(stage.blocks):
                keys = None
                if train and self.drop_connect > 0:
                    keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys, index)
                x = Block(
                    scaled(stage.features),
                    stage.kernel_size,
                    stage.stride if number == 0 else 1,
                    stage.expansion,
                    self.drop_connect * index / depth,
                    self.axis_name,
                    self.dtype,
                    name=f"block{index}",
                )(x, train, keys)
                index += 1
        self._tap(x)
        x = Convolution(scaled(self.top_width), dtype=self.dtype, name="top")(x)
        x = nn.relu6(_norm(self, "top_norm")(x, train))
        x = expose_feature_map(self, x)
        features = at_least_float32(x).mean((1, 2))
        return Linear(self.num_classes, name="head")(features), features

    def _tap(self, x: jax.Array) -> None:
        if not self.is_initializing():
            self.sow(INTERMEDIATES, TAPS, x)


class Published(NamedTuple):
    """A variant with published ImageNet weights.

    Attributes:
      title: its name in the literature.
      make: constructor of the network.
      image_size: side in px of the images that it was evaluated on.
    """

    title: str
    make: Callable[..., EfficientNetLite]
    image_size: int


# By the name of the model in a configuration. Both expect the scaling of PIXEL_MEAN and PIXEL_STD.
LITE0, LITE2 = "efficientnet_lite0", "efficientnet_lite2"
PUBLISHED = {
    LITE0: Published("EfficientNet-Lite0", EfficientNetLite, 224),
    LITE2: Published("EfficientNet-Lite2", partial(EfficientNetLite, stages=scaled_stages(1.1, 1.2)), 260),
}


def map_taps(model: EfficientNetLite, variables: Mapping[str, Any], images: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the last map at each of the strides 2, 4, 8, 16 and 32, in inference mode.

    Args:
      model: the network.
      variables: its `params` and `batch_stats`.
      images: (N, H, W, 3), normalised as for a call of `model`.

    Returns:
      per stride (N, ceil(H / stride), ceil(W / stride), C); C = 16, 24, 40, 112, 320 of Lite0 at full width.
    """
    return model.apply(variables, images, mutable=[INTERMEDIATES])[1][INTERMEDIATES][TAPS]
