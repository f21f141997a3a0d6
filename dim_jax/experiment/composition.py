"""Predictions of arms that train nothing of their own: ensembles of arms, and choices among arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dim_jax.evaluation.adjustment import FoldValidation, is_allowed
from dim_jax.evaluation.ensembles import mean_logits
from dim_jax.experiment import added_images, plan
from dim_jax.experiment.archive import SPLITS, Archived
from dim_jax.experiment.arms import Arm
from dim_jax.experiment.choice import choose
from dim_jax.experiment.plan import PlannedRun
from dim_jax.experiment.stages import Experiment

Chosen = Mapping[tuple[str, int], str]  # the arm that a choice has chosen, by (name of the choice, fold)


def chosen_arms(experiment: Experiment, folds: Sequence[int], seed: int) -> dict[tuple[str, int], str]:
    """Returns what every choice chooses for every fold, as far as the runs that it depends on are finished.

    Args:
      experiment: the experiment on one dataset.
      folds: its folds.
      seed: the first seed, whose predictions choose for all.
    """
    choices = [arm for arm in experiment.arms.values() if arm.choices]
    if not choices:
        return {}
    training = plan.trained_as(experiment.arms)
    datasets = {fold: experiment.dataset(fold) for fold in folds}
    names = dict.fromkeys(name for arm in choices for name in arm.choices)
    archives = {
        (name, fold): experiment.archived(PlannedRun(training[name], fold, seed)) for name in names for fold in folds
    }
    validations = {
        (name, fold): FoldValidation(
            archived.rows["val"],
            archived.logits["val"],
            datasets[fold].labels[archived.rows["val"]],
            added_images.training_counts(datasets[fold]),
        )
        for (name, fold), archived in archives.items()
        if archived is not None
    }
    chosen = {}
    for arm in choices:
        for fold, dataset in datasets.items():
            test = dataset.rows("test")
            judges = [other for other in folds if is_allowed(datasets[other].rows("val"), test)]
            if judges and all((name, other) in validations for name in arm.choices for other in judges):
                runs = {name: [validations[name, other] for other in judges] for name in arm.choices}
                chosen[arm.name, fold] = choose(runs, test, experiment.config.metric)
    return chosen


def runs_of(experiment: Experiment, arm: Arm, fold: int, seed: int, chosen: Chosen) -> list[PlannedRun] | None:
    """Returns the runs whose mean an arm is, without repetition: one if it is trained.

    Args:
      experiment: the experiment on one dataset.
      arm: an arm that tunes nothing.
      fold, seed: of the runs.
      chosen: result of `chosen_arms`.

    Returns:
      The runs, finished or not; None if a choice is not made yet.
    """
    if not arm.parts:
        return [PlannedRun(plan.trained_as(experiment.arms)[arm.name], fold, seed)]
    names: Sequence[str | None] = arm.members or [chosen.get((arm.name, fold))]
    runs: dict[PlannedRun, None] = {}
    for name in names:
        of_part = None if name is None else runs_of(experiment, experiment.arms[name], fold, seed, chosen)
        if of_part is None:
            return None
        runs |= dict.fromkeys(of_part)
    return list(runs)


def archived(experiment: Experiment, arm: Arm, fold: int, seed: int, chosen: Chosen) -> Archived | None:
    """Returns the predictions of an arm, before any adjustment, with arguments as for `runs_of`.

    Those of an ensemble are logarithms of mean probabilities. None if a run is not finished.
    """
    runs = runs_of(experiment, arm, fold, seed, chosen)
    archives = [experiment.archived(run) for run in runs or ()]
    finished = [archive for archive in archives if archive is not None]
    if not finished or len(finished) < len(archives):
        return None
    if len(finished) == 1:
        return finished[0]
    logits = {split: mean_logits([archive.logits[split] for archive in finished]) for split in SPLITS}
    return Archived(finished[0].rows, logits, _facts([archive.facts for archive in finished]))


def _facts(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the facts of an ensemble: members are trained and used one after another."""
    sums = {}
    for name in ("training_seconds_per_100_images", "test_seconds_per_image"):
        values = [of_run[name] for of_run in facts]
        sums[name] = None if None in values else float(np.sum(values))
    return {"checkpoint_step": None, "added": max(of_run["added"] for of_run in facts), **sums}
