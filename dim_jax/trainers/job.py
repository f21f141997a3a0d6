"""The stages that all trainers share: check, lock the run directory, prepare the data, describe, train, report."""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from dim_jax.cli.command_line import say
from dim_jax.data import bucket_images
from dim_jax.data import dataset as datasets
from dim_jax.data.batches import TrainingPlan, split_partners
from dim_jax.data.preparation import PHANTOM, check_phantom, prepare_dataset
from dim_jax.data.sampler import Sampler, SwitchedSampler
from dim_jax.reporting import report_files, run_cards
from dim_jax.runs import fields, files, workdir
from dim_jax.runs.configuration import RunConfig
from dim_jax.training import checkpoints, compilation, hosts, loop, parallel
from dim_jax.training.learning_rates import scaled_learning_rate

PREPARED = "data"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The functions in which trainers differ.

    Attributes:
      open_data: (configuration, prepared folder) -> dataset and sampler of its training images.
      steps: (configuration, sampler) -> length of the run in steps.
      make_task: (configuration, run directory, dataset, sampler) -> task, schedule, and the argument for `finish`.
      finish: (configuration, run directory, argument from `make_task`) -> None, called after the last step.
      may_grow: dotted names of configuration fields that may be raised later, since no earlier step depends on them.
    """

    open_data: Callable[[RunConfig, Path], tuple[datasets.Dataset, Sampler]]
    steps: Callable[[RunConfig, Sampler], float]
    make_task: Callable[[RunConfig, Path, datasets.Dataset, Sampler], tuple[loop.Task, loop.LoopSchedule, Any]]
    finish: Callable[[RunConfig, Path, Any], None]
    may_grow: Collection[str] = ()


def run_job(job: Job, config: RunConfig, run: Path, dry_run: bool, describe: bool = True, profile: int = 0) -> None:
    """Runs a training job in the run directory `run`, resuming where an earlier call stopped.

    Args:
      job: the functions of the trainer.
      config: parsed configuration.
      run: run directory.
      dry_run: print data and options, and write nothing.
      describe: print them before training, too.
      profile: number of dispatches to trace.

    Raises:
      FileNotFoundError, ValueError: the configuration or the data are invalid.
      Diverged: training diverged.
    """
    compilation.configure_compilation()
    source, is_raw, grown = hosts.on_first_host(lambda: _check(job, config, run))
    if dry_run:
        if is_raw:
            say(f"{source} is not prepared yet: it would first be prepared into {run / PREPARED}")
        else:
            _describe(job, config, *hosts.on_first_host(lambda: job.open_data(config, source)))
        return
    with contextlib.ExitStack() as held:
        # Only host 0 writes. The others receive what it reads, and need access to the images only.
        hosts.on_first_host(lambda: held.enter_context(workdir.claim(run)))
        hosts.on_first_host(lambda: checkpoints.check_folder(run))
        if is_raw:
            source = hosts.on_first_host(lambda: _prepare(config, run))
        data, sampler = hosts.on_first_host(lambda: job.open_data(config, source))
        hosts.on_all_hosts(lambda: None if hosts.is_first_host() else _check_images(data))
        if describe:
            _describe(job, config, data, sampler)
        task, schedule, finish_argument = hosts.on_all_hosts(lambda: job.make_task(config, run, data, sampler))
        hosts.on_first_host(lambda: _open_run(run, config, source, data, task, grown))
        if hosts.is_first_host():
            held.enter_context(workdir.logging_to(run))
        log.info("%s", workdir.start_text())
        log.info("training on %s", ", ".join(f"{device} ({device.device_kind})" for device in jax.devices()))
        log.info("data %s: images sha256 %s, split sha256 %s", source, data.manifest.fingerprint, data.split_sha256)
        options = config.train
        best = loop.fit(
            task,
            schedule,
            run,
            keep_checkpoints=options.keep_checkpoints,
            seconds_apart=options.checkpoint_seconds_apart,
            tensorboard=options.tensorboard,
            profile=profile,
        )
        if best is not None:
            log.info("best validation %s %.4f at step %d", best["metric"], best["value"], best["step"])
        job.finish(config, run, finish_argument)
        hosts.on_first_host(lambda: run_cards.write_run_card(run))
        if options.report:
            hosts.on_first_host(lambda: _report(run))


def _check(job: Job, config: RunConfig, run: Path) -> tuple[Path, bool, list[str]]:
    """Checks the data path, and the configuration against that of the run directory.

    Returns:
      The source of the data, whether it must be prepared first, and what workdir.check_config returns.
    """
    source, prepared = bucket_images.fetch(config.data.path), run / PREPARED
    if config.data.path and not source.is_dir() and (prepared / "manifest.json").is_file():
        # The images were moved; opening the data says so, unless --data-root gives their place.
        source = prepared
    else:
        _check_path(config.data.path)
    grown = workdir.check_config(run, fields.to_dict(config), may_grow=job.may_grow)
    return source, not (source / "manifest.json").is_file(), grown


def _prepare(config: RunConfig, run: Path) -> Path:
    """Prepares raw data into the run directory and returns the prepared folder."""
    options = config.data
    log.info("%s is not prepared yet; preparing it into %s", options.path, run / PREPARED)
    scale = options.phantom_scale if options.path == PHANTOM else 1.0
    return prepare_dataset(
        options.path,
        run / PREPARED,
        image_size=options.image_size,
        scale=scale,
        remedy="bring the images back as they were, or train on them in another --workdir",
    )


def _check_images(data: datasets.Dataset) -> None:
    bucket_images.fetch(data.manifest.root)
    missing = [path for path in map(data.file, range(len(data))) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(data)} images are not here, first {missing[0]}; bring them to all hosts, or "
            "to storage that all of them see under this name"
        )


def _open_run(
    run: Path, config: RunConfig, source: Path, data: datasets.Dataset, task: loop.Task, grown: list[str]
) -> None:
    """Writes the identifying files of a new run, or the configuration of one that was given more steps."""
    if not (run / workdir.CONFIG).is_file():
        datasets.save(data, source, run)
        workdir.write_start(run, fields.to_dict(config), [str(device) for device in jax.devices()], task.facts)
    elif grown:
        files.write_json(run / workdir.CONFIG, fields.to_dict(config))


def _report(run: Path) -> None:
    # Only the report needs matplotlib.
    say(f"report: {report_files.write_report([run])}")


def training_batches(
    images: Any,
    sampler: Sampler | SwitchedSampler,
    schedule: loop.LoopSchedule,
    start: int,
    partners: Sampler | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the batches of one dispatch after another from the step `start`, from `parallel.shard_steps`.

    Args:
      images: result of data.backends.make_images.
      partners: sampler of a second example for each, whose fields are called `partner_...`; None for none.
    """
    plan = TrainingPlan(sampler, start, schedule.num_train_steps, jax.process_index(), jax.process_count(), partners)
    stream = images.batches(plan) if partners is None else map(split_partners, images.batches(plan))
    for _ in range(start, schedule.num_train_steps, schedule.steps_per_dispatch):
        yield parallel.shard_steps([next(stream) for _ in range(schedule.steps_per_dispatch)])


def learning_rate(config: RunConfig) -> float:
    """Returns the learning rate for the global batch size of a configuration."""
    options = config.optimizer
    return scaled_learning_rate(
        options.learning_rate,
        options.learning_rate_scaling,
        config.train.global_batch_size,
        options.reference_batch_size,
    )


def _check_path(path: str) -> None:
    """Raises ValueError or FileNotFoundError unless `path` is a folder or names the synthetic dataset."""
    if not path:
        raise ValueError("config.data.path is empty; give a prepared dataset, a folder of class folders, or phantom")
    if path == PHANTOM:
        check_phantom()
    elif not bucket_images.place(path).is_dir():
        raise FileNotFoundError(f"config.data.path={path}: no such folder")


def _describe(job: Job, config: RunConfig, data: datasets.Dataset, sampler: Sampler) -> None:
    """Prints a summary of the data and the options."""
    say(datasets.training_summary(data, sampler.class_counts(data.labels, len(data.classes))))
    steps = job.steps(config, sampler)
    say(f"{sampler.epoch_size} draws per epoch, batches of {sampler.global_batch_size}, about {steps:.0f} steps")
    for name, value in workdir.flatten_config(files.to_json(fields.to_dict(config))).items():
        say(f"  {name} = {value!r}")
