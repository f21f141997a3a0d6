"""Image synthesis with a trained diffusion model: one reproducible image per seed, independent of the other seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.gan import heun_sampler
from dim_jax.gan.synthesis import image_keys, images_by_group, parameters_sha256, to_pixels
from dim_jax.models import preconditioning
from dim_jax.models.denoising_unet import DenoisingUNet
from dim_jax.models.prepared_weights import prepare_weights

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # EDM, table 1


@dataclass(frozen=True)
class DiffusionSynthesizer:
    """A denoising network with fixed weights.

    Attributes:
      network: the network; conditional on labels if its `num_classes` is above 0.
      params: its parameters.
      size: side of the images in px.
      sigma_data: see models.preconditioning.
      steps: number of steps of the sampler by default.
    """

    network: DenoisingUNet
    params: Any
    size: int
    sigma_data: float
    steps: int

    def images(
        self, seeds: Sequence[int], label: int | None = None, steps: int | None = None, guidance: float = 1.0
    ) -> np.ndarray:
        """Generates one image per seed.

        Args:
          seeds: N integers, from 0 to 2**31 - 1.
          label: index of the class, for a conditional network.
          steps: number of steps of the sampler, at least 2; None for the default.
          guidance: see heun_sampler.guided; other than 1, the network is evaluated twice as often, and must have been
            trained with label dropout.

        Returns:
          (N, S, S, 3) uint8.

        Raises:
          ValueError: a seed is out of range, or guidance is asked of a network without labels.
        """
        if guidance != 1 and not self.network.num_classes:
            raise ValueError(f"guidance={guidance} needs a network that was trained with labels")
        levels = jnp.asarray(heun_sampler.noise_levels(steps or self.steps, SIGMA_MIN, SIGMA_MAX), jnp.float32)

        def compute(members: jax.Array) -> jax.Array:
            constants = (self.params, members, label or 0, levels, float(guidance))
            return _generate_group(self.network, self.size, self.sigma_data, guidance != 1, *constants)

        return images_by_group(seeds, compute, self.size)

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of the parameters."""
        return parameters_sha256(self.params)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _generate_group(
    network: DenoisingUNet,
    size: int,
    sigma_data: float,
    is_guided: bool,
    params: Any,
    seeds: jax.Array,
    label: int,
    levels: jax.Array,
    guidance: float,
) -> jax.Array:
    """Returns the images of a group of seeds, (GROUP, S, S, 3) uint8."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (size, size, 3)))(image_keys(seeds))

    def labels_of(label: int) -> jax.Array | None:
        return jnp.full(len(seeds), label) if network.num_classes else None

    # Once for all steps of the sampler.
    prepared = prepare_weights(network, {"params": params}, noise, jnp.zeros(len(seeds)), labels_of(label))
    variables = {"params": params, **prepared}

    def denoiser(label: int) -> heun_sampler.Denoiser:
        def apply(images: jax.Array, c_noise: jax.Array) -> Any:
            return network.apply(variables, images, c_noise, labels_of(label))

        def denoise(images: jax.Array, sigma: jax.Array) -> jax.Array:
            return preconditioning.denoise(apply, images, jnp.broadcast_to(sigma, len(images)), sigma_data)

        return denoise

    denoise = denoiser(label)
    if is_guided:
        denoise = heun_sampler.guided(denoise, denoiser(network.num_classes), guidance)
    return to_pixels(heun_sampler.sample(denoise, noise, levels))
