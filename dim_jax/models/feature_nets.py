"""Perceptual distances and feature extractors from frozen networks.

Images are (N, H, W, 3) in [-1, 1], and gradients reach them; the weights come from `weights.pretrained`. PERCEPTUAL
maps a configuration's name to a distance, `distance(variables, a, b) -> (N,)`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dim_jax.models.efficientnet_lite import LITE0, PUBLISHED, EfficientNetLite, map_taps, scale_pixels
from dim_jax.models.inception import InceptionV3
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.layers import Conv, Dtype

Distance = Callable[[Mapping[str, Any], jax.Array, jax.Array], jax.Array]

# Channels of VGG16's convolutions; every group but the first starts with a max pooling.
VGG16_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# LPIPS normalises images in [-1, 1] by these.
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
INCEPTION_SIDE = 299


class VGG16(nn.Module):
    """The convolutions of VGG16, configuration D.

    Attributes:
      dtype: dtype of the computation.

    Reference: Simonyan & Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Returns the last map of every group: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.

        Args:
          x: (N, H, W, 3), normalised, H and W at least 16.

        Returns:
          five arrays (N, H // stride, W // stride, C) with strides 1, 2, 4, 8, 16.
        """
        taps = []
        for group, widths in enumerate(VGG16_GROUPS):
            if group:
                x = _halving_max(x)
            for number, features in enumerate(widths):
                x = nn.relu(Conv(features, 3, dtype=self.dtype, name=f"conv{group + 1}_{number + 1}")(x))
            taps.append(x)
        return tuple(taps)


def _halving_max(x: jax.Array) -> jax.Array:
    """2x2 max pooling with stride 2; an odd last row or column is dropped.

    Implemented as a maximum over axes, because the gradient of a pooling window is slow on CPU.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def lpips_distance(variables: Mapping[str, Any], a: jax.Array, b: jax.Array) -> jax.Array:
    """LPIPS v0.1 with VGG16: sum over taps of the mean over positions of sum_c head_c (a_c - b_c)^2.

    Args:
      variables: {"params": those of VGG16, "heads": five (C,) arrays}.
      a, b: (N, H, W, 3) in [-1, 1].

    Returns:
      (N,), 0 for equal images.

    Reference: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", CVPR 2018,
    equation 1.
    """

    def unit_taps(images: jax.Array) -> list[jax.Array]:
        scaled = (images - jnp.asarray(LPIPS_SHIFT)) / jnp.asarray(LPIPS_SCALE)
        taps: Any = VGG16().apply({"params": variables["params"]}, scaled)
        return [_unit_vectors(tap) for tap in taps]

    taps = zip(unit_taps(a), unit_taps(b), variables["heads"], strict=True)
    return sum((jnp.square(a_tap - b_tap) @ head).mean((1, 2)) for a_tap, b_tap, head in taps)


def lite0_distance(variables: Mapping[str, Any], a: jax.Array, b: jax.Array) -> jax.Array:
    """Perceptual distance like LPIPS, with EfficientNet-Lite0; specific to this package.

    The last maps at strides 2, 4, 8, 16 and 32 are scaled to unit length over their channels; the squared difference
    is averaged over positions, channels and maps. It has no weights fitted to human judgements, so its values are
    comparable with each other but not with LPIPS.

    Args:
      variables: `params` and `batch_stats` of EfficientNet-Lite0.
      a, b: (N, H, W, 3) in [-1, 1].

    Returns:
      (N,), 0 for equal images.
    """
    model = EfficientNetLite()

    def unit_taps(images: jax.Array) -> list[jax.Array]:
        return [_unit_vectors(tap) for tap in map_taps(model, variables, scale_pixels(images))]

    taps = list(zip(unit_taps(a), unit_taps(b), strict=True))
    total: Any = sum(jnp.square(a_tap - b_tap).mean((1, 2, 3)) for a_tap, b_tap in taps)
    return total / len(taps)


def no_distance(variables: Mapping[str, Any], a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns (N,) zeros: training without a reconstruction loss."""
    del variables, b
    return jnp.zeros(a.shape[0])


PERCEPTUAL: dict[str, Distance] = {
    "lite0": lite0_distance,
    "lpips_vgg16": lpips_distance,
    "none": no_distance,
}


def _unit_vectors(x: jax.Array) -> jax.Array:
    """Scales x (..., C) to unit length over C; zero vectors stay zero, with a zero gradient."""
    x = at_least_float32(x)
    squares = jnp.square(x).sum(-1, keepdims=True)
    length = jnp.sqrt(jnp.where(squares > 0, squares, 1.0)) + 1e-10
    return x * jnp.where(squares > 0, 1 / length, 0.0)


def lite_features(variables: Mapping[str, Any], images: jax.Array, network: str = LITE0) -> tuple[jax.Array, jax.Array]:
    """ImageNet logits and pooled features of an EfficientNet-Lite, for images of any size.

    Preprocessing: both sides are resized to the network's own image size (no crop) by Keys' bicubic kernel with
    antialiasing, clipped to [-1, 1], and scaled to (p - 127) / 128 of pixels p in 0..255.

    Args:
      variables: `params` and `batch_stats` of the network.
      images: (N, H, W, 3) in [-1, 1].
      network: key of efficientnet_lite.PUBLISHED.

    Returns:
      logits (N, 1000) and features (N, 1280), float32.
    """
    outputs: Any = PUBLISHED[network].make().apply(variables, lite_input(images, PUBLISHED[network].image_size))
    return outputs


def lite_input(images: jax.Array, side: int) -> jax.Array:
    """Returns images in [-1, 1] as an EfficientNet-Lite for images of `side` px takes them; see `lite_features`."""
    shape = (images.shape[0], side, side, images.shape[-1])
    return scale_pixels(jnp.clip(jax.image.resize(images, shape, "cubic", antialias=True), -1, 1))


class LiteClassifier(nn.Module):
    """A linear classifier on the pooled features of a frozen EfficientNet-Lite, for images of any size.

    It is the network itself with another last layer; one that was trained on standardised features is folded by
    `folded_head`.

    Attributes:
      num_classes: number of logits.
      network: key of efficientnet_lite.PUBLISHED.
      image_size: side in px that images are brought to; 0: the network's own.
    """

    num_classes: int
    network: str = LITE0
    image_size: int = 0

    def setup(self) -> None:
        self.classifier = PUBLISHED[self.network].make(num_classes=self.num_classes)
        nn.share_scope(self, self.classifier)  # its variables and its feature map are those of this module

    @property
    def last_block(self) -> str:
        """Name of the module that computes the last feature map."""
        return PUBLISHED[self.network].make().last_block

    def __call__(
        self, images: jax.Array, train: bool = False, example_keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Classifies images (N, H, W, 3) in [-1, 1]; returns logits (N, num_classes) and features (N, 1280)."""
        del train, example_keys
        return self.classifier(lite_input(images, self.image_size or PUBLISHED[self.network].image_size))


def folded_head(head: Mapping[str, Any], mean: Any, std: Any) -> dict[str, Any]:
    """Returns the last layer for features as they are, from one for standardised features.

    Args:
      head: `kernel` (F, C) and `bias` (C,), for (features - mean) / std.
      mean, std: of the features, (F,), std above 0.
    """
    kernel = head["kernel"] / std[:, None]
    return {"kernel": kernel, "bias": head["bias"] - mean @ kernel}


def inception_features(variables: Mapping[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits of the inception score and features of FID and KID, for images of any size.

    Preprocessing is that of pytorch-fid: both sides are resized to 299 px (no crop), bilinear between pixel centres and
    without antialiasing; the original implementation and torch-fidelity resize as TensorFlow 1 did, from pixel corners.
    The logits leave out the last layer's bias, as the original implementation of the inception score does.

    Args:
      variables: `params` and `batch_stats` of InceptionV3.
      images: (N, H, W, 3) in [-1, 1].

    Returns:
      logits (N, 1008) and features (N, 2048), float32.
    """
    shape = (images.shape[0], INCEPTION_SIDE, INCEPTION_SIDE, images.shape[-1])
    resized = jax.image.resize(images, shape, "bilinear", antialias=False)
    outputs: Any = InceptionV3().apply(variables, resized)
    logits, features = outputs
    return logits - variables["params"]["fc"]["bias"], features
