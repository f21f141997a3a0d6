"""Trains a GAN on the training images of one class or of all classes, and writes sample grids during training."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from dim_jax.data import backends, images
from dim_jax.data.dataset import Dataset, open_dataset
from dim_jax.data.sampler import Sampler, make_sampler
from dim_jax.gan import transition
from dim_jax.gan.sample_sheets import NUM_RECONSTRUCTED, SampleSheets
from dim_jax.losses import gan as gan_losses
from dim_jax.models import make_gan
from dim_jax.runs.configuration import parse_config
from dim_jax.runs.schema import GanConfig, GanFields
from dim_jax.steps.gan import GanTrainStep
from dim_jax.trainers import job
from dim_jax.training import hosts, initial_weights, loop, parallel
from dim_jax.training.optimizers import make_optimizer
from dim_jax.weights import pretrained

MIN_IMAGES = 8

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
    gan_job = job.Job(open_data, _num_train_steps, make_task, _finish, may_grow)
    job.run_job(gan_job, config, run, dry_run, describe, profile)


def _finish(config: GanConfig, run: Path, sheets: SampleSheets) -> None:
    """Makes the animation of the grids."""
    hosts.on_first_host(sheets.animate)


def _num_train_steps(config: GanConfig, sampler: Sampler) -> float:
    return config.train.num_train_steps


def make_task(
    config: GanConfig, run: Path, data: Dataset, sampler: Sampler
) -> tuple[loop.Task, loop.LoopSchedule, SampleSheets]:
    """Builds the task of the training loop from a configuration: networks, optimizer, step and sample sheets."""
    options, gan = config.train, config.gan
    batch_size, size = options.global_batch_size, config.data.image_size
    parallel.check_batch_size("config.train.global_batch_size", batch_size)
    schedule = loop.LoopSchedule.in_dispatches(
        options.steps_per_dispatch,
        num_train_steps=options.num_train_steps,
        eval_every=options.sample_every,
        checkpoint_every=options.checkpoint_every,
    )
    frozen, distance, description = _perceptual(gan)
    step = make_step(config, len(data.classes), distance)
    dispatch = parallel.pmap_train_step(step)
    data_options = config.data
    pictures = backends.make_images(
        data_options.backend, data, size, data_options.resize, data_options.cache_gib, parallel.device_bytes()
    )
    resident = parallel.replicate((pictures.pixels, frozen))
    key = jax.random.key(config.seed)
    rebuilding = None if distance is None else step.discriminator
    examples = _examples(data, sampler, config)
    sheets = SampleSheets(run, step.generator, rebuilding, gan.statistics, examples, _label_strength(config))
    task = loop.Task(
        state=initial_weights.draw(step.initial_state, config.seed),
        dispatch=lambda state, batches: dispatch(state, batches, key, resident),
        batches=partial(job.training_batches, pictures, sampler, schedule),
        evaluate=lambda state: hosts.on_first_host(lambda: sheets.draw(state)),
        best_metric=None,
        images_per_step=batch_size,
        steps_per_epoch=sampler.epoch_size / batch_size,
        losses=("discriminator_loss", "generator_loss"),
        evaluation="samples",
        facts={"reconstructions compared by": description},
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
        shared_augmentation=augment.shared,
        adaptive_target=augment.adaptive_target,
        images_to_one=augment.images_to_one,
        clip_targets=gan.clip_targets,
        sum_reconstructions=gan.sum_reconstructions,
        ema_decay=gan.ema_decay,
    )


def _label_strength(config: GanConfig) -> optax.Schedule:
    gan = config.gan
    return transition.label_strength(gan.condition_from, gan.condition_until, config.train.num_train_steps)


def _perceptual(gan: GanFields) -> tuple[Any, Any, str]:
    """Returns the variables of the frozen network, the distance between images, and a description of it."""
    if gan.perceptual == "none":
        return {}, None, "nothing: there are no reconstructions"
    if gan.perceptual == "pixels":
        return {}, lambda frozen, *images: gan_losses.pixel_distance(*images), "mean squared difference of pixels"
    return pretrained.perceptual(gan.perceptual, gan.vgg_weights, gan.lpips_weights)


def _examples(data: Dataset, sampler: Sampler, config: GanConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns a few training images (N, S, S, 3) uint8 and their labels, the same in every process."""
    rows = np.unique([row for stratum in sampler.strata for row in stratum.rows])
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, NUM_RECONSTRUCTED).astype(int))]
    options = config.data
    paths = [data.file(int(row)) for row in rows]
    return np.stack(list(images.read_squares(paths, options.image_size, options.resize))), data.labels[rows]


def open_data(config: GanConfig, source: Path) -> tuple[Dataset, Sampler]:
    """Returns the dataset in the prepared folder `source`, and the sampler of the training images."""
    data = open_dataset(source, config.data.fold)
    sampler = make_sampler(
        data,
        seed=config.seed,
        global_batch_size=config.train.global_batch_size,
        class_balanced=config.gan.conditional,
        only_class=label_to_train(config, data),
    )
    return data, sampler


def label_to_train(config: GanConfig, data: Dataset) -> int | None:
    """Returns the integer label of the class to train on, None for all classes.

    Raises:
      ValueError: there is no such class, or it has too few training images.
    """
    gan = config.gan
    if gan.conditional:
        return None
    if gan.label not in data.classes:
        raise ValueError(
            f"config.gan.label={gan.label!r} is not a class of {config.data.path}; choose one of "
            f"{', '.join(data.classes)}, or all with --config.gan.conditional=True"
        )
    label = data.classes.index(gan.label)
    count = int((data.labels[data.rows("train")] == label).sum())
    if count < MIN_IMAGES:
        raise ValueError(
            f"{gan.label!r} has {count} training images, too few for a GAN of its own (at least {MIN_IMAGES}); "
            "train one over all classes with --config.gan.conditional=True"
        )
    return label


def check_weights(config: GanConfig) -> None:
    """Raises ValueError or FileNotFoundError if the weights of the perceptual distance are not installed."""
    if config.gan.perceptual == "lite0":
        pretrained.lite_path()
    elif config.gan.perceptual == "lpips_vgg16":
        for name in ("vgg_weights", "lpips_weights"):
            if not Path(getattr(config.gan, name)).is_file():
                raise FileNotFoundError(f"config.gan.{name}={getattr(config.gan, name)}: no such file")
