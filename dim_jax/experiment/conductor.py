"""The DIM experiment, from images to one report: prepare, generators, pools, selections, classifiers, statistics."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dim_jax.cli import command_line
from dim_jax.cli.command_line import say
from dim_jax.cli.errors import Diverged
from dim_jax.cli.progress import Progress, Stages
from dim_jax.data import bucket_images
from dim_jax.data.image_writer import safe_name
from dim_jax.evaluation.cases import near_duplicates
from dim_jax.experiment import arms as arms_of
from dim_jax.experiment import composition, estimate, plan, preconditions, stages, tasks, verdict
from dim_jax.experiment.arms import Arm, Question
from dim_jax.experiment.plan import PlannedRun, Site, folds_of
from dim_jax.experiment.recommendation import recommend
from dim_jax.experiment.tasks import Task
from dim_jax.reporting import experiment_page, report_files
from dim_jax.runs import fields, files, workdir
from dim_jax.runs.configuration import parse_config
from dim_jax.runs.schema import ExperimentConfig
from dim_jax.training import hosts

# Arms and questions may be added to an experiment later; every run checks its own configuration.
MAY_DIFFER = (
    "folds", "seeds", "only", "arms", "questions", "order", "recommended", "not_run", "resamples", "generators",
    "diffusion",
)  # fmt: skip

# Weights of stages on the bar of `is_brief`: that of a classifier is 1, and more for what is made for it first. The
# last layer of a network takes seconds, its features longer.
PREPARED, FIRST, GENERATED, RESULTS = {True: 20, False: 0.5}, {True: 8, False: 1}, {True: 5, False: 3}, 2

log = logging.getLogger(__name__)


def train(
    config: Mapping[str, Any] | ExperimentConfig,
    run: Path,
    dry_run: bool = False,
    profile: int = 0,
    task: int | None = None,
    is_brief: bool = False,
) -> None:
    """Runs the experiment in the folder `run`, resuming where an earlier call stopped.

    Several processes may do so at the same time, with the same configuration: they share the runs.

    Args:
      config: configuration from configs/experiment.py, parsed or not.
      run: folder of the experiment.
      dry_run: print the plan, and write nothing.
      profile: must be 0: an experiment is many runs.
      task: number of the only task to do; None for all. What it needs and is missing is made first.
      is_brief: show one bar with the time left, and write what the stages print to run.log alone.

    Raises:
      FileNotFoundError, ValueError: the configuration or the data are invalid.
    """
    if profile:
        raise ValueError(f"--profile={profile} is for one run; give it with the --workdir of a run of the experiment")
    if not hosts.is_only_host():
        raise ValueError(
            "an experiment runs on one host; for more of them, which share a --workdir, give each --task=N of "
            "--list-tasks"
        )
    config, arms, names, questions = _read(config, run)
    sources = sources_of(config)
    if dry_run:
        for name, source in sources.items():
            say(estimate.describe(source, name, config, arms, names))
        return
    only = Task(tasks.RESULTS) if task is None else _numbered(task, stages.unopened(config, arms, run, sources), names)
    with contextlib.ExitStack() as held:
        bar = None
        if is_brief:
            bar = held.enter_context(_bar(config, arms, names, sources))
            held.enter_context(command_line.brief())
        written = _run_stages(config, arms, names, questions, run, sources, only, bar)
        if bar is not None:
            bar.end()
    if written is None:
        say(f"done: task {task}, {only}")
        return
    results, page = written
    for entry in results:
        say(f"{entry['name']}:")
        for answer in entry["answers"]:
            say(f"  {answer['sentence']}")
        for arm in entry["arms"]:
            if entry["recommended"] and arm["name"] == entry["recommended"]["arm"]:
                say(f"  {_expectation(entry, arm)}")
    say(f"report: {page}")


def _expectation(entry: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """Returns what the recommended arm recalls of each class, as text."""
    recalls = [f"{name} {arm['scores'][f'recall_{label}']['value']:.2f}" for label, name in enumerate(entry["classes"])]
    weak = experiment_page.weak_classes(entry, arm)
    more = f"; not learned well: {', '.join(weak)}" if weak else ""
    return f"Recall of {arm['title']}: {', '.join(recalls)}; G-mean {arm['scores']['g_mean']['value']:.2f}{more}"


def _bar(config: ExperimentConfig, arms: Mapping[str, Arm], names: Sequence[str], sources: Mapping[str, str]) -> Stages:
    """Returns the bar of an experiment."""
    runs = plan.runs(arms, names, folds_of(config), config.seeds)
    classifiers = sum(_weights(config, runs).values())
    return Stages("experiment", (PREPARED[_takes_features(config)] + classifiers) * len(sources) + RESULTS)


def _takes_features(config: ExperimentConfig) -> bool:
    return config.classifier.data.backend == "features"


def _run_stages(
    config: ExperimentConfig,
    arms: Mapping[str, Arm],
    names: Sequence[str],
    questions: Mapping[str, Question],
    run: Path,
    sources: Mapping[str, str],
    only: Task,
    bar: Stages | None,
) -> tuple[list[dict[str, Any]], Path] | None:
    """Makes what is missing; returns the results of each dataset and the page, None after a task that writes none."""
    saved = fields.to_dict(config)
    with workdir.claim(run, wait=True):
        workdir.check_config(run, saved, MAY_DIFFER)
        if bar is not None:
            bar.begin("preparing the images", PREPARED[_takes_features(config)] * len(sources))
        experiments = _open(config, arms, names, run, sources)
        if not (run / workdir.ENVIRONMENT).is_file():
            import jax

            workdir.write_start(run, saved, [str(device) for device in jax.devices()])
        files.write_json(run / workdir.CONFIG, saved)
    with workdir.logging_to(run):
        if only.kind != tasks.RESULTS:
            _do(only, experiments, names)
            return None
        diverged = _train_runs(experiments, lambda experiment: _planned(experiment, names), bar)
        if bar is not None:
            bar.begin("statistics and the page", RESULTS)
        with workdir.claim(run, wait=True):
            return _write_results(run, experiments, names, questions, diverged)


def list_tasks(config: Mapping[str, Any] | ExperimentConfig, run: Path, timed: bool) -> None:
    """Prints the tasks of an experiment as a table; writes nothing.

    Args:
      config, run: as for `train`.
      timed: whether to estimate their seconds from a few timed steps on this machine.

    Raises:
      FileNotFoundError, ValueError: as for `train`.
    """
    config, arms, names, _ = _read(config, run)
    sources = sources_of(config)
    listed = tasks.list_tasks(stages.unopened(config, arms, run, sources), names)
    seconds: dict[Task, float] = {}
    with contextlib.redirect_stdout(sys.stderr):  # preparation reports what it found, and the output is one table
        for name, source in sources.items() if timed else ():
            seconds |= estimate.task_seconds(source, name, config, arms, listed)
    say(tasks.table(listed, seconds))


def _read(
    config: Mapping[str, Any] | ExperimentConfig, run: Path
) -> tuple[ExperimentConfig, dict[str, Arm], list[str], dict[str, Question]]:
    """Returns the configuration, all arms, the names of those to train, and the questions.

    Raises:
      ValueError: something in the configuration is wrong, or it differs from that of the experiment in `run`.
    """
    parsed: Any = parse_config(config)
    arms = arms_of.read_arms(parsed)
    questions = arms_of.read_questions(parsed, arms)
    names = arms_of.chosen_names(parsed, arms)
    if parsed.recommended and parsed.recommended not in arms:
        raise ValueError(f"config.recommended={parsed.recommended!r} is not an arm; there are {', '.join(arms)}")
    _check_runs(parsed, arms)
    workdir.check_config(run, fields.to_dict(parsed), MAY_DIFFER)
    return parsed, arms, names, questions


def _numbered(number: int, experiments: Sequence[stages.Experiment], names: Sequence[str]) -> Task:
    listed = list(tasks.list_tasks(experiments, names))
    if number >= len(listed):
        raise ValueError(f"--task={number}: the tasks are 0 to {len(listed) - 1}; see them with --list-tasks")
    return listed[number]


def _do(task: Task, experiments: Sequence[stages.Experiment], names: Sequence[str]) -> None:
    """Does a task other than RESULTS; the data are prepared already."""
    for experiment in experiments:
        if task.site != experiment.site.name:
            continue
        if task.kind == tasks.IMAGES:
            _make_images(experiment, task, names)
        else:
            _train_runs([experiment], partial(tasks.runs_of, task))


def _make_images(experiment: stages.Experiment, task: Task, names: Sequence[str]) -> None:
    """Makes the images of a generator that runs of a fold still need."""
    for run in _planned(experiment, names):
        if run.fold == task.fold and run.arm.generator == task.name and experiment.archived(run) is None:
            try:
                experiment.add_images(run)
            except Diverged as error:
                log.error("%s diverged: %s", task, error)
                return


def _write_results(
    run: Path,
    experiments: Sequence[stages.Experiment],
    names: Sequence[str],
    questions: Mapping[str, Question],
    diverged: Sequence[str],
) -> tuple[list[dict[str, Any]], Path]:
    results: list[dict[str, Any]] = []
    for experiment in experiments:
        config = experiment.config
        doubles = near_duplicates(experiment.site.data)
        results.append(
            verdict.judge(experiment, questions, folds_of(config), config.seeds, doubles)
            | {"runs": _runs(experiment, names), "recommended": recommend(experiment, folds_of(config), config.seeds)}
        )
    experiment_page.write_results(run, results, diverged)
    return results, report_files.write_report([run])


def _open(
    config: ExperimentConfig, arms: Mapping[str, Arm], names: Sequence[str], run: Path, sources: Mapping[str, str]
) -> list[stages.Experiment]:
    """Opens all datasets, and checks that every run that is not finished can be made.

    Raises:
      FileNotFoundError, ValueError: something is missing; datasets that this call prepared are removed.
    """
    new = [run / name for name in sources if not (run / name).exists()]
    try:
        sites = [stages.open_site(source, name, run / name, config) for name, source in sources.items()]
        experiments = [stages.Experiment(config, site, dict(arms)) for site in sites]
        waiting = [
            [planned for planned in _planned(experiment, names) if experiment.archived(planned) is None]
            for experiment in experiments
        ]
        preconditions.check(experiments, waiting)
    except (ValueError, FileNotFoundError):
        for folder in new:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return experiments


def _planned(experiment: stages.Experiment, names: Sequence[str]) -> list[PlannedRun]:
    """Returns the classifiers of an experiment, as far as its choices are made."""
    folds, seeds = folds_of(experiment.config), experiment.config.seeds
    chosen = composition.chosen_arms(experiment, folds, seeds[0])
    return plan.runs(experiment.arms, names, folds, seeds, chosen)


def _train_runs(
    experiments: Sequence[stages.Experiment],
    planned_runs: Callable[[stages.Experiment], Sequence[PlannedRun]],
    bar: Stages | None = None,
) -> list[str]:
    """Trains the planned runs that are not finished, and returns those that diverged.

    Runs that another process works on are left to it. More runs may follow from choices that finished ones decide.
    """
    diverged: dict[tuple[str, PlannedRun], str] = {}
    is_resumed = True
    while True:
        of_sites = [(experiment, planned_runs(experiment)) for experiment in experiments]
        planned = [(experiment, run) for experiment, runs in of_sites for run in runs]
        waiting = [
            (experiment, run)
            for experiment, run in planned
            if (experiment.site.name, run) not in diverged and experiment.archived(run) is None
        ]
        log.info("%d of %d runs are finished", len(planned) - len(waiting), len(planned))
        if not waiting:
            return list(diverged.values())
        weights: dict[tuple[str, PlannedRun], float] = {}
        for experiment, runs in of_sites if bar is not None else ():
            weights |= {(experiment.site.name, run): own for run, own in _weights(experiment.config, runs).items()}
        if bar is not None and is_resumed and len(waiting) < len(planned):
            bar.skip(sum(weights.values()) - sum(weights[experiment.site.name, run] for experiment, run in waiting))
        is_resumed = False
        progress = Progress("experiment", len(planned), len(planned) - len(waiting), unit="runs/h") if not bar else None
        busy = []
        try:
            for number, (experiment, run) in enumerate(waiting, start=1):
                if bar is not None:
                    bar.begin(str(run), weights[experiment.site.name, run])
                try:
                    if not experiment.train_if_free(run):
                        busy.append((experiment, run))
                except Diverged as error:
                    log.error("%s diverged: %s", run, error)
                    diverged[experiment.site.name, run] = f"{experiment.site.name}, {run}: {error}"
                if progress is not None:
                    progress.update(len(planned) - len(waiting) + number, f"done: {run}")
        finally:
            if progress is not None:
                progress.close()
        if busy:
            experiment, run = busy[0]
            experiment.wait_for(run)


def _weights(config: ExperimentConfig, runs: Sequence[PlannedRun]) -> dict[PlannedRun, float]:
    """Returns the weights on the bar of the runs of one dataset, in their order."""
    return {run: _weight(config, run, runs[:number]) for number, run in enumerate(runs)}


def _weight(config: ExperimentConfig, run: PlannedRun, before: Sequence[PlannedRun]) -> float:
    """Returns the weight of a run on the bar: the first one of a size compiles, or makes features, and the first that
    adds images of a generator makes them."""

    def size(other: PlannedRun) -> object:
        return dict(other.arm.settings).get("data.image_size")

    is_first = size(run) not in map(size, before)
    is_generated = run.arm.added and (run.fold, run.arm.added) not in {
        (other.fold, other.arm.added) for other in before
    }
    features = _takes_features(config)
    return 1 + FIRST[features] * is_first + GENERATED[features] * bool(is_generated)


def _runs(experiment: stages.Experiment, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the report's record of every run: whether it is finished, and the commands that reproduce it."""
    entries = []
    for run in _planned(experiment, names):
        archived = experiment.archived(run)
        entries.append({
            "fold": run.fold,
            "seed": run.seed,
            "arm": run.arm.name,
            "finished": archived is not None,
            "checkpoint_step": archived.facts["checkpoint_step"] if archived else None,
            "commands": experiment.commands(run),
        })  # fmt: skip
    return entries


def sources_of(config: ExperimentConfig) -> dict[str, str]:
    """Returns the sources of images by the name of their folder."""
    sources: dict[str, str] = {}
    for source in [config.data.path, *config.data.more]:
        if not source:
            raise ValueError("config.data.path is empty; give a folder of class folders, tfds:NAME, or phantom")
        name = safe_name(Path(source.rstrip("/").removeprefix("tfds:")).name)
        number = 2
        while name in sources:
            name, number = f"{name.rsplit('_', 1)[0] if number > 2 else name}_{number}", number + 1
        sources[name] = bucket_images.local(source)
    return sources


def _check_runs(config: ExperimentConfig, arms: Mapping[str, Arm]) -> None:
    """Raises ValueError if the configuration of any run is invalid."""
    nowhere = Site("", Path(), Path())
    for arm in arms.values():
        for candidate in arm.candidates() if not arm.parts else ():
            try:
                plan.classifier_config(config, PlannedRun(candidate, 0, 0), nowhere).check()
            except ValueError as error:
                raise ValueError(f"config.arms.{arm.name}: {error}") from None
    for name in {arm.generator for arm in arms.values() if arm.generator}:
        try:
            for of_generator in plan.generator_configs(config, name, 0, nowhere, ["any"]).values():
                of_generator.check()
        except ValueError as error:
            raise ValueError(f"config.generators.{name}: {error}") from None
