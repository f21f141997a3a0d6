"""One training step of a GAN as seen by one device: the discriminator's update, then the generator's."""

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
from dim_jax.steps.batch_images import Batch, images_of
from dim_jax.training.optimizers import global_norm
from dim_jax.training.random_keys import example_keys, step_key
from dim_jax.training.state import GanState, NetworkState

MUTABLE = ("batch_stats", "spectral")
RECONSTRUCTIONS = ("whole", "small", "part")

Metrics = dict[str, jax.Array]
# The two sizes in which the discriminator sees an image: (N, S, S, 3) and (N, s, s, 3), in about [-1, 1].
Views = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class GanTrainStep:
    """`step(state, batch, key, resident) -> (state, metrics)`, for parallel.pmap_train_step.

    The batch holds `label`, `mask` and `row` (B,), its images as in `images_of`; training batches are full. `key` is
    the key of the run. `resident` is a pair: the pixels that live on the device, or None, and the variables of the
    frozen network behind `distance`. Metrics are scalars of the global batch.

    Attributes:
      generator, discriminator: as in models.gcgan; their `axis_name` should be the same as here.
      optimizer: turns gradients into updates, for both networks.
      learning_rate: the optimizer's, to report it.
      distance: (variables, images, images) -> (N,): how far reconstructions are from their targets; None: the
        discriminator reconstructs nothing.
      axis_name: mapped device axis, or None outside pmap.
      label_strength: both networks are told the label of every image, and this is how much it counts, from 0 to 1, as a
        function of the step; None: they are told none.
      flip, rotate: augment the real images, see augment.augment.
      small_image: how a real image gets its small size, "area" or "nearest".
      diff_augment: augment whatever the discriminator sees.
      shared_augmentation: augment both sizes of a generated image alike; otherwise each by its own draws.
      adaptive_target: mean sign of the logits of real images that the probability of augmentation is steered to; 0
        augments every image.
      images_to_one: images after which the probability may have gone from 0 to 1.
      clip_targets: bring what is to be reconstructed back into [-1, 1], which augmentation may leave.
      sum_reconstructions: add up the distances of the batch; otherwise they are averaged, as the other losses are.
      ema_decay: share of the old average that a step keeps.

    Reference: the training loop of DIM (JBHI 2026); Liu et al., "Towards faster and stabilized GAN training for
    high-fidelity few-shot image synthesis", ICLR 2021.
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
    shared_augmentation: bool = True
    adaptive_target: float = 0.0
    images_to_one: float = 50_000.0
    clip_targets: bool = True
    sum_reconstructions: bool = False
    ema_decay: float = 0.999

    def __call__(
        self, state: GanState, batch: Batch, key: jax.Array, resident: tuple[jax.Array | None, Any]
    ) -> tuple[GanState, Metrics]:
        pixels, frozen = resident
        keys = jax.vmap(lambda key: jax.random.split(key, 7))(example_keys(key, state.step, batch["row"]))
        labels, strength = None, 1.0
        if self.label_strength is not None:
            labels, strength = batch["label"], self.label_strength(state.step)
        real = augment(keys[:, 0], images_of(batch, pixels), flip=self.flip, rotate=self.rotate, stain_jitter=0.0)
        real = 2.0 * real - 1.0
        latents = jax.vmap(lambda key: jax.random.normal(key, (self.generator.latent_size,)))(keys[:, 1])
        probability = state.augment_probability

        def generate(params: Any) -> tuple[Views, Any]:
            variables = {**state.generator.variables, "params": params}
            arguments = (latents, True, labels, keys[:, 2], strength)
            fakes, seen = self.generator.apply(variables, *arguments, mutable=MUTABLE)
            return self._views_of_fake(fakes, keys[:, 4], probability), seen

        # Drawn and augmented once: the discriminator learns from these, then the generator from its verdict on them.
        fakes, pull, seen_by_generator = jax.vjp(generate, state.generator.params, has_aux=True)
        discriminator, metrics = self._update_discriminator(
            state.discriminator,
            self._views_of_real(real, keys[:, 3], probability),
            fakes,
            labels,
            strength,
            jax.random.randint(step_key(key, state.step), (), 0, 4),
            keys[:, 5:7],
            frozen,
        )

        def verdict(fakes: Views) -> tuple[jax.Array, Any]:
            arguments = (*fakes, True, labels, strength)
            logits, seen = self.discriminator.apply(discriminator.variables, *arguments, mutable=MUTABLE)
            return gan_losses.generator(logits).sum() / self._total(len(logits)), seen

        (share, seen_by_discriminator), pushed = jax.value_and_grad(verdict, has_aux=True)(fakes)
        gradient = self._sum(pull(pushed)[0])
        generator = self._updated(state.generator, gradient, seen_by_generator)
        metrics |= {
            "generator_loss": self._sum(share),
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
        ema_params = jax.tree.map(
            lambda old, new: self.ema_decay * old + (1 - self.ema_decay) * new, state.ema_params, generator.params
        )
        state = GanState(
            step=state.step + 1,
            generator=generator,
            discriminator=discriminator.replace(**seen_by_discriminator),
            ema_params=ema_params,
            augment_probability=probability,
        )
        return state, metrics

    def initial_state(self, key: jax.Array) -> GanState:
        """Draws the state before the first step."""
        labels = None if self.label_strength is None else jnp.zeros(1, jnp.int32)
        latents = jnp.zeros((1, self.generator.latent_size))
        generator_key, discriminator_key = jax.random.split(key)
        noise_keys = jax.random.split(generator_key, 1)
        generator = self.generator.init(generator_key, latents, True, labels, noise_keys)
        images = self.generator.apply(generator, latents, False, labels)
        reconstruct = self.discriminator.reconstruct
        discriminator = self.discriminator.init(discriminator_key, *images, 0, True, labels, method=reconstruct)
        drawn = (generator, discriminator)
        networks = [NetworkState(**each, opt_state=self.optimizer.init(each["params"])) for each in drawn]
        probability = jnp.full((), 0.0 if self.adaptive_target else 1.0, jnp.float32)
        return GanState(jnp.zeros((), jnp.int32), *networks, generator["params"], probability)

    def _update_discriminator(
        self,
        network: NetworkState,
        real: Views,
        fake: Views,
        labels: jax.Array | None,
        strength: float | jax.Array,
        part: jax.Array,
        keys: jax.Array,
        frozen: Any,
    ) -> tuple[NetworkState, Metrics]:
        """Moves the discriminator to tell real from generated images, and to rebuild real ones from what it sees.

        Args:
          strength: how much the labels count, a scalar in [0, 1].
          part: the quadrant to rebuild, 0 to 3.
          keys: (N, 2), for the margins of real and generated images.
        """
        fake = lax.stop_gradient(fake)
        num_images = self._total(len(real[0]))

        def share_of_loss(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            def apply(variables: Any, *arguments: Any, method: str | None = None) -> tuple[Any, Any]:
                variables, arguments = {**variables, "params": params}, (*arguments, True, labels, strength)
                return self.discriminator.apply(variables, *arguments, method=method, mutable=MUTABLE)

            distances = {}
            if self.distance is None:
                real_logits, seen = apply(network.variables, *real)
            else:
                (real_logits, rebuilt), seen = apply(network.variables, *real, part, method="reconstruct")
                targets = self._targets(real, part)
                distances = {name: self.distance(frozen, rebuilt[name], targets[name]) for name in RECONSTRUCTIONS}
            fake_logits, seen = apply(seen, *fake)
            margins = [gan_losses.margins(column, real_logits.shape[-1]) for column in (keys[:, 0], keys[:, 1])]
            shares = {
                "hinge_real": gan_losses.hinge_real(real_logits, margins[0]).sum() / num_images,
                "hinge_fake": gan_losses.hinge_fake(fake_logits, margins[1]).sum() / num_images,
            }
            rebuilding = 1 if self.sum_reconstructions else num_images
            shares |= {f"reconstruction_{name}": each.sum() / rebuilding for name, each in distances.items()}
            logits = {
                "logit_real": real_logits.mean(-1).sum() / num_images,
                "logit_fake": fake_logits.mean(-1).sum() / num_images,
                "logit_real_sign": jnp.sign(real_logits).mean(-1).sum() / num_images,
            }
            total = sum(shares.values())
            return total, (seen, {"discriminator_loss": total, **shares, **logits})

        gradient, (seen, metrics) = jax.grad(share_of_loss, has_aux=True)(network.params)
        gradient = self._sum(gradient)
        metrics = {name: self._sum(value) for name, value in metrics.items()}
        metrics["discriminator_gradient_norm"] = global_norm(gradient)
        return self._updated(network, gradient, seen), metrics

    def _updated(self, network: NetworkState, gradient: Any, seen: Any) -> NetworkState:
        """Returns the network one step further, with the statistics `seen` in its forward passes."""
        updates, opt_state = self.optimizer.update(gradient, network.opt_state, network.params)
        return network.replace(params=optax.apply_updates(network.params, updates), opt_state=opt_state, **seen)

    def _views_of_real(self, images: jax.Array, keys: jax.Array, probability: jax.Array) -> Views:
        small_side = scales.small_size(images.shape[1])
        if not self.diff_augment:
            return images, self._shrink(images, small_side)
        draws = diff_augment.draw(keys, probability)
        if self.shared_augmentation:
            return diff_augment.apply_to_scales(images, self._shrink(images, small_side), draws)
        augmented = diff_augment.apply(images, draws)
        return augmented, self._shrink(augmented, small_side)

    def _views_of_fake(self, fakes: Views, keys: jax.Array, probability: jax.Array) -> Views:
        if not self.diff_augment:
            return fakes
        draws = diff_augment.draw(keys, probability)
        if self.shared_augmentation:
            return diff_augment.apply_to_scales(*fakes, draws)
        other_draws = diff_augment.draw(jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys), probability)
        return diff_augment.apply(fakes[0], draws), diff_augment.apply(fakes[1], other_draws)

    def _targets(self, real: Views, part: jax.Array) -> dict[str, jax.Array]:
        """Returns what the three decoders are to rebuild, by name, each at the small size."""
        images, small = real
        targets = {"whole": small, "small": small, "part": self._shrink(scales.quadrant(images, part), small.shape[1])}
        return {name: jnp.clip(each, -1.0, 1.0) for name, each in targets.items()} if self.clip_targets else targets

    def _shrink(self, images: jax.Array, size: int) -> jax.Array:
        shrink = scales.shrink_area if self.small_image == "area" else scales.shrink_nearest
        return shrink(images, size)

    def _sum(self, tree: Any) -> Any:
        """Adds up over the devices."""
        return tree if self.axis_name is None else lax.psum(tree, self.axis_name)

    def _total(self, count: int) -> int:
        """Returns how many images all devices have together."""
        return self._sum(count)
