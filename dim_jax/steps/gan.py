"""Training step of a GAN on one device's shard of the batch: discriminator update, then generator update."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from dim_jax.augmentation import diff_augment
from dim_jax.augmentation.histology import augment
from dim_jax.losses import gan as gan_losses
from dim_jax.models import scales
from dim_jax.models.gcgan import side_of_maps
from dim_jax.models.kernels.platforms import computed_together
from dim_jax.steps.batch_images import Batch, gather_images
from dim_jax.training.joined_updates import global_norm
from dim_jax.training.optimizers import apply_gradient
from dim_jax.training.random_keys import example_keys, step_key
from dim_jax.training.state import GanState, NetworkState

MUTABLE = ("batch_stats", "spectral")
RECONSTRUCTIONS = ("whole", "small", "part")

Metrics = dict[str, jax.Array]
# Images at the two sizes of the discriminator: (N, S, S, 3) and (N, s, s, 3), in about [-1, 1].
Views = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class GanTrainStep:
    """`step(state, batch, key, resident) -> (state, metrics)`, for parallel.pmap_train_step.

    The batch has `label`, `mask` and `row` (B,) and images as in `gather_images`; training batches have no padding.
    `key` is the key of the run. `resident` is a pair: the images resident on the device, or None, and the variables of
    the frozen network of `distance`. Metrics are scalars of the global batch.

    Attributes:
      generator, discriminator: see models.gcgan; their `axis_name` must be the same as here.
      optimizer: optimizer of both networks.
      learning_rate: that of the optimizer, for the metrics.
      distance: (variables, images, images) -> (N,), the reconstruction loss; None for no reconstructions.
      axis_name: mapped device axis, or None outside pmap.
      label_strength: weight of the label in both networks, in [0, 1], as a function of the step; None for an
        unconditional GAN.
      flip, rotate: augmentation of real images, see `augmentation.histology.augment`.
      small_image: downsampling of real images to the small size, "area" or "nearest".
      diff_augment: differentiable augmentation of the discriminator's inputs.
      cutout: its Cutout, too.
      shared_augmentation: augment both sizes of a generated image identically; otherwise independently.
      adaptive_target: mean sign of the logits of real images that adaptive augmentation aims for, see
        `diff_augment.adapt_probability`; 0 augments every image.
      images_to_one: number of images in which the augmentation probability can go from 0 to 1.
      clip_targets: clip reconstruction targets to [-1, 1], which augmentation may leave.
      sum_reconstructions: sum the reconstruction loss over the batch instead of averaging it like the other losses.
      ema_decay: decay of the exponential moving average of the generator's parameters.
      frozen_side: the discriminator's layers with maps of at least this side in px are not trained, see
        models.gcgan.side_of_maps; 0: all are.

    Reference: the training loop of DIM (JBHI 2026); Liu et al., "Towards faster and stabilized GAN training for
    high-fidelity few-shot image synthesis", ICLR 2021; frozen layers: Mo, Cho & Shin, "Freeze the discriminator: a
    simple baseline for fine-tuning GANs", CVPR workshops 2020.
    """

    generator: nn.Module
    discriminator: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: float
    distance: Callable[[Any, jax.Array, jax.Array], jax.Array] | None
    axis_name: str | None = None
    label_strength: optax.Schedule | None = None
    flip: bool = True
    rotate: bool = False
    small_image: str = "area"
    diff_augment: bool = True
    cutout: bool = False
    shared_augmentation: bool = True
    adaptive_target: float = 0.0
    images_to_one: float = 50_000.0
    clip_targets: bool = True
    sum_reconstructions: bool = False
    ema_decay: float = 0.999
    frozen_side: int = 0

    def __call__(
        self, state: GanState, batch: Batch, key: jax.Array, resident: tuple[jax.Array | None, Any]
    ) -> tuple[GanState, Metrics]:
        pixels, frozen = resident
        keys = jax.vmap(lambda key: jax.random.split(key, 7))(example_keys(key, state.step, batch["row"]))
        labels: Any = None
        strength: Any = 1.0
        if self.label_strength is not None:
            labels, strength = batch["label"], self.label_strength(state.step)
        real = augment(keys[:, 0], gather_images(batch, pixels), flip=self.flip, rotate=self.rotate, stain_jitter=0.0)
        real = 2.0 * real - 1.0
        latents = jax.vmap(lambda key: jax.random.normal(key, (self.generator.latent_size,)))(keys[:, 1])
        probability = state.augment_probability

        def generate(params: Any) -> tuple[Views, Any]:
            variables = {**state.generator.variables, "params": params}
            arguments = (latents, True, labels, keys[:, 2], strength)
            fakes, statistics = self.generator.apply(variables, *arguments, mutable=MUTABLE)
            return self._fake_views(fakes, keys[:, 4], probability), statistics

        # Generated and augmented once, for the updates of both networks.
        fakes, generator_vjp, generator_statistics = jax.vjp(generate, state.generator.params, has_aux=True)
        discriminator, metrics = self._update_discriminator(
            state.discriminator,
            state.step,
            self._real_views(real, keys[:, 3], probability),
            fakes,
            labels,
            strength,
            jax.random.randint(step_key(key, state.step), (), 0, 4),
            keys[:, 5:7],
            frozen,
        )

        def local_loss(fakes: Views) -> tuple[jax.Array, Any]:
            arguments = (*fakes, True, labels, strength)
            logits, statistics = self.discriminator.apply(discriminator.variables, *arguments, mutable=MUTABLE)
            return gan_losses.generator(logits).sum() / self._total(len(logits)), statistics

        (device_loss, discriminator_statistics), cotangent = jax.value_and_grad(local_loss, has_aux=True)(fakes)
        gradient = self._sum(generator_vjp(cotangent)[0])
        generator = self._updated(state.generator, gradient, generator_statistics, state.step)
        metrics |= {
            "generator_loss": self._sum(device_loss),
            "generator_gradient_norm": global_norm(gradient),
            "augment_probability": probability,
            "learning_rate": jnp.asarray(self.learning_rate, jnp.float32),
        }
        if self.label_strength is not None:
            metrics["label_strength"] = strength
        if self.adaptive_target:
            probability = diff_augment.adapt_probability(
                probability,
                metrics["logit_real_sign"],
                self.adaptive_target,
                self._total(len(real)),
                self.images_to_one,
            )
        with jax.named_scope("moving_average"):
            ema_params = jax.tree.map(
                lambda old, new: self.ema_decay * old + (1 - self.ema_decay) * new, state.ema_params, generator.params
            )
            ema_params = computed_together(ema_params, state.step)
        state = GanState(
            step=state.step + 1,
            generator=generator,
            discriminator=discriminator.replace(**discriminator_statistics),
            ema_params=ema_params,
            augment_probability=probability,
        )
        return state, metrics

    def initial_state(self, key: jax.Array) -> GanState:
        """Returns the state before the first step, with parameters drawn from `key`."""
        labels = None if self.label_strength is None else jnp.zeros(1, jnp.int32)
        latents = jnp.zeros((1, self.generator.latent_size))
        generator_key, discriminator_key = jax.random.split(key)
        noise_keys = jax.random.split(generator_key, 1)
        generator = self.generator.init(generator_key, latents, True, labels, noise_keys)
        images = self.generator.apply(generator, latents, False, labels)
        reconstruct = self.discriminator.reconstruct
        discriminator = self.discriminator.init(discriminator_key, *images, 0, True, labels, method=reconstruct)
        initial = (generator, discriminator)
        first, second = (
            NetworkState(**network, opt_state=self.optimizer.init(network["params"])) for network in initial
        )
        probability = jnp.full((), 0.0 if self.adaptive_target else 1.0, jnp.float32)
        return GanState(jnp.zeros((), jnp.int32), first, second, generator["params"], probability)

    def _update_discriminator(
        self,
        network: NetworkState,
        step: jax.Array,
        real: Views,
        fake: Views,
        labels: jax.Array | None,
        strength: float | jax.Array,
        part: jax.Array,
        keys: jax.Array,
        frozen: Any,
    ) -> tuple[NetworkState, Metrics]:
        """Updates the discriminator by the hinge losses and the reconstruction losses.

        Args:
          network: state of the discriminator.
          step: number of completed steps, a scalar.
          real, fake: augmented images at both sizes.
          labels: (N,) int32, or None for an unconditional GAN.
          strength: weight of the labels, a scalar in [0, 1].
          part: quadrant to reconstruct, a scalar from 0 to 3.
          keys: (N, 2) random keys, for the margins of real and generated images.
          frozen: variables of the frozen network of `distance`.

        Returns:
          the updated state and the metrics.
        """
        fake = lax.stop_gradient(fake)
        num_images = self._total(len(real[0]))

        def local_loss(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            def apply(variables: Any, *arguments: Any, method: str | None = None) -> tuple[Any, Any]:
                variables, arguments = {**variables, "params": params}, (*arguments, True, labels, strength)
                return self.discriminator.apply(variables, *arguments, method=method, mutable=MUTABLE)

            distances = {}
            if self.distance is None:
                real_logits, statistics = apply(network.variables, *real)
            else:
                (real_logits, images), statistics = apply(network.variables, *real, part, method="reconstruct")
                targets = self._targets(real, part)
                distances = {name: self.distance(frozen, images[name], targets[name]) for name in RECONSTRUCTIONS}
            fake_logits, statistics = apply(statistics, *fake)
            margins = [gan_losses.margins(column, real_logits.shape[-1]) for column in (keys[:, 0], keys[:, 1])]
            losses = {
                "hinge_real": gan_losses.hinge_real(real_logits, margins[0]).sum() / num_images,
                "hinge_fake": gan_losses.hinge_fake(fake_logits, margins[1]).sum() / num_images,
            }
            divisor = 1 if self.sum_reconstructions else num_images
            losses |= {f"reconstruction_{name}": distance.sum() / divisor for name, distance in distances.items()}
            logits = {
                "logit_real": real_logits.mean(-1).sum() / num_images,
                "logit_fake": fake_logits.mean(-1).sum() / num_images,
                "logit_real_sign": jnp.sign(real_logits).mean(-1).sum() / num_images,
            }
            total: Any = sum(losses.values())
            return total, (statistics, {"discriminator_loss": total, **losses, **logits})

        gradient, (statistics, metrics) = jax.grad(local_loss, has_aux=True)(network.params)
        gradient = self._without_frozen(self._sum(gradient))
        metrics = {name: self._sum(value) for name, value in metrics.items()}
        metrics["discriminator_gradient_norm"] = global_norm(gradient)
        return self._updated(network, gradient, statistics, step), metrics

    def _without_frozen(self, gradient: Any) -> Any:
        """Sets the discriminator's gradient to 0 in layers that keep their weights: no optimizer then moves them."""
        if not self.frozen_side:
            return gradient

        def trained(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            is_frozen = side_of_maps([key.key for key in path], self.discriminator.size) >= self.frozen_side
            return jnp.zeros_like(leaf) if is_frozen else leaf

        return jax.tree_util.tree_map_with_path(trained, gradient)

    def _updated(self, network: NetworkState, gradient: Any, statistics: Any, step: jax.Array) -> NetworkState:
        """Returns the state after an optimizer step, with the updated `statistics` (collections MUTABLE)."""
        params, opt_state = apply_gradient(self.optimizer, gradient, network.opt_state, network.params, step)
        return network.replace(params=params, opt_state=opt_state, **computed_together(statistics, step))

    def _real_views(self, images: jax.Array, keys: jax.Array, probability: jax.Array) -> Views:
        small_side = scales.small_size(images.shape[1])
        if not self.diff_augment:
            return images, self._shrink(images, small_side)
        draws = diff_augment.draw(keys, probability, self.cutout)
        if self.shared_augmentation:
            return diff_augment.apply_to_scales(images, self._shrink(images, small_side), draws)
        augmented = diff_augment.apply(images, draws)
        return augmented, self._shrink(augmented, small_side)

    def _fake_views(self, fakes: Views, keys: jax.Array, probability: jax.Array) -> Views:
        if not self.diff_augment:
            return fakes
        draws = diff_augment.draw(keys, probability, self.cutout)
        if self.shared_augmentation:
            return diff_augment.apply_to_scales(*fakes, draws)
        other_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        other_draws = diff_augment.draw(other_keys, probability, self.cutout)
        return diff_augment.apply(fakes[0], draws), diff_augment.apply(fakes[1], other_draws)

    def _targets(self, real: Views, part: jax.Array) -> dict[str, jax.Array]:
        """Returns the targets of the three decoders by name, each at the small size."""
        images, small = real
        targets = {"whole": small, "small": small, "part": self._shrink(scales.quadrant(images, part), small.shape[1])}
        return {name: jnp.clip(target, -1.0, 1.0) for name, target in targets.items()} if self.clip_targets else targets

    def _shrink(self, images: jax.Array, size: int) -> jax.Array:
        shrink = scales.shrink_area if self.small_image == "area" else scales.shrink_nearest
        return shrink(images, size)

    def _sum(self, tree: Any) -> Any:
        """Sums over devices."""
        return tree if self.axis_name is None else lax.psum(tree, self.axis_name)

    def _total(self, count: int) -> int:
        """Returns the number of images of all devices."""
        return self._sum(count)
