"""Deterministic sampling of a diffusion model: EDM's noise levels and Heun's method.

Reference: Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, equation 5
and algorithm 1; Ho & Salimans, "Classifier-free diffusion guidance", 2022.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax import lax

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]

RHO = 7.0


def noise_levels(steps: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Returns the noise levels before each step and after the last, whose RHO-th roots are evenly spaced.

    Args:
      steps: number of steps, at least 2.
      sigma_min, sigma_max: lowest and highest level, 0 < sigma_min < sigma_max.

    Returns:
      float64 (steps + 1,): from sigma_max down to sigma_min, then 0.
    """
    roots = np.linspace(sigma_max ** (1 / RHO), sigma_min ** (1 / RHO), steps)
    return np.append(roots**RHO, 0.0)


def sample(denoise: Denoiser, noise: jax.Array, levels: jax.Array) -> jax.Array:
    """Follows the probability-flow differential equation dx / d sigma = (x - D(x; sigma)) / sigma by Heun's method.

    Its error is of second order in the steps. The last step, to no noise, is the denoiser's answer itself: Euler's
    step, as the slope at no noise is not defined.

    Args:
      denoise: D, a function of noisy images (N, H, W, C) and a noise level, a scalar.
      noise: standard normal, (N, H, W, C).
      levels: of `noise_levels`, (steps + 1,).

    Returns:
      images (N, H, W, C).
    """

    def step(x: jax.Array, levels: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        sigma, following = levels
        slope = (x - denoise(x, sigma)) / sigma
        by_euler = x + (following - sigma) * slope
        slope_there = (by_euler - denoise(by_euler, following)) / following
        return x + (following - sigma) * (slope + slope_there) / 2, None

    x, _ = lax.scan(step, levels[0] * noise, (levels[:-2], levels[1:-1]))
    return denoise(x, levels[-2])


def guided(conditional: Denoiser, unconditional: Denoiser, guidance: jax.Array | float) -> Denoiser:
    """Returns classifier-free guidance: D_without + guidance (D_with - D_without).

    Args:
      conditional, unconditional: denoisers with and without the label.
      guidance: 0 ignores the label, 1 is the conditional denoiser, more exaggerates what is particular to the class.
    """

    def denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
        without = unconditional(x, sigma)
        return without + guidance * (conditional(x, sigma) - without)

    return denoise
