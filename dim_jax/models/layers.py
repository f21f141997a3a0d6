"""Layers that LRF-CNN and GCGAN are made of, with PyTorch's conventions where the published numbers depend on them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from dim_jax.models.kernels.platforms import runs_on_cpu
from dim_jax.models.kernels.precision import at_least_float32

Dtype = Any

# Collection of what inference needs of the weights, computed once instead of for every batch (`prepare`).
PREPARED = "prepared"


def prepare(model: nn.Module, variables: Mapping[str, Any], images: jax.Array) -> dict[str, Any]:
    """Returns the collections to add to `variables` so that inference on images of that shape computes less.

    They belong to these weights alone. Compiled, the pass through the network that this makes falls away.
    """
    return dict(model.apply(variables, images, mutable=[PREPARED])[1])


def is_preparing(layer: nn.Module) -> bool:
    """Returns whether `prepare` is running."""
    return layer.is_mutable_collection(PREPARED) and not layer.is_initializing()


def prepared(layer: nn.Module, name: str, make: Callable[[], Any]) -> Any:
    """Returns what `prepare` kept of the layer's weights under `name`, or else makes it."""
    if layer.has_variable(PREPARED, name):
        return layer.get_variable(PREPARED, name)
    value = make()
    if is_preparing(layer):
        layer.put_variable(PREPARED, name, value)
    return value


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
      dilation: spacing of the kernel's taps in pixels; 1 where the stride is not.
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
    def weights(self, channels: int) -> tuple[jax.Array, jax.Array]:
        """Returns kernel (k, k, C or 1, features) and bias (features,) for an input of so many channels."""
        inputs_per_filter = 1 if self.depthwise else channels
        init = fan_in_uniform(self.kernel_size**2 * inputs_per_filter)
        shape = (self.kernel_size, self.kernel_size, inputs_per_filter, self.features)
        return self.param("kernel", init, shape), self.param("bias", init, (self.features,))

    def __call__(self, x: jax.Array) -> jax.Array:
        def cast() -> tuple[jax.Array, ...]:
            return tuple(array.astype(self.dtype) for array in self.weights(x.shape[-1]))

        kernel, bias = cast() if self.dtype == jnp.float32 else prepared(self, "weights", cast)
        x = x.astype(self.dtype)
        if self.depthwise:
            return depthwise_convolution(x, kernel[:, :, 0], self.dilation) + bias
        if self.stride > 1:
            return strided_convolution(x, kernel, self.stride) + bias
        if self.kernel_size == 1:
            return pointwise_convolution(x, kernel[0, 0]) + bias
        algorithm = cpu_algorithm(x, kernel, self.dilation)
        is_prepared = self.has_variable(PREPARED, "matrices") or (is_preparing(self) and runs_on_cpu())
        if algorithm == Algorithm.DIRECT or not is_prepared:
            return convolution(x, kernel, self.dilation) + bias
        matrices = prepared(self, "matrices", lambda: kernel_matrices(kernel, algorithm))
        return convolution_by_matrices(x, matrices, self.dilation, algorithm) + bias


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
    def convolutions(self, channels: int) -> tuple[Conv, Conv]:
        """Returns the two convolutions for an input of so many channels."""
        depthwise = Conv(
            channels, self.kernel_size, 1, self.dilation, depthwise=True, dtype=self.dtype, name="depthwise"
        )
        return depthwise, Conv(self.features, dtype=self.dtype, name="pointwise")

    def matrix(self, channels: int) -> tuple[jax.Array, jax.Array]:
        """Returns the matrix (C, features) and the offset (features,) that a `kernel_size` of 1 comes down to."""
        depthwise, pointwise = self.convolutions(channels)
        gain, offset = depthwise.weights(channels)
        kernel, bias = pointwise.weights(channels)
        return gain.reshape(channels, 1) * kernel[0, 0], offset @ kernel[0, 0] + bias

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kernel_size == 1:
            return side_by_side([self], x)
        depthwise, pointwise = self.convolutions(x.shape[-1])
        return pointwise(depthwise(x))


def side_by_side(layers: Sequence[DepthwiseSeparable], x: jax.Array) -> jax.Array:
    """Applies several separable convolutions with `kernel_size` 1 to one input, as one matrix product.

    Returns:
      (N, H, W, sum of their features): the outputs, one after the other.
    """
    dtype = layers[0].dtype

    def joined() -> tuple[jax.Array, jax.Array]:
        matrices, offsets = zip(*(layer.matrix(x.shape[-1]) for layer in layers), strict=True)
        return jnp.concatenate(matrices, -1).astype(dtype), jnp.concatenate(offsets).astype(dtype)

    matrix, offset = prepared(layers[0], "matrix", joined)
    return pointwise_convolution(x.astype(dtype), matrix) + offset


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
    def variables_for(self, channels: int) -> tuple[jax.Array, jax.Array, nn.Variable, nn.Variable]:
        """Returns scale and bias (C,), and the variables of the running mean and variance."""
        return (
            self.param("scale", nn.initializers.ones, (channels,)),
            self.param("bias", nn.initializers.zeros, (channels,)),
            self.variable("batch_stats", "mean", jnp.zeros, (channels,)),
            self.variable("batch_stats", "var", jnp.ones, (channels,)),
        )

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return normalize_together([self], x, train)


def normalize_together(layers: Sequence[BatchNorm], x: jax.Array, train: bool) -> jax.Array:
    """Applies several batch norms, alike but for their variables, to equal parts of the channels of one input.

    Args:
      layers: one or more.
      x: (..., C), C a multiple of their number.
      train: use the statistics of the batch and update the running ones.
    """
    first, channels = layers[0], x.shape[-1] // len(layers)
    scales, biases, means, variances = zip(*(layer.variables_for(channels) for layer in layers), strict=True)
    scale, bias = jnp.concatenate(scales), jnp.concatenate(biases)
    if train:
        axis_name = None if first.is_initializing() else first.axis_name
        y, mean, var = normalize_batch(x, scale, bias, first.epsilon, axis_name)
        if not first.is_initializing():
            count = _count(x, axis_name)
            unbiased = var * (count / max(count - 1, 1))
            for running, new in ((means, mean), (variances, unbiased)):
                for variable, part in zip(running, jnp.split(new, len(layers)), strict=True):
                    variable.value = first.momentum * variable.value + (1 - first.momentum) * part
    else:

        def vectors() -> tuple[jax.Array, ...]:
            mean, var = (jnp.concatenate([variable.value for variable in running]) for running in (means, variances))
            return mean, scale * lax.rsqrt(var + first.epsilon), bias

        mean, gain, offset = prepared(first, "normalization", vectors)
        y = (at_least_float32(x) - mean) * gain + offset
    return y.astype(first.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises x (..., C) by the statistics of the batch over all devices of `axis_name`.

    Its gradient is stated, because two sums and one pass over x are all it takes.

    Returns:
      the result, and the mean and the biased variance per channel (C,), which have no gradient; at least float32.

    Reference: Ioffe & Szegedy, "Batch normalization", ICML 2015, section 3.
    """
    mean, var = _batch_statistics(x, axis_name)
    return (at_least_float32(x) - mean) * (scale * lax.rsqrt(var + epsilon)) + bias, mean, var


def _normalize_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None) -> Any:
    # Plainly, not by normalize_batch: a gradient of this gradient must also reach x through mean and var.
    mean, var = _batch_statistics(x, axis_name)
    inverse_deviation = lax.rsqrt(var + epsilon)
    y = (at_least_float32(x) - mean) * (scale * inverse_deviation) + bias
    return (y, mean, var), (x, scale, mean, inverse_deviation)


def _normalize_backward(epsilon: float, axis_name: str | None, saved: Any, gradients: Any) -> Any:
    x, scale, mean, inverse_deviation = saved
    gradient, axes = gradients[0], tuple(range(x.ndim - 1))
    standardised = (at_least_float32(x) - mean) * inverse_deviation
    for_scale, for_bias = (gradient * standardised).sum(axes), gradient.sum(axes)
    sums = for_scale, for_bias
    if axis_name is not None:
        sums = lax.psum(sums, axis_name)
    along_scale, along_bias = (each / _count(x, axis_name) for each in sums)
    for_x = (scale * inverse_deviation) * (gradient - along_bias - standardised * along_scale)
    return for_x.astype(x.dtype), for_scale, for_bias


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


def _count(x: jax.Array, axis_name: str | None) -> int:
    """Returns how many values of each channel there are over all devices."""
    return x.size // x.shape[-1] * (1 if axis_name is None else lax.psum(1, axis_name))


def _batch_statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the biased variance per channel."""
    average = (lambda value: value) if axis_name is None else (lambda value: lax.pmean(value, axis_name))
    axes = tuple(range(x.ndim - 1))
    x = at_least_float32(x)
    mean = average(x.mean(axes))
    # Two passes: E[x^2] - E[x]^2 loses digits where the mean is large beside the spread.
    return mean, average(jnp.square(x - mean).mean(axes))


def max_pool(x: jax.Array) -> jax.Array:
    """3x3 maximum with stride 2 and one pixel of padding: (N, H, W, C) -> (N, ceil(H/2), ceil(W/2), C)."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def shown_feature_map(network: nn.Module, x: jax.Array) -> jax.Array:
    """Returns the last map x (N, H, W, C) of a network, marked for explain.grad_cam; no number changes."""
    if network.is_initializing():
        return x
    network.sow("intermediates", "feature_map", x)
    return network.perturb("feature_map", x)
