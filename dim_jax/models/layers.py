"""Convolution and linear layers with PyTorch's default initialisation."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dim_jax.models.kernels.convolutions import (
    Algorithm,
    convolution,
    convolution_by_matrices,
    cpu_algorithm,
    depthwise_convolution,
    kernel_matrices,
    pointwise_convolution,
    strided_convolution,
)
from dim_jax.models.kernels.platforms import runs_in_library, runs_on_cpu
from dim_jax.models.prepared_weights import has_prepared, is_preparing, prepared

Dtype = Any


def fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Returns PyTorch's default initializer of convolutions and linear layers: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Args:
      fan_in: inputs that one output element sums over, at least 1.
    """
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
        # NumPy draws: compiling JAX's for the hundreds of tensors of a network takes a minute on CPU.
        def draw(key_data: np.ndarray) -> np.ndarray:
            rng = np.random.default_rng(np.asarray(key_data).tolist())
            return rng.uniform(-bound, bound, shape).astype(dtype)

        return jax.pure_callback(draw, jax.ShapeDtypeStruct(shape, dtype), jax.random.key_data(key))

    return init


def without_gradient(bias: jax.Array) -> jax.Array:
    """Returns a bias that a batch norm removes again, on accelerators without gradient.

    In exact arithmetic the gradient is zero; the sums that would be computed for it are rounding errors, and each reads
    a whole map.
    """
    return bias if runs_on_cpu() else lax.stop_gradient(bias)


class Conv(nn.Module):
    """Square convolution over (N, H, W, C) with bias; same-size padding for a stride of 1.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel, odd.
      stride: step in pixels.
      dilation: spacing of the taps in pixels; must be 1 if the stride is above 1.
      depthwise: one filter per input channel (features must equal the input's channels).
      dtype: dtype of the computation; parameters stay float32.
      starts_at_zero: initialise kernel and bias with zeros, as the last layer of a residual branch.
      before_norm: a batch norm follows and removes the bias again, so that its gradient is zero (see
        `without_gradient`).
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    dtype: Dtype = jnp.float32
    starts_at_zero: bool = False
    before_norm: bool = False

    @nn.compact
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array]:
        """Returns kernel (k, k, C or 1, features) and bias (features,) for an input of `channels` channels."""
        inputs_per_filter = 1 if self.depthwise else channels
        init = fan_in_uniform(self.kernel_size**2 * inputs_per_filter)
        init = nn.initializers.zeros if self.starts_at_zero else init
        shape = (self.kernel_size, self.kernel_size, inputs_per_filter, self.features)
        return self.param("kernel", init, shape), self.param("bias", init, (self.features,))

    def __call__(self, x: jax.Array) -> jax.Array:
        def cast() -> tuple[jax.Array, ...]:
            return tuple(array.astype(self.dtype) for array in self.weights(x.shape[-1]))

        kernel, bias = cast() if self.dtype == jnp.float32 else prepared(self, "weights", cast)
        bias = without_gradient(bias) if self.before_norm else bias
        x = x.astype(self.dtype)
        if self.depthwise:
            return depthwise_convolution(x, kernel[:, :, 0], self.dilation) + bias
        if self.stride > 1:
            return strided_convolution(x, kernel, self.stride) + bias
        if self.kernel_size == 1:
            return pointwise_convolution(x, kernel[0, 0]) + bias
        algorithm = cpu_algorithm(x, kernel, self.dilation)
        has_matrices = has_prepared(self, "matrices") or (is_preparing(self) and runs_on_cpu())
        if algorithm == Algorithm.DIRECT or not has_matrices:
            return convolution(x, kernel, self.dilation) + bias
        matrices = prepared(self, "matrices", lambda: kernel_matrices(kernel, algorithm))
        return convolution_by_matrices(x, matrices, self.dilation, algorithm) + bias


class Linear(nn.Module):
    """Fully connected layer (N, C) -> (N, features) in float32, with PyTorch's default initialisation.

    Attributes:
      features: output size.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = fan_in_uniform(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        return x @ kernel + self.param("bias", init, (self.features,))


class DepthwiseSeparable(nn.Module):
    """Depthwise k x k convolution followed by a 1x1 convolution, both with bias and without activation.

    Attributes:
      features: output channels.
      kernel_size: side of the depthwise kernel, odd; 1 is a gain and an offset per channel.
      dilation: spacing of the depthwise taps.
      dtype: dtype of the computation.
      before_norm: see Conv.
    """

    features: int
    kernel_size: int = 1
    dilation: int = 1
    dtype: Dtype = jnp.float32
    before_norm: bool = False

    @nn.compact
    def convolutions(self, channels: int) -> tuple[Conv, Conv]:
        """Returns the two convolutions for an input of `channels` channels."""
        shared = partial(Conv, dtype=self.dtype, before_norm=self.before_norm)
        depthwise = shared(channels, self.kernel_size, 1, self.dilation, depthwise=True, name="depthwise")
        return depthwise, shared(self.features, name="pointwise")

    def factors(self, channels: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Returns gain and offset (C,), kernel (1, 1, C, features) and bias (features,) for a `kernel_size` of 1."""
        depthwise, pointwise = self.convolutions(channels)
        gain, offset = depthwise.weights(channels)
        return gain, offset, *pointwise.weights(channels)

    def matrix(self, channels: int) -> tuple[jax.Array, jax.Array]:
        """Returns the equivalent matrix (C, features) and offset (features,) for a `kernel_size` of 1."""
        gain, offset, kernel, bias = self.factors(channels)
        return gain.reshape(channels, 1) * kernel[0, 0], offset @ kernel[0, 0] + bias

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kernel_size == 1:
            return fused_pointwise([self], x)
        depthwise, pointwise = self.convolutions(x.shape[-1])
        return pointwise(depthwise(x))


def fused_pointwise(layers: Sequence[DepthwiseSeparable], x: jax.Array) -> jax.Array:
    """Applies several separable convolutions with `kernel_size` 1 to one input, fused into one matmul.

    Args:
      layers: one or more bound layers with the same dtype.
      x: (N, H, W, C).

    Returns:
      (N, H, W, sum of their features): the concatenated outputs.
    """
    dtype, channels = layers[0].dtype, x.shape[-1]

    def fused() -> tuple[jax.Array, jax.Array]:
        if not runs_on_cpu():
            return _fused_in_one_sum([layer.factors(channels) for layer in layers], dtype)
        matrices, offsets = zip(*(layer.matrix(channels) for layer in layers), strict=True)
        return jnp.concatenate(matrices, -1).astype(dtype), jnp.concatenate(offsets).astype(dtype)

    matrix, offset = prepared(layers[0], "matrix", fused)
    offset = without_gradient(offset) if layers[0].before_norm else offset
    return pointwise_convolution(x.astype(dtype), matrix) + offset


def _fused_in_one_sum(factors: Sequence[tuple[jax.Array, ...]], dtype: Dtype) -> tuple[jax.Array, jax.Array]:
    """Returns matrix and offset of several layers, the offsets by one sum instead of a small product for each."""
    gains, offsets, kernels, biases = zip(*factors, strict=True)
    matrices = [kernel[0, 0] for kernel in kernels]

    def scaled_by(vectors: Sequence[jax.Array]) -> jax.Array:
        return jnp.concatenate([vector.reshape(-1, 1) * m for vector, m in zip(vectors, matrices, strict=True)], -1)

    return scaled_by(gains).astype(dtype), (scaled_by(offsets).sum(0) + jnp.concatenate(biases)).astype(dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 max pooling with stride 2 and padding 1: (N, H, W, C) -> (N, ceil(H / 2), ceil(W / 2), C)."""
    if not runs_in_library():
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    # jax2onnx makes of a reduce_window a pooling over four axes, which ONNX Runtime does not have. A repeated edge is
    # no larger than the maximum of a window that has the edge itself.
    height, width = x.shape[1:3]
    x = jnp.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    x = jnp.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
    x = reduce(jnp.maximum, [x[:, top : top + height : 2] for top in range(3)])
    return reduce(jnp.maximum, [x[:, :, left : left + width : 2] for left in range(3)])
