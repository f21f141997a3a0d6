"""Trains a diffusion model on the training images of one class or of all classes, and writes sample grids."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dim_jax.data import backends
from dim_jax.data.dataset import Dataset
from dim_jax.data.sampler import Sampler
from dim_jax.gan.copying_audit import LEAST_C_T, CopyingAudit
from dim_jax.gan.diffusion_synthesis import DiffusionSynthesizer
from dim_jax.gan.sample_sheets import NUM_SAMPLES, SampleSheets
from dim_jax.gan.selection_rules import LITE2
from dim_jax.models import make_denoiser
from dim_jax.runs.configuration import parse_config
from dim_jax.runs.schema import DiffusionConfig
from dim_jax.steps.diffusion import DiffusionTrainStep
from dim_jax.trainers import generator_images, generator_job, job
from dim_jax.trainers.generator_images import open_data
from dim_jax.training import hosts, initial_weights, loop, parallel
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.state import AveragedTrainState
from dim_jax.weights import pretrained

# The step of a checkpoint that passed the audit, 0 for one that did not: its maximum is the newest one that passed.
BEST_METRIC = "audited_step"


def train(
    config: Mapping[str, Any] | DiffusionConfig,
    run: Path,
    dry_run: bool = False,
    describe: bool = True,
    profile: int = 0,
) -> None:
    """Trains a diffusion model in the run directory `run`; see `job.run_job`.

    Args:
      config: configuration from configs/diffusion.py, parsed or not. A finished run may be given more steps.
    """
    diffusion_job = generator_job.make_job(open_data, make_task, ("train.num_train_steps",))
    job.run_job(diffusion_job, parse_config(config), run, dry_run, describe, profile)


def make_task(
    config: DiffusionConfig, run: Path, data: Dataset, sampler: Sampler
) -> tuple[loop.Task, loop.LoopSchedule, SampleSheets]:
    """Builds the task of the training loop from a configuration: network, optimizer, step and sample sheets."""
    options, diffusion = config.train, config.diffusion
    batch_size, size = options.global_batch_size, config.data.image_size
    schedule = generator_job.make_schedule(config)
    num_classes = len(data.classes) if diffusion.conditional else 0
    network = make_denoiser(num_classes, **config.model.options)
    learning_rate = job.learning_rate(config)
    step = DiffusionTrainStep(
        network=network,
        optimizer=make_optimizer(config.optimizer.name, learning_rate),
        learning_rate=learning_rate,
        axis_name=parallel.AXIS,
        sigma_data=diffusion.sigma_data,
        noise_mean=diffusion.noise_mean,
        noise_std=diffusion.noise_std,
        label_dropout=diffusion.label_dropout,
        flip=config.augment.flip,
        rotate=config.augment.rotate,
        ema_decay=diffusion.ema_decay,
    )
    dispatch = parallel.pmap_train_step(step)
    data_options = config.data
    pictures = backends.make_images(
        data_options.backend, data, size, data_options.resize, data_options.cache_gib, parallel.device_bytes()
    )
    resident = None if pictures.pixels is None else parallel.replicate(pictures.pixels)
    key = jax.random.key(config.seed)

    def synthesizer(state: AveragedTrainState) -> DiffusionSynthesizer:
        params = parallel.unreplicate(state.ema_params)
        return DiffusionSynthesizer(network, params, size, diffusion.sigma_data, diffusion.sampling_steps)

    labels = range(num_classes) if num_classes else [data.classes.index(diffusion.label)]
    audit = None
    if diffusion.audit_images:
        audit = CopyingAudit(data, labels, size, data_options.resize, diffusion.audit_images)

    def evaluate(state: AveragedTrainState) -> dict[str, float]:
        values = sheets.draw(state)
        if audit is None:
            return values
        c_t = audit(synthesizer(state))
        passed = int(parallel.unreplicate(state.step)) if c_t >= LEAST_C_T else 0
        return values | {"c_t": c_t, BEST_METRIC: float(passed)}

    examples, _ = generator_images.examples(data, sampler, config, NUM_SAMPLES)
    sheets = SampleSheets(run, synthesizer, num_classes, examples)
    task = loop.Task(
        state=initial_weights.draw(partial(step.initial_state, size=size), config.seed),
        dispatch=lambda state, batches: dispatch(state, batches, key, resident),
        batches=partial(job.training_batches, pictures, sampler, schedule),
        evaluate=lambda state: hosts.on_first_host(lambda: evaluate(state)),
        best_metric=None if audit is None else BEST_METRIC,
        images_per_step=batch_size,
        steps_per_epoch=sampler.epoch_size / batch_size,
        evaluation="samples",
        facts={} if audit is None else {"audited classes": ", ".join(data.classes[label] for label in audit.labels)},
    )
    return task, schedule, sheets


def check_weights(config: DiffusionConfig) -> None:
    """Raises ValueError if the weights of the network in whose features copies are told are not installed."""
    if config.diffusion.audit_images:
        pretrained.lite_path(LITE2)
