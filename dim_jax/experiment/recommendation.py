"""The recommended arm of an experiment as a directory that `predict` takes, where its networks are at hand."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dim_jax.evaluation.ensembles import is_ensemble, make_ensemble, open_classifier
from dim_jax.evaluation.split_evaluation import add_grad_cam, evaluate_split
from dim_jax.experiment import composition
from dim_jax.experiment.plan import PlannedRun
from dim_jax.experiment.stages import Experiment
from dim_jax.reporting.run_cards import write_run_card


def recommend(experiment: Experiment, folds: Sequence[int], seeds: Sequence[int]) -> dict[str, Any] | None:
    """Makes the ensemble of the recommended arm in the first fold, with the first seed.

    Args:
      experiment: the experiment on one dataset.
      folds, seeds: those that it works on.

    Returns:
      The entry of the page: `arm`, `fold`, the `command` for predictions, and the `run` directory of its first network,
      relative to that of the dataset; None for these two where the networks are not here. None if no arm is recommended
      or it is not finished.
    """
    arm, fold = experiment.arms.get(experiment.config.recommended), folds[0]
    if arm is None:
        return None
    chosen = composition.chosen_arms(experiment, folds, seeds[0])
    runs = composition.runs_of(experiment, arm, fold, seeds[0], chosen)
    if runs is None or any(experiment.archived(run) is None for run in runs):
        return None
    out = experiment.site.root / "recommended"
    command = shown = None
    if all(experiment.is_trained(run) for run in runs):
        _make(experiment, runs, out)
        options = ["IMAGES", f"--workdir={out}", "--out=predictions", *(["--adjust"] if arm.adjust else [])]
        command = f"python -m dim_jax.predict {shlex.join(options)}"
        folder = runs[0].folder(experiment.site)
        add_grad_cam(folder, "test")
        shown = folder.relative_to(experiment.site.root).as_posix()
    return {"arm": arm.name, "fold": fold, "command": command, "run": shown}


def _make(experiment: Experiment, runs: Sequence[PlannedRun], out: Path) -> None:
    folders = [run.folder(experiment.site) for run in runs]
    if is_ensemble(out) and (out / "eval" / "test" / "metrics.json").is_file():
        members = [member.workdir.resolve() for member in open_classifier(out).members]
        if members == [folder.resolve() for folder in folders]:
            return
    make_ensemble(folders, out)
    config = experiment.config
    evaluate_split(out, "val", choice={"criterion": config.metric, "offsets": config.offsets})
    evaluate_split(out, "test")
    write_run_card(out)
