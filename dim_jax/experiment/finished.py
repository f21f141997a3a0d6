"""Opening an experiment to read its predictions: no stage is run and nothing is written."""

from pathlib import Path
from typing import Any

from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.out_of_fold import OutOfFoldProbabilities, pool
from dim_jax.experiment import arms as arms_of
from dim_jax.experiment import stages, verdict
from dim_jax.experiment.conductor import sources_of
from dim_jax.experiment.plan import folds_of
from dim_jax.runs import configuration, files
from dim_jax.runs.configuration import parse_config


def is_experiment(run: str | Path) -> bool:
    """Returns whether the folder `run` holds an experiment."""
    path = Path(run) / configuration.FILE_NAME
    return path.is_file() and files.read_object(path).get("trainer") == "experiment"


def open_experiments(run: str | Path) -> list[stages.Experiment]:
    """Opens the experiment in the folder `run`, one for each of its data sets.

    Raises:
      ValueError: its configuration is broken.
    """
    run = Path(run)
    config: Any = parse_config(configuration.read_saved(run / configuration.FILE_NAME))
    return stages.unopened(config, arms_of.read_arms(config), run, sources_of(config))


def pool_arm(experiment: stages.Experiment, name: str = "") -> tuple[str, OutOfFoldProbabilities]:
    """Pools the test predictions of an arm over the folds, averaged over the seeds that are finished in all of them.

    Args:
      experiment: the experiment on one dataset.
      name: name of the arm; "" for the first one that is finished.

    Returns:
      What made the predictions, in words, and the predictions.

    Raises:
      ValueError: there is no such arm, or it is not finished for any seed.
    """
    config, arms = experiment.config, experiment.arms
    if name and name not in arms:
        raise ValueError(f"--arm={name} is not an arm of the experiment; choose one of {', '.join(arms)}")
    for arm in [arms[name]] if name else arms.values():
        predictions = verdict.out_of_fold(experiment, arm, folds_of(config), config.seeds, config.metric)
        if predictions is not None:
            shares = [(predictions.rows, probabilities(logits)) for logits in predictions.logits]
            source = f"the arm “{arm.title}” ({len(predictions.seeds)} seed(s), out of fold)"
            return source, pool(experiment.dataset(folds_of(config)[0]).manifest, shares)
    raise ValueError(f"{experiment.site.root}: no seed of {name or 'any arm'} is finished in all folds; train it first")
