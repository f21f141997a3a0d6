"""Trainers by the name that a configuration gives: each is `train(config, workdir, dry_run)`."""

from collections.abc import Callable
from importlib import import_module

TRAINERS = ("classifier", "gan", "experiment")


def trainer(name: str) -> Callable:
    """Returns the `train` function of a trainer, importing it only now.

    Raises:
      ValueError: there is no such trainer.
    """
    if name not in TRAINERS:
        raise ValueError(f"config.trainer={name!r} is not a trainer; choose one of {', '.join(TRAINERS)}")
    return import_module(f"dim_jax.trainers.{name}").train
