"""Batch normalisation with PyTorch's running variance and a custom VJP."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.kernels.platforms import runs_in_library, runs_on_cpu
from dim_jax.models.kernels.precision import at_least_float32
from dim_jax.models.layers import Dtype
from dim_jax.models.prepared_weights import prepared


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis, with statistics in float32 and PyTorch's running variance.

    PyTorch normalises by the biased variance of the batch but keeps a running average of the *unbiased* one, where
    Flax's BatchNorm keeps the biased one. With `axis_name` the statistics are those of the global batch.

    Attributes:
      axis_name: mapped device axis to average the statistics over; None for the local batch only.
      momentum: decay of the running statistics per step (1 minus PyTorch's momentum).
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
        return fused_batch_norms([self], x, train)


def fused_batch_norms(layers: Sequence[BatchNorm], x: jax.Array, train: bool) -> jax.Array:
    """Applies several batch norms with equal attributes to equal parts of the channels of one input.

    Args:
      layers: one or more bound layers.
      x: (..., C), C a multiple of the number of layers.
      train: use the statistics of the batch and update the running ones.

    Returns:
      (..., C).
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
        if runs_in_library():  # such runtimes fuse a product and a sum into the convolution before
            y = at_least_float32(x) * gain + prepared(first, "shift", lambda: offset - mean * gain)
        else:
            y = (at_least_float32(x) - mean) * gain + offset
    return y.astype(first.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises x (..., C) by the statistics of the batch over all devices of `axis_name`.

    Has a custom VJP, which needs two sums and one pass over x.

    Args:
      x: (..., C).
      scale, bias: (C,).
      epsilon: added to the variance.
      axis_name: mapped device axis, or None.

    Returns:
      The result, and mean and biased variance per channel (C,), which have no gradient; at least float32.

    Reference: Ioffe & Szegedy, "Batch normalization", ICML 2015, section 3.
    """
    mean, var = _batch_statistics(x, axis_name)
    return (at_least_float32(x) - mean) * (scale * lax.rsqrt(var + epsilon)) + bias, mean, var


def _normalize_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None) -> Any:
    # Does not call normalize_batch: second derivatives must also reach x through mean and var.
    mean, var = _batch_statistics(x, axis_name)
    inverse_deviation = lax.rsqrt(var + epsilon)
    y = (at_least_float32(x) - mean) * (scale * inverse_deviation) + bias
    return (y, mean, var), (x, scale, mean, inverse_deviation)


def _normalize_backward(epsilon: float, axis_name: str | None, residuals: Any, cotangents: Any) -> Any:
    x, scale, mean, inverse_deviation = residuals
    cotangent, axes = cotangents[0], tuple(range(x.ndim - 1))
    standardised = (at_least_float32(x) - mean) * inverse_deviation
    scale_cotangent, bias_cotangent = (cotangent * standardised).sum(axes), cotangent.sum(axes)
    sums = scale_cotangent, bias_cotangent
    if axis_name is not None:
        sums = lax.psum(sums, axis_name)
    mean_product, mean_cotangent = (total / _count(x, axis_name) for total in sums)
    x_cotangent = (scale * inverse_deviation) * (cotangent - mean_cotangent - standardised * mean_product)
    return x_cotangent.astype(x.dtype), scale_cotangent, bias_cotangent


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


def _count(x: jax.Array, axis_name: str | None) -> int:
    """Returns the number of values per channel over all devices."""
    return x.size // x.shape[-1] * (1 if axis_name is None else lax.psum(1, axis_name))


def _batch_statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the biased variance per channel."""
    axes = tuple(range(x.ndim - 1))
    x = at_least_float32(x)
    # Two passes: E[x^2] - E[x]^2 loses precision if the mean is large compared to the deviation.
    if axis_name is not None and not runs_on_cpu():
        mean = x.mean(axes)
        return _combined(mean, jnp.square(x - mean).mean(axes), axis_name)
    average = (lambda value: value) if axis_name is None else (lambda value: lax.pmean(value, axis_name))
    mean = average(x.mean(axes))
    return mean, average(jnp.square(x - mean).mean(axes))


def _combined(mean: jax.Array, var: jax.Array, axis_name: str) -> tuple[jax.Array, jax.Array]:
    """Returns the statistics of all devices from those of each, in one collective where two passes need two.

    Reference: Chan, Golub & LeVeque, "Algorithms for computing the sample variance", American Statistician 1983.
    """
    if lax.psum(1, axis_name) == 1:
        return mean, var
    means, variances = jnp.moveaxis(lax.all_gather(jnp.stack([mean, var]), axis_name), 1, 0)
    mean = means.mean(0)
    return mean, variances.mean(0) + jnp.square(means - mean).mean(0)
