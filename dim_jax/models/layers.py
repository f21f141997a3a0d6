"""Layers that LRF-CNN and GCGAN are made of, with PyTorch's conventions where the published numbers depend on them."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Dtype = Any


def at_least_float32(x: jax.Array) -> jax.Array:
    """Returns `x` in float32, or in its own dtype where that is wider: sums over many values need the digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Returns PyTorch's default initializer of convolutions and linear layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Args:
      fan_in: inputs that one output element sums over, at least 1.
    """
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
        # Drawn by NumPy: compiling JAX's own draws for the hundreds of tensors of a network takes a minute on CPU.
        def draw(key_data: np.ndarray) -> np.ndarray:
            rng = np.random.default_rng(np.asarray(key_data).tolist())
            return rng.uniform(-bound, bound, shape).astype(dtype)

        return jax.pure_callback(draw, jax.ShapeDtypeStruct(shape, dtype), jax.random.key_data(key))

    return init


class Conv(nn.Module):
    """A square convolution over (N, H, W, C) with bias, padded so that a stride of 1 keeps the size.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel, odd.
      stride: step in pixels.
      dilation: spacing of the kernel's taps in pixels.
      depthwise: one filter per input channel (features must equal the input's channels).
      dtype: dtype of the computation; parameters stay float32.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs_per_filter = 1 if self.depthwise else x.shape[-1]
        init = fan_in_uniform(self.kernel_size**2 * inputs_per_filter)
        shape = (self.kernel_size, self.kernel_size, inputs_per_filter, self.features)
        kernel = self.param("kernel", init, shape).astype(self.dtype)
        bias = self.param("bias", init, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.depthwise:
            return depthwise_convolution(x, kernel[:, :, 0], self.dilation) + bias
        return convolution(x, kernel, self.stride, self.dilation) + bias


class Linear(nn.Module):
    """A fully connected layer (N, C) -> (N, features) in float32, with PyTorch's default initial weights.

    Attributes:
      features: output size.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = fan_in_uniform(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        return x @ kernel + self.param("bias", init, (self.features,))


def convolution(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Convolves (N, H, W, C) with (k, k, C, features), k odd, zero-padded so that a stride of 1 keeps the size.

    On CPU it is one matrix product over shifted copies: inside a loop, as `lax.scan` makes one, XLA's own convolution
    falls back to a path that was measured 20 times slower.
    """
    if kernel.shape[:2] == (1, 1) and stride == 1:
        return x @ kernel[0, 0]
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _as_matrix_product(x, kernel, stride, dilation),
        default=lambda x, kernel: _as_convolution(x, kernel, stride, dilation),
    )


def _as_convolution(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    margin = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((margin, margin), (margin, margin)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _as_matrix_product(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    size, _, channels, features = kernel.shape
    patches = jnp.concatenate(list(_shifted_copies(x, size, stride, dilation)), axis=-1)
    return patches @ kernel.reshape(size * size * channels, features)


def _shifted_copies(x: jax.Array, size: int, stride: int = 1, dilation: int = 1) -> Iterator[jax.Array]:
    """Yields what each of the size * size taps sees of the zero-padded `x`, row by row."""
    height, width = x.shape[1:3]
    margin = dilation * (size // 2)
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    for top in range(0, size * dilation, dilation):
        for left in range(0, size * dilation, dilation):
            yield padded[:, top : top + height : stride, left : left + width : stride]


def depthwise_convolution(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    """Filters every channel of `x` on its own, as a sum of shifted products.

    XLA's grouped convolution on CPU is 20 to 30 times slower than this sum.

    Args:
      x: (N, H, W, C).
      kernel: (k, k, C), k odd.
      dilation: spacing of the taps in pixels.

    Returns:
      (N, H, W, C), zero-padded at the border.
    """
    size, _, channels = kernel.shape
    copies = _shifted_copies(x, size, dilation=dilation)
    return sum(copy * tap for copy, tap in zip(copies, kernel.reshape(size * size, channels), strict=True))


class DepthwiseSeparable(nn.Module):
    """Depthwise k x k convolution, then a 1x1 convolution; both with bias, nothing between.

    Attributes:
      features: output channels.
      kernel_size: side of the depthwise kernel, odd; 1 makes it a gain and an offset per channel.
      dilation: spacing of the depthwise taps.
      dtype: dtype of the computation.
    """

    features: int
    kernel_size: int = 1
    dilation: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = Conv(channels, self.kernel_size, 1, self.dilation, depthwise=True, dtype=self.dtype, name="depthwise")(x)
        return Conv(self.features, dtype=self.dtype, name="pointwise")(x)


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis, with statistics in float32 and PyTorch's running variance.

    PyTorch normalises with the biased variance of the batch but keeps the *unbiased* one; Flax's own layer keeps the
    biased one, which is why this layer exists. With `axis_name` the statistics are those of the whole global batch.

    Attributes:
      axis_name: mapped device axis to average the statistics over, or None for this device's batch alone.
      momentum: share of the old running statistics that is kept at each step (PyTorch's momentum is 1 minus this).
      epsilon: added to the variance.
      dtype: dtype of the output.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if train:
            mean, var, count = self._batch_statistics(x)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        gain = scale * lax.rsqrt(var + self.epsilon)
        return ((at_least_float32(x) - mean) * gain + bias).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Returns the mean and the biased variance per channel, and the number of values behind each."""
        axis_name = None if self.is_initializing() else self.axis_name
        average = (lambda value: value) if axis_name is None else (lambda value: lax.pmean(value, axis_name))
        replicas = 1 if axis_name is None else lax.psum(1, axis_name)
        axes = tuple(range(x.ndim - 1))
        x = at_least_float32(x)
        mean = average(x.mean(axes))
        # Two passes: E[x^2] - E[x]^2 loses digits where the mean is large beside the spread.
        var = average(jnp.square(x - mean).mean(axes))
        return mean, var, replicas * (x.size // x.shape[-1])


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum with stride 2 and one pixel of padding: (N, H, W, C) -> (N, ceil(H/2), ceil(W/2), C)."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
