"""Preconditioning of a denoising network by EDM, and the weight of its loss.

A noisy image is y + sigma n with n standard normal, and y of standard deviation sigma_data. The denoiser

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)

is trained to return y. Its coefficients give the network F inputs and targets of unit variance at every noise level,
and amplify the errors of F as little as possible.

Reference: Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, equations 7
and 8, table 1, appendix B.6.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Preconditioning(NamedTuple):
    """Coefficients of the denoiser at some noise levels, each of the shape of the noise levels.

    Attributes:
      skip, out: factors of the noisy image and of the network's output.
      input: factor of the network's input.
      noise: the network's second input, log(sigma) / 4.
    """

    skip: jax.Array
    out: jax.Array
    input: jax.Array
    noise: jax.Array


def precondition(sigma: jax.Array, sigma_data: float) -> Preconditioning:
    """Returns the coefficients at noise levels `sigma`, above 0.

    Args:
      sigma: standard deviations of the noise.
      sigma_data: standard deviation of the images, above 0.
    """
    total = jnp.sqrt(jnp.square(sigma) + sigma_data**2)
    return Preconditioning(
        skip=jnp.square(sigma_data / total), out=sigma * sigma_data / total, input=1 / total, noise=jnp.log(sigma) / 4
    )


def loss_weight(sigma: jax.Array, sigma_data: float) -> jax.Array:
    """Returns the weight 1 / c_out^2 of the squared error of D, so that the error of F has weight 1 at every level."""
    return 1 / jnp.square(precondition(sigma, sigma_data).out)


def denoise(
    network: Callable[[jax.Array, jax.Array], jax.Array], noisy: jax.Array, sigma: jax.Array, sigma_data: float
) -> jax.Array:
    """Returns the denoised images D(x; sigma).

    Args:
      network: F, a function of scaled images (N, H, W, C) and of c_noise (N,).
      noisy: noisy images x, (N, H, W, C).
      sigma: noise level of each image, (N,), above 0.
      sigma_data: standard deviation of the images.

    Returns:
      (N, H, W, C).
    """
    coefficients = precondition(sigma, sigma_data)
    skip, out, scale = (value[:, None, None, None] for value in coefficients[:3])
    return skip * noisy + out * network(scale * noisy, coefficients.noise)
