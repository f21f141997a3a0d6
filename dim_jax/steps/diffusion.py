"""Training step of a diffusion model on one device's shard of the batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from dim_jax.augmentation.histology import augment
from dim_jax.models import preconditioning
from dim_jax.steps.batch_images import Batch, gather_images
from dim_jax.training.joined_updates import global_norm
from dim_jax.training.moving_average import update_average
from dim_jax.training.random_keys import example_keys
from dim_jax.training.state import AveragedTrainState, TrainState

Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class DiffusionTrainStep:
    """`step(state, batch, key, pixels) -> (state, metrics)`, for parallel.pmap_train_step.

    The batch has `label`, `mask` and `row` (B,) and images as in `gather_images`; training batches have no padding.
    `key` is the key of the run, `pixels` the images resident on the device, or None. Metrics are scalars of the global
    batch.

    Every image gets a noise level of its own, log(sigma) ~ N(noise_mean, noise_std^2), and the loss is the squared
    error of the denoised image, weighted by preconditioning.loss_weight: about 1 for a network that returns zeros.

    Attributes:
      network: see models.denoising_unet; conditional on labels if its `num_classes` is above 0.
      optimizer: its optimizer.
      learning_rate: that of the optimizer, for the metrics.
      axis_name: mapped device axis, or None outside pmap.
      sigma_data: standard deviation of the images in [-1, 1], for the preconditioning.
      noise_mean, noise_std: of the logarithm of the noise levels.
      label_dropout: probability that the network sees no label instead of an image's own, in [0, 1]; guidance needs it.
      flip, rotate: augmentation, see `augmentation.histology.augment`.
      ema_decay: decay of the moving average of the parameters.

    Reference: Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022, table
    1; Ho & Salimans, "Classifier-free diffusion guidance", 2022, algorithm 1, for the label dropout.
    """

    network: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: float
    axis_name: str | None = None
    sigma_data: float = 0.5
    noise_mean: float = -1.2
    noise_std: float = 1.2
    label_dropout: float = 0.1
    flip: bool = True
    rotate: bool = True
    ema_decay: float = 0.999

    def __call__(
        self, state: AveragedTrainState, batch: Batch, key: jax.Array, pixels: jax.Array | None
    ) -> tuple[AveragedTrainState, Metrics]:
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(example_keys(key, state.step, batch["row"]))
        images = augment(keys[:, 0], gather_images(batch, pixels), flip=self.flip, rotate=self.rotate, stain_jitter=0.0)
        images = 2.0 * images - 1.0
        sigma = jnp.exp(self.noise_mean + self.noise_std * jax.vmap(jax.random.normal)(keys[:, 1]))
        noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys[:, 2])
        labels = self.drop_labels(keys[:, 3], batch["label"])
        weight = preconditioning.loss_weight(sigma, self.sigma_data)
        num_images = self._sum(len(images))

        def local_loss(params: Any) -> jax.Array:
            network = self._network({"params": params}, labels)
            denoised = preconditioning.denoise(
                network, images + sigma[:, None, None, None] * noise, sigma, self.sigma_data
            )
            return (weight * jnp.square(denoised - images).mean((1, 2, 3))).sum() / num_images

        loss, gradient = jax.value_and_grad(local_loss)(state.params)
        loss, gradient = self._sum(loss), self._sum(gradient)
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": loss,
            "gradient_norm": global_norm(gradient),
            "learning_rate": jnp.asarray(self.learning_rate, jnp.float32),
        }
        state = state.replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema_params=update_average(state.ema_params, params, self.ema_decay, state.step + 1),
        )
        return state, metrics

    def drop_labels(self, keys: jax.Array, labels: jax.Array) -> jax.Array | None:
        """Returns labels (N,) some of which, by the random keys (N,), are the one of no class; None without labels."""
        num_classes = self.network.num_classes
        if not num_classes:
            return None
        return jnp.where(jax.vmap(jax.random.uniform)(keys) < self.label_dropout, num_classes, labels)

    def initial_state(self, key: jax.Array, size: int) -> AveragedTrainState:
        """Returns the state before the first step for images of `size` px, with parameters drawn from `key`."""
        labels = jnp.zeros(1, jnp.int32) if self.network.num_classes else None
        params = self.network.init(key, jnp.zeros((1, size, size, 3)), jnp.zeros(1), labels)["params"]
        state = TrainState(jnp.zeros((), jnp.int32), params, {}, self.optimizer.init(params))
        return AveragedTrainState.starting_from(state)

    def _network(self, variables: Any, labels: jax.Array | None) -> Callable[[jax.Array, jax.Array], jax.Array]:
        def denoise(images: jax.Array, noise: jax.Array) -> Any:
            return self.network.apply(variables, images, noise, labels)

        return denoise

    def _sum(self, tree: Any) -> Any:
        """Sums over devices."""
        return tree if self.axis_name is None else lax.psum(tree, self.axis_name)
