"""Trains a GAN on the training images of one class or of all classes, and writes sample grids during training."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optax

from dim_jax.data import backends
from dim_jax.data.dataset import Dataset
from dim_jax.data.sampler import Sampler
from dim_jax.gan import transition
from dim_jax.gan.sample_sheets import NUM_RECONSTRUCTED, SampleSheets, reconstruction
from dim_jax.gan.synthesis import Synthesizer, recalibrate
from dim_jax.losses import gan as gan_losses
from dim_jax.models import make_gan
from dim_jax.models.gcgan import Generator
from dim_jax.runs.configuration import parse_config
from dim_jax.runs.schema import GanConfig, GanFields
from dim_jax.steps.gan import GanTrainStep
from dim_jax.trainers import generator_images, generator_job, initial_gan, job
from dim_jax.trainers.generator_images import open_data
from dim_jax.training import checkpoints, hosts, initial_weights, loop, parallel
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.state import GanState
from dim_jax.weights import pretrained

Distance = Callable[[Any, jax.Array, jax.Array], jax.Array]


def train(
    config: Mapping[str, Any] | GanConfig,
    run: Path,
    dry_run: bool = False,
    describe: bool = True,
    profile: int = 0,
) -> None:
    """Trains a GAN in the run directory `run`; see `job.run_job`.

    Args:
      config: configuration from configs/gan.py, parsed or not. A finished run may be given more steps, unless
        it is class-conditional, where the label strength depends on the length of the run.
    """
    config = parse_config(config)
    may_grow = () if config.gan.conditional else ("train.num_train_steps",)
    gan_job = generator_job.make_job(open_data, make_task, may_grow)
    job.run_job(gan_job, config, run, dry_run, describe, profile)


def make_task(
    config: GanConfig, run: Path, data: Dataset, sampler: Sampler
) -> tuple[loop.Task, loop.LoopSchedule, SampleSheets]:
    """Builds the task of the training loop from a configuration: networks, optimizer, step and sample sheets."""
    options, gan = config.train, config.gan
    batch_size, size = options.global_batch_size, config.data.image_size
    schedule = generator_job.make_schedule(config)
    frozen, distance, description = _perceptual(gan)
    step = make_step(config, len(data.classes), distance)
    dispatch = parallel.pmap_train_step(step)
    data_options = config.data
    pictures = backends.make_images(
        data_options.backend, data, size, data_options.resize, data_options.cache_gib, parallel.device_bytes()
    )
    resident = parallel.replicate((pictures.pixels, frozen))
    key = jax.random.key(config.seed)
    examples, labels = generator_images.examples(data, sampler, config, NUM_RECONSTRUCTED)
    # Sheets are computed on one device, without an axis to average over.
    generator, discriminator = (network.clone(axis_name=None) for network in (step.generator, step.discriminator))
    synthesizer = partial(_synthesizer, generator, gan.statistics, _label_strength(config))
    reconstruct = None if distance is None else reconstruction(discriminator, examples, labels)
    sheets = SampleSheets(run, synthesizer, generator.num_classes, examples, reconstruct)
    state, facts = _initial_state(config, run, data, step)
    task = loop.Task(
        state=state,
        dispatch=lambda state, batches: dispatch(state, batches, key, resident),
        batches=partial(job.training_batches, pictures, sampler, schedule),
        evaluate=lambda state: hosts.on_first_host(lambda: sheets.draw(state)),
        best_metric=None,
        images_per_step=batch_size,
        steps_per_epoch=sampler.epoch_size / batch_size,
        losses=("discriminator_loss", "generator_loss"),
        evaluation="samples",
        facts={"reconstructions compared by": description, **facts},
    )
    return task, schedule, sheets


def make_step(config: GanConfig, num_classes: int, distance: Distance | None) -> GanTrainStep:
    """Returns the training step of a configuration, for `parallel.pmap_train_step`.

    Args:
      num_classes: number of classes of the data.
      distance: (variables of the frozen network, images, images) -> (N,), for reconstructions; None for none.
    """
    gan, augment = config.gan, config.augment
    generator, discriminator = make_gan(
        config.data.image_size,
        num_classes if gan.conditional else 0,
        axis_name=parallel.AXIS,
        **config.model.options,
    )
    learning_rate = job.learning_rate(config)
    return GanTrainStep(
        generator=generator,
        discriminator=discriminator,
        optimizer=make_optimizer(config.optimizer.name, learning_rate),
        learning_rate=learning_rate,
        distance=distance,
        axis_name=parallel.AXIS,
        label_strength=_label_strength(config) if gan.conditional else None,
        flip=augment.flip,
        rotate=augment.rotate,
        small_image=gan.small_image,
        diff_augment=augment.diff_augment,
        cutout=augment.cutout,
        shared_augmentation=augment.shared,
        adaptive_target=augment.adaptive_target,
        images_to_one=augment.images_to_one,
        clip_targets=gan.clip_targets,
        sum_reconstructions=gan.sum_reconstructions,
        ema_decay=gan.ema_decay,
        frozen_side=gan.frozen_side,
    )


def _initial_state(config: GanConfig, run: Path, data: Dataset, step: GanTrainStep) -> tuple[GanState, dict[str, str]]:
    """Returns the state before the first step, and where its weights come from, for environment.json."""
    state, source = initial_weights.draw(step.initial_state, config.seed), config.gan.initial_weights
    # A run that resumes does not need the earlier one.
    if not source or hosts.on_first_host(lambda: bool(checkpoints.steps(run / loop.CHECKPOINTS))):
        return state, {}
    earlier, description = hosts.on_first_host(lambda: initial_gan.read(source, data))
    return initial_gan.with_weights(state, earlier, source), {"initial weights": description}


def _label_strength(config: GanConfig) -> optax.Schedule:
    gan = config.gan
    return transition.label_strength(gan.condition_from, gan.condition_until, config.train.num_train_steps)


def _synthesizer(generator: Generator, statistics: str, label_strength: optax.Schedule, state: GanState) -> Synthesizer:
    """Returns the synthesizer of a replicated state's averaged weights."""
    training = {name: parallel.unreplicate(tree) for name, tree in state.generator.variables.items()}
    averaged = {**training, "params": parallel.unreplicate(state.ema_params)}
    strength = float(label_strength(int(parallel.unreplicate(state.step))))
    return Synthesizer(generator, recalibrate(generator, averaged, strength), statistics, strength)


def _perceptual(gan: GanFields) -> tuple[Any, Any, str]:
    """Returns the variables of the frozen network, the distance between images, and a description of it."""
    if gan.perceptual == "none":
        return {}, None, "nothing: there are no reconstructions"
    if gan.perceptual == "pixels":
        return {}, lambda frozen, *images: gan_losses.pixel_distance(*images), "mean squared difference of pixels"
    return pretrained.perceptual(gan.perceptual, gan.vgg_weights, gan.lpips_weights)


def check_weights(config: GanConfig) -> None:
    """Raises ValueError or FileNotFoundError if the weights of the perceptual distance are not installed."""
    if config.gan.perceptual == "lite0":
        pretrained.lite_path()
    elif config.gan.perceptual == "lpips_vgg16":
        for name in ("vgg_weights", "lpips_weights"):
            if not Path(getattr(config.gan, name)).is_file():
                raise FileNotFoundError(f"config.gan.{name}={getattr(config.gan, name)}: no such file")
