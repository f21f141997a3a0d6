"""Initial weights of a GAN from an earlier GAN's run, such as one of all classes for one of a rare class."""

from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data.dataset import Dataset, open_run_dataset
from dim_jax.runs import configuration
from dim_jax.training import checkpoints, loop
from dim_jax.training.restored_variables import check_variables
from dim_jax.training.state import GanState

FIELD = "config.gan.initial_weights"
OF_LABELS = ("labels", "big_labels", "small_labels")  # parts of the networks that only a conditional GAN has
SEED, KERNEL, VECTOR = "seed", "kernel", "v"  # the generator's first layer, whose last inputs are of the label

Tree = dict[str, Any]


def read(run: str, data: Dataset) -> tuple[Tree, str]:
    """Returns the newest state of a GAN's run, and a description of it.

    Args:
      run: run directory.
      data: the data to train on, which must be split as those of the run.

    Raises:
      FileNotFoundError: there is no run, or it has no checkpoint.
      ValueError: it is not a GAN's, has no discriminator, or was trained on another split or fold.
    """
    where, folder = f"{FIELD}={run}", Path(run)
    config = configuration.read_config(folder, "gan")
    restored = checkpoints.restore(folder / loop.CHECKPOINTS)
    if restored is None:
        raise FileNotFoundError(f"{where} holds no checkpoint; give a GAN's run that was trained")
    if not isinstance(restored.state, dict) or "discriminator" not in restored.state:
        raise ValueError(f"{where} holds no discriminator; give a GAN's run that was trained")
    if not config.data.path or open_run_dataset(folder, config).split_sha256 != data.split_sha256:
        raise ValueError(
            f"{where} was not trained on this split, so held-out images may have been among its training images; give "
            "a run on the same data and fold"
        )
    return restored.state, f"{run}, step {restored.step}"


def with_weights(state: GanState, earlier: Tree, run: str) -> GanState:
    """Returns a new state with the weights of an earlier one, and optimizers that start anew.

    An unconditional GAN may start from a conditional one; the parts that depend on the label are left out. Trained with
    `condition_from` of 1, that one never used them.

    Args:
      state: the initial state.
      earlier: from `read`.
      run: run directory of the earlier one, for messages.

    Raises:
      ValueError: the earlier networks are of another kind or size.
    """
    averaged = {"params": earlier.get("ema_params")}
    return state.replace(
        generator=state.generator.replace(**_fitted(earlier["generator"], state.generator.variables, run)),
        discriminator=state.discriminator.replace(
            **_fitted(earlier["discriminator"], state.discriminator.variables, run)
        ),
        ema_params=_fitted(averaged, {"params": state.ema_params}, run)["params"],
    )


def _fitted(earlier: Tree, expected: Tree, run: str) -> Tree:
    """Returns the variables of an earlier network without parts that `expected` lacks because it has no labels."""
    variables = {name: dict(tree) for name, tree in earlier.items() if isinstance(tree, dict)}
    for name, tree in variables.items():
        for part in OF_LABELS:
            if part not in expected.get(name, {}):
                tree.pop(part, None)
    new, old = (tree.get("params", {}).get(SEED, {}).get(KERNEL) for tree in (expected, variables))
    if np.ndim(new) == np.ndim(old) == 4 and len(new) < len(old):
        for name, leaf in (("params", KERNEL), ("spectral", VECTOR)):
            if name in variables:
                variables[name][SEED] = {**variables[name][SEED], leaf: variables[name][SEED][leaf][: len(new)]}
        if "spectral" in variables:  # a vector of length 1
            vector = variables["spectral"][SEED][VECTOR]
            variables["spectral"][SEED][VECTOR] = vector / np.linalg.norm(vector)
    return check_variables(variables, expected, f"{FIELD}={run}")
