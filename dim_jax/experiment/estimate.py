"""Cost estimate of an experiment: its runs, and their time and disk space from a few timed steps of each kind."""

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from dim_jax.evaluation.predictor import views_of
from dim_jax.experiment import plan, preconditions, stages, tasks
from dim_jax.experiment.arms import Arm
from dim_jax.experiment.plan import PlannedRun
from dim_jax.experiment.tasks import Task
from dim_jax.reporting import wording
from dim_jax.runs.configuration import RunConfig, override
from dim_jax.runs.schema import ClassifierConfig, ExperimentConfig
from dim_jax.training import compilation, parallel


@dataclass(frozen=True)
class Cost:
    """Cost of one run: seconds of compilation, seconds of everything else, and bytes of its checkpoints."""

    compile_seconds: float
    seconds: float
    disk: int


def describe(source: str, name: str, config: ExperimentConfig, arms: dict[str, Arm], names: Sequence[str]) -> str:
    """Returns the plan for one dataset as text: its runs, their estimated time and their disk space.

    A dataset that is not prepared is prepared in a temporary folder; nothing is written elsewhere. Classifiers that
    differ in model, image size or loss are timed separately.
    """
    with tempfile.TemporaryDirectory() as folder:
        site = stages.open_site(source, name, Path(folder), config)
        experiment = stages.Experiment(config, site, arms)
        folds = plan.folds_of(config)
        known = plan.runs(arms, names, folds, config.seeds)
        runs = plan.most_runs(arms, names, folds, config.seeds)
        preconditions.check([experiment], [runs])
        lines = [f"{name}: folds {len(folds)}, seeds {len(config.seeds)}, arms {len(names)}"]
        first = sum(run.seed == config.seeds[0] for run in known)
        lines.append(f"  {first} classifiers with the first seed, {len(known) - first} with the others")
        if len(runs) > len(known):
            choices = ", ".join(arm.name for arm in arms.values() if arm.choices and not arm.adjust)
            lines.append(
                f"  then at most {len(runs) - len(known)} more, of what validation chooses for {choices} (times below "
                "include them)"
            )
        total, disk = 0.0, 0
        for title, of_kind in _by_kind(config, runs, site).items():
            cost = _classifier_cost(experiment, of_kind[0])
            # All runs of a kind share one compiled program.
            seconds = cost.compile_seconds + cost.seconds * len(of_kind)
            lines.append(_line(f"{len(of_kind)} classifiers ({title})", seconds, cost.disk * len(of_kind)))
            total, disk = total + seconds, disk + cost.disk * len(of_kind)
        for generator in dict.fromkeys(run.arm.generator for run in runs if run.arm.generator):
            number = sum(len(experiment.generator_folders(fold, generator)) for fold in folds)
            cost = _generator_cost(experiment, generator, folds[0])
            seconds = cost.compile_seconds + cost.seconds * number
            lines.append(_line(f"{number} runs of {generator}", seconds, cost.disk * number))
            total, disk = total + seconds, disk + cost.disk * number
            pools = config.pool.images * sum(len(experiment.minority_classes(fold)) for fold in folds)
            lines.append(f"  {pools} images generated and judged for {len(folds)} selections (not timed)")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        in_all = _line("in all, one after another", total, disk)
        lines.append(f"{in_all}, {total * cores / 3600:.1f} core-hours on {cores} core{'s' if cores > 1 else ''}")
        for run in runs[: len(names)]:
            lines.append(f"  {run.folder(plan.Site(name, Path(name), Path(name))).as_posix()}")
        lines.append(f"  and so on: {len(runs)} run directories")
    return "\n".join(lines)


def task_seconds(
    source: str, name: str, config: ExperimentConfig, arms: dict[str, Arm], listed: Iterable[Task]
) -> dict[Task, float]:
    """Estimates the seconds of the tasks on one dataset that train, each in a process of its own, on this machine.

    Steps are timed as in `describe`. Generation and selection of images are not included; of a choice, the slowest
    candidate counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        experiment = stages.Experiment(config, stages.open_site(source, name, Path(folder), config), arms)
        own = [task for task in listed if task.site == name]
        runs = [tasks.run_of(experiment, task) for task in own if task.kind == tasks.RUN]
        preconditions.check([experiment], [runs])
        seconds: dict[Task, float] = {}
        for of_kind in _by_kind(config, runs, experiment.site).values():
            cost = _classifier_cost(experiment, of_kind[0])
            seconds |= {tasks.task_of(experiment, run): cost.compile_seconds + cost.seconds for run in of_kind}
        for generator in dict.fromkeys(task.name for task in own if task.kind == tasks.IMAGES):
            of_generator = [task for task in own if task.kind == tasks.IMAGES and task.name == generator]
            cost = _generator_cost(experiment, generator, of_generator[0].fold)
            for task in of_generator:
                number = len(experiment.generator_folders(task.fold, generator))
                seconds[task] = (cost.compile_seconds + cost.seconds) * number
        for task in own:
            if task.kind == tasks.CHOICE:
                candidates = tasks.candidates_of(experiment, task)
                seconds[task] = max(seconds[tasks.task_of(experiment, run)] for run in candidates)
    return seconds


def _line(title: str, seconds: float, disk: int) -> str:
    return f"  {title}: about {wording.duration(seconds)}, {disk / 2**20:,.0f} MiB of checkpoints"


def _by_kind(config: ExperimentConfig, runs: Sequence[PlannedRun], site: plan.Site) -> dict[str, list[PlannedRun]]:
    """Groups runs by model, image size, loss and trained layers, on which their speed depends."""
    kinds: dict[str, list[PlannedRun]] = {}
    for run in runs:
        own = plan.classifier_config(config, run, site)
        title = f"{own.model.name}, {own.data.image_size} px, {own.loss.name}"
        if own.train.head_only_share == 1:
            title += ", head alone"
        kinds.setdefault(title, []).append(run)
    return kinds


def _classifier_cost(experiment: stages.Experiment, run: PlannedRun) -> Cost:
    # Added images do not exist yet; they lengthen an epoch by a few percent only.
    config = plan.classifier_config(experiment.config, run, experiment.site)
    config = override(config, [("data.generated", ""), ("data.generated_count", -1)])
    if run.arm.start:  # nor do weights of other runs
        weights = experiment.config.classifier.train.initial_weights
        config = override(config, [("train.initial_weights", weights)])
    return _cost(config, experiment.site.root)


def _generator_cost(experiment: stages.Experiment, generator: str, fold: int) -> Cost:
    classes = experiment.minority_classes(fold)
    configs = plan.generator_configs(experiment.config, generator, fold, experiment.site, classes)
    if not configs:  # it is trained already
        return Cost(0.0, 0.0, 0)
    return _cost(next(iter(configs.values())), experiment.site.root)


def _cost(config: RunConfig, folder: Path) -> Cost:
    """Times two dispatches and one evaluation of a run."""
    trainer = stages.TRAINERS[config.trainer]
    data, sampler = trainer.open_data(config, Path(config.data.path))
    task, schedule, _ = trainer.make_task(config, folder, data, sampler)
    stream, state = task.batches(0), parallel.replicate(task.state)
    seconds = []
    for _ in range(2):
        batches = next(stream)
        started = time.perf_counter()
        state, metrics = task.dispatch(state, batches)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    task.evaluate(state)
    first_evaluation = time.perf_counter() - started
    started = time.perf_counter()
    task.evaluate(state)
    evaluation = time.perf_counter() - started
    steps = schedule.num_train_steps
    evaluations = -(-steps // schedule.eval_every)
    if isinstance(config, ClassifierConfig):  # at the end of validation and test images, by all views
        evaluations += 2 * len(views_of(config, folder))
    training = seconds[1] * steps / schedule.steps_per_dispatch + evaluation * evaluations
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(task.state))
    copies = config.train.keep_checkpoints + (task.best_metric is not None)
    compilation.clear_compiled_programs()
    return Cost(seconds[0] - seconds[1] + first_evaluation - evaluation, training, size * copies)
