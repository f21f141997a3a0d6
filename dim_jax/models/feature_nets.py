"""Frozen networks as measures: how far apart two images look, and where an image lies in a space of features.

Images are (N, H, W, 3) in [-1, 1]. Gradients reach the images; the weights come from `interop.pretrained`.

PERCEPTUAL maps a configuration's name to a distance, `distance(variables, a, b) -> (N,)`, one number per pair.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dim_jax.models.efficientnet_lite import EfficientNetLite0, map_taps, scale_pixels
from dim_jax.models.inception import InceptionV3
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.layers import Conv, Dtype

Distance = Callable[[Mapping[str, Any], jax.Array, jax.Array], jax.Array]

# Channels of VGG16's convolutions; a pooling stands before every group but the first.
VGG16_GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# LPIPS' own scaling of images in [-1, 1].
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
FEATURE_SIDE = 224
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
                x = _halved(x)
            for number, features in enumerate(widths):
                x = nn.relu(Conv(features, 3, dtype=self.dtype, name=f"conv{group + 1}_{number + 1}")(x))
            taps.append(x)
        return tuple(taps)


def _halved(x: jax.Array) -> jax.Array:
    """2x2 maximum with stride 2, a last odd row or column left out.

    As a maximum over an axis, because the gradient of a pooling window is slow on CPU.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def lpips_distance(variables: Mapping[str, Any], a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns LPIPS v0.1 with VGG16: sum over taps of the mean over positions of sum_c head_c (a_c - b_c)^2.

    Args:
      variables: {"params": those of VGG16, "heads": five (C,) arrays}.
      a, b: (N, H, W, 3) in [-1, 1].

    Returns:
      (N,), 0 for equal images.

    Reference: Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", CVPR 2018,
    equation 1.
    """

    def directions(images: jax.Array) -> list[jax.Array]:
        scaled = (images - jnp.asarray(LPIPS_SHIFT)) / jnp.asarray(LPIPS_SCALE)
        return [_direction(tap) for tap in VGG16().apply({"params": variables["params"]}, scaled)]

    triples = zip(directions(a), directions(b), variables["heads"], strict=True)
    return sum((jnp.square(one - other) @ head).mean((1, 2)) for one, other, head in triples)


def lite0_distance(variables: Mapping[str, Any], a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a perceptual distance of this project's own, in the manner of LPIPS, with EfficientNet-Lite0.

    The last maps at strides 2, 4, 8, 16 and 32 are scaled to unit length over their channels; the squared difference
    is averaged over positions, channels and maps. Nothing in it was fitted to what people say, so its numbers compare
    with one another and not with LPIPS.

    Args:
      variables: `params` and `batch_stats` of EfficientNetLite0.
      a, b: (N, H, W, 3) in [-1, 1].

    Returns:
      (N,), 0 for equal images.
    """
    model = EfficientNetLite0()

    def directions(images: jax.Array) -> list[jax.Array]:
        return [_direction(tap) for tap in map_taps(model, variables, scale_pixels(images))]

    pairs = list(zip(directions(a), directions(b), strict=True))
    return sum(jnp.square(one - other).mean((1, 2, 3)) for one, other in pairs) / len(pairs)


def no_distance(variables: Mapping[str, Any], a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns (N,) zeros: what a reconstruction costs where no network judges it."""
    del variables, b
    return jnp.zeros(a.shape[0])


PERCEPTUAL: dict[str, Distance] = {
    "lite0": lite0_distance,
    "lpips_vgg16": lpips_distance,
    "none": no_distance,
}


def _direction(x: jax.Array) -> jax.Array:
    """Scales x (..., C) to unit length over C. Where all is zero it stays zero, and so does its gradient."""
    x = at_least_float32(x)
    squares = jnp.square(x).sum(-1, keepdims=True)
    length = jnp.sqrt(jnp.where(squares > 0, squares, 1.0)) + 1e-10
    return x * jnp.where(squares > 0, 1 / length, 0.0)


def lite0_features(variables: Mapping[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the ImageNet logits and the pooled features of EfficientNet-Lite0, whatever the images' size.

    Preprocessing: both sides are resized to 224 px (no crop) by Keys' bicubic kernel, widened where it shrinks so that
    nothing aliases, clipped to [-1, 1], and scaled to (p - 127) / 128 of pixels p in 0..255.

    Args:
      variables: `params` and `batch_stats` of EfficientNetLite0.
      images: (N, H, W, 3) in [-1, 1].

    Returns:
      logits (N, 1000) and features (N, 1280), float32.
    """
    shape = (images.shape[0], FEATURE_SIDE, FEATURE_SIDE, images.shape[-1])
    resized = jnp.clip(jax.image.resize(images, shape, "cubic", antialias=True), -1, 1)
    return EfficientNetLite0().apply(variables, scale_pixels(resized))


def inception_features(variables: Mapping[str, Any], images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the logits of the inception score and the features of FID and KID, whatever the images' size.

    Preprocessing is that of pytorch-fid: both sides are resized to 299 px (no crop), bilinear between centres of pixels
    and without antialiasing. The first implementation, and torch-fidelity after it, resize as TensorFlow 1 did, from
    corners of pixels. The logits are those without the last layer's bias, as in the code that made the inception score
    known: it multiplied the features by that layer's weights alone.

    Args:
      variables: `params` and `batch_stats` of InceptionV3.
      images: (N, H, W, 3) in [-1, 1].

    Returns:
      logits (N, 1008) and features (N, 2048), float32.
    """
    shape = (images.shape[0], INCEPTION_SIDE, INCEPTION_SIDE, images.shape[-1])
    logits, features = InceptionV3().apply(variables, jax.image.resize(images, shape, "bilinear", antialias=False))
    return logits - variables["params"]["fc"]["bias"], features
