"""What training a GAN and training a diffusion model share: the length of a run, its schedule, and its end."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from dim_jax.data.dataset import Dataset
from dim_jax.data.sampler import Sampler
from dim_jax.gan.sample_sheets import SampleSheets
from dim_jax.runs.schema import GeneratorConfig
from dim_jax.trainers import job
from dim_jax.training import hosts, loop, parallel


def make_job(
    open_data: Callable[..., tuple[Dataset, Sampler]],
    make_task: Callable[..., tuple[loop.Task, loop.LoopSchedule, Any]],
    may_grow: Collection[str],
) -> job.Job:
    """Returns the job of training a generator.

    Args:
      open_data, make_task, may_grow: see job.Job; what `make_task` returns for the end is its SampleSheets.
    """
    return job.Job(open_data, _num_train_steps, make_task, _finish, may_grow)


def make_schedule(config: GeneratorConfig) -> loop.LoopSchedule:
    """Returns the schedule of a generator's run.

    Raises:
      ValueError: the batch does not divide among the devices, or a duration is no multiple of the dispatch.
    """
    options = config.train
    parallel.check_batch_size("config.train.global_batch_size", options.global_batch_size)
    return loop.LoopSchedule.in_dispatches(
        options.steps_per_dispatch,
        num_train_steps=options.num_train_steps,
        eval_every=options.sample_every,
        checkpoint_every=options.checkpoint_every,
    )


def _finish(config: GeneratorConfig, run: Path, sheets: SampleSheets) -> None:
    """Makes the animation of the grids."""
    hosts.on_first_host(sheets.animate)


def _num_train_steps(config: GeneratorConfig, sampler: Sampler) -> float:
    return config.train.num_train_steps
