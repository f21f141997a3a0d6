"""The DIM experiment, from images to one report: prepare, generators, pools, selections, classifiers, statistics."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dim_jax.cli.command_line import say
from dim_jax.cli.errors import Diverged
from dim_jax.cli.progress import Progress
from dim_jax.data.image_writer import safe_name
from dim_jax.evaluation.cases import near_duplicates
from dim_jax.experiment import arms as arms_of
from dim_jax.experiment import composition, estimate, plan, preconditions, stages, verdict
from dim_jax.experiment.arms import Arm, Question
from dim_jax.experiment.plan import PlannedRun, Site, folds_of
from dim_jax.experiment.recommendation import recommend
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

log = logging.getLogger(__name__)


def train(config: Mapping[str, Any] | ExperimentConfig, run: Path, dry_run: bool = False, profile: int = 0) -> None:
    """Runs the experiment in the folder `run`, resuming where an earlier call stopped.

    Several processes may do so at the same time, with the same configuration: they share the runs.

    Args:
      config: configuration from configs/experiment.py, parsed or not.
      run: folder of the experiment.
      dry_run: print the plan, and write nothing.
      profile: must be 0: an experiment is many runs.

    Raises:
      FileNotFoundError, ValueError: the configuration or the data are invalid.
    """
    if profile:
        raise ValueError(f"--profile={profile} is for one run; give it with the --workdir of a run of the experiment")
    if not hosts.is_only_host():
        raise ValueError(
            "an experiment runs on one host; divide it with --config.folds or --config.seeds among hosts that each "
            "have a --workdir of their own, then copy their predictions/ into one and run it there"
        )
    config = parse_config(config)
    arms = arms_of.read_arms(config)
    questions = arms_of.read_questions(config, arms)
    names = arms_of.chosen_names(config, arms)
    if config.recommended and config.recommended not in arms:
        raise ValueError(f"config.recommended={config.recommended!r} is not an arm; there are {', '.join(arms)}")
    _check_runs(config, arms)
    saved = fields.to_dict(config)
    workdir.check_config(run, saved, MAY_DIFFER)
    sources = sources_of(config)
    if dry_run:
        for name, source in sources.items():
            say(estimate.describe(source, name, config, arms, names))
        return
    with workdir.claim(run, wait=True):
        workdir.check_config(run, saved, MAY_DIFFER)
        experiments = _open(config, arms, names, run, sources)
        if not (run / workdir.ENVIRONMENT).is_file():
            import jax

            workdir.write_start(run, saved, [str(device) for device in jax.devices()])
        files.write_json(run / workdir.CONFIG, saved)
    with workdir.logging_to(run):
        diverged = _train_planned_runs(experiments, names)
        with workdir.claim(run, wait=True):
            _write_results(run, experiments, names, questions, diverged)


def _write_results(
    run: Path,
    experiments: Sequence[stages.Experiment],
    names: Sequence[str],
    questions: Mapping[str, Question],
    diverged: Sequence[str],
) -> None:
    results = []
    for experiment in experiments:
        config = experiment.config
        doubles = near_duplicates(experiment.site.data)
        results.append(
            verdict.judge(experiment, questions, folds_of(config), config.seeds, doubles)
            | {"runs": _runs(experiment, names), "recommended": recommend(experiment, folds_of(config), config.seeds)}
        )
    experiment_page.write_results(run, results, diverged)
    for entry in results:
        say(f"{entry['name']}:")
        for answer in entry["answers"]:
            say(f"  {answer['sentence']}")
    say(f"report: {report_files.write_report([run])}")


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


def _train_planned_runs(experiments: Sequence[stages.Experiment], names: Sequence[str]) -> list[str]:
    """Trains the planned runs that are not finished, and returns those that diverged.

    Runs that another process works on are left to it. More runs may follow from choices that finished ones decide.
    """
    diverged: dict[tuple[str, PlannedRun], str] = {}
    while True:
        planned = [(experiment, run) for experiment in experiments for run in _planned(experiment, names)]
        waiting = [
            (experiment, run)
            for experiment, run in planned
            if (experiment.site.name, run) not in diverged and experiment.archived(run) is None
        ]
        log.info("%d of %d runs are finished", len(planned) - len(waiting), len(planned))
        if not waiting:
            return list(diverged.values())
        progress = Progress("experiment", len(planned), len(planned) - len(waiting), unit="runs/h")
        busy = []
        try:
            for number, (experiment, run) in enumerate(waiting, start=1):
                try:
                    if not experiment.train_if_free(run):
                        busy.append((experiment, run))
                except Diverged as error:
                    log.error("%s diverged: %s", run, error)
                    diverged[experiment.site.name, run] = f"{experiment.site.name}, {run}: {error}"
                progress.update(len(planned) - len(waiting) + number, f"done: {run}")
        finally:
            progress.close()
        if busy:
            experiment, run = busy[0]
            experiment.wait_for(run)


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
        sources[name] = source
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
