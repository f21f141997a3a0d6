"""Layers with spectral normalisation: weights divided by their largest singular value.

Weights are viewed as a matrix with the outputs as one axis and everything else as the other. Estimates of its leading
singular vectors are stored in the collection "spectral": `u` along the outputs, and `v` in the shape of the other axes.
A call in training refines them by one power iteration, which is enough because weights change little per step.

Reference: Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018, algorithm 1.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dim_jax.models.kernels.convolutions import convolution, pointwise_convolution
from dim_jax.models.layers import Dtype, fan_in_uniform
from dim_jax.models.prepared_weights import prepared

COLLECTION = "spectral"

# Far from convergence, but enough that the first step does not divide by a random number.
_INITIAL_ITERATIONS = 8
_EPSILON = 1e-12


def spectral_normalize(layer: nn.Module, weights: jax.Array, train: bool) -> jax.Array:
    """Divides weights by their estimated largest singular value.

    Args:
      layer: the module that owns the weights, inside its compact method; gets the variables `u` and `v`.
      weights: (..., features).
      train: run a power iteration first, which needs a mutable collection. u and v are constants for the gradient.

    Returns:
      (..., features).
    """
    matrix = weights.reshape(-1, weights.shape[-1])
    if layer.is_initializing():
        u, v = _initial_vectors(layer.make_rng("params"), matrix)
    else:
        u, v = layer.get_variable(COLLECTION, "u"), layer.get_variable(COLLECTION, "v").reshape(-1)
        if train:
            constant = lax.stop_gradient(matrix)
            v = _unit_vector(constant @ u)
            u = _unit_vector(v @ constant)
    if layer.is_initializing() or train:
        layer.put_variable(COLLECTION, "u", u)
        layer.put_variable(COLLECTION, "v", v.reshape(weights.shape[:-1]))
    return weights / ((v @ matrix) @ u)


def _unit_vector(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), _EPSILON)


def _initial_vectors(key: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns u and v for new weights from a random start; in NumPy, for the reason given in `fan_in_uniform`."""

    def iterate(key_data: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.asarray(matrix)
        random = np.random.default_rng(np.asarray(key_data).tolist())
        u = np.asarray(random.normal(size=matrix.shape[1])).astype(matrix.dtype)
        for _ in range(_INITIAL_ITERATIONS):
            v = matrix @ u
            v /= max(np.linalg.norm(v), _EPSILON)
            u = v @ matrix
            u /= max(np.linalg.norm(u), _EPSILON)
        return u, v

    rows, columns = matrix.shape
    shapes = jax.ShapeDtypeStruct((columns,), matrix.dtype), jax.ShapeDtypeStruct((rows,), matrix.dtype)
    return jax.pure_callback(iterate, shapes, jax.random.key_data(key), matrix)


class SpectralConv(nn.Module):
    """Spectrally normalised convolution over (N, H, W, C), without bias.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel; 1 for a pointwise convolution.
      form: function of input and kernel, from models.kernels; ignored for a `kernel_size` of 1.
      dtype: dtype of the computation; parameters stay float32.
    """

    features: int
    kernel_size: int = 3
    form: Callable[[jax.Array, jax.Array], jax.Array] = convolution
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        weights = self.param("kernel", fan_in_uniform(self.kernel_size**2 * x.shape[-1]), shape)
        kernel = prepared(self, "kernel", lambda: spectral_normalize(self, weights, train).astype(self.dtype))
        x = x.astype(self.dtype)
        return pointwise_convolution(x, kernel[0, 0]) if self.kernel_size == 1 else self.form(x, kernel)


class SpectralSeed(nn.Module):
    """Spectrally normalised transposed convolution of one pixel, without bias: (N, C) -> (N, side, side, features).

    Attributes:
      features: output channels.
      side: side of the kernel and the output.
      dtype: dtype of the computation.
    """

    features: int
    side: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # PyTorch's bound for transposed convolutions uses the number of outputs.
        init = fan_in_uniform(self.side**2 * self.features)
        weights = self.param("kernel", init, (x.shape[-1], self.side, self.side, self.features))
        kernel = prepared(self, "kernel", lambda: spectral_normalize(self, weights, train).astype(self.dtype))
        y = x.astype(self.dtype) @ kernel.reshape(len(kernel), -1)
        return y.reshape(-1, self.side, self.side, self.features)


class SpectralEmbedding(nn.Module):
    """Spectrally normalised embedding of classes: labels (N,) -> (N, features) float32.

    Attributes:
      num_classes: number of classes.
      features: size of the embedding.
    """

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, labels: jax.Array, train: bool) -> jax.Array:
        table = self.param("table", fan_in_uniform(self.features), (self.num_classes, self.features))
        table = spectral_normalize(self, table, train)
        return jax.nn.one_hot(labels, self.num_classes, dtype=table.dtype) @ table
