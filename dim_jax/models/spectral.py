"""Layers whose weights are divided by their largest singular value, which bounds how much they can stretch an input.

Weights count as a matrix with the outputs as one axis and all else as the other. Its leading singular vectors are kept
in the collection "spectral": `u` along the outputs, and `v` in the shape of the other axes. A call in training brings
them closer by one power iteration, which is enough because weights change little between two steps.

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

COLLECTION = "spectral"

# Far from converged, but a start: the first step's division should not be by a random number.
_FIRST_ITERATIONS = 8
_EPSILON = 1e-12


def divided_by_norm(layer: nn.Module, weights: jax.Array, train: bool) -> jax.Array:
    """Returns `weights` (..., features) divided by their estimated largest singular value.

    Args:
      layer: the module that has the weights, in its compact method; it gets the variables `u` and `v`.
      train: iterate first, which needs the collection to be mutable. For the gradient u and v are constants.
    """
    matrix = weights.reshape(-1, weights.shape[-1])
    if layer.is_initializing():
        u, v = _first_vectors(layer.make_rng("params"), matrix)
    else:
        u, v = layer.get_variable(COLLECTION, "u"), layer.get_variable(COLLECTION, "v").reshape(-1)
        if train:
            constant = lax.stop_gradient(matrix)
            v = _unit(constant @ u)
            u = _unit(v @ constant)
    if layer.is_initializing() or train:
        layer.put_variable(COLLECTION, "u", u)
        layer.put_variable(COLLECTION, "v", v.reshape(weights.shape[:-1]))
    return weights / ((v @ matrix) @ u)


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), _EPSILON)


def _first_vectors(key: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns u and v for new weights, from a random start; by NumPy, as in layers.fan_in_uniform."""

    def iterate(key_data: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.asarray(matrix)
        u = np.random.default_rng(np.asarray(key_data).tolist()).normal(size=matrix.shape[1]).astype(matrix.dtype)
        for _ in range(_FIRST_ITERATIONS):
            v = matrix @ u
            v /= max(np.linalg.norm(v), _EPSILON)
            u = v @ matrix
            u /= max(np.linalg.norm(u), _EPSILON)
        return u, v

    rows, columns = matrix.shape
    shapes = jax.ShapeDtypeStruct((columns,), matrix.dtype), jax.ShapeDtypeStruct((rows,), matrix.dtype)
    return jax.pure_callback(iterate, shapes, jax.random.key_data(key), matrix)


class SpectralConv(nn.Module):
    """A spectrally normalised convolution over (N, H, W, C), without bias.

    Attributes:
      features: output channels.
      kernel_size: side of the kernel; 1 makes it a matrix product.
      form: what to do with the input and the kernel, one of models.convolutions.
      dtype: dtype of the computation; parameters stay float32.
    """

    features: int
    kernel_size: int = 3
    form: Callable[[jax.Array, jax.Array], jax.Array] = convolution
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", fan_in_uniform(self.kernel_size**2 * x.shape[-1]), shape)
        kernel = divided_by_norm(self, kernel, train).astype(self.dtype)
        x = x.astype(self.dtype)
        return pointwise_convolution(x, kernel[0, 0]) if self.kernel_size == 1 else self.form(x, kernel)


class SpectralSeed(nn.Module):
    """A spectrally normalised transposed convolution of one pixel, without bias: (N, C) to a map (N, k, k, features).

    Attributes:
      features: output channels.
      side: of the map and of the kernel.
      dtype: dtype of the computation.
    """

    features: int
    side: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        # PyTorch counts the outputs of a transposed convolution for the bound of its initial weights.
        init = fan_in_uniform(self.side**2 * self.features)
        kernel = self.param("kernel", init, (x.shape[-1], self.side, self.side, self.features))
        kernel = divided_by_norm(self, kernel, train).astype(self.dtype)
        product = x.astype(self.dtype) @ kernel.reshape(len(kernel), -1)
        return product.reshape(-1, self.side, self.side, self.features)


class SpectralEmbedding(nn.Module):
    """A spectrally normalised table of one vector per class: labels (N,) to (N, features) in float32.

    Attributes:
      num_classes: rows of the table.
      features: length of a vector.
    """

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, labels: jax.Array, train: bool) -> jax.Array:
        table = self.param("table", fan_in_uniform(self.features), (self.num_classes, self.features))
        table = divided_by_norm(self, table, train)
        return jax.nn.one_hot(labels, self.num_classes, dtype=table.dtype) @ table
