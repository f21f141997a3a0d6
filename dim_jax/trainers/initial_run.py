"""Initial weights from an earlier run of a classifier."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from dim_jax.data.dataset import Dataset
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.training import packed_runs
from dim_jax.training.restored_variables import check_variables
from dim_jax.zoo import catalog


def read(run: str, data: Dataset) -> tuple[dict[str, Any], str]:
    """Returns the variables of the best checkpoint of a run, and a description of it.

    Args:
      run: directory of a classifier's run, or of a packed one, or zoo:NAME.
      data: the data to train on, which must be normalised as those of the run and, but for a packed run, split so.

    Raises:
      FileNotFoundError: there is no run, or it has no checkpoint yet.
      ValueError: it was trained on images that are not training images here, or on images scaled otherwise.
    """
    where, folder = f"config.train.initial_weights={run}", catalog.resolve(run)
    earlier = open_classifier_run(folder)
    if earlier.config.data.path:
        manifest = manifests.load(folder)
        earlier_data = Dataset(manifest, splits.load(folder, manifest), earlier.config.data.fold)
        if earlier_data.split_sha256 != data.split_sha256:
            raise ValueError(
                f"{where} was trained on another split, so with images that are held out here; give a run on the same "
                "data and fold"
            )
    else:
        packed_runs.check_held_out(where, folder, data.held_out)
    statistics = data.channel_statistics()
    if not np.allclose((earlier.mean, earlier.std), statistics, atol=1e-4):
        mean, std = (tuple(round(float(value), 4) for value in values) for values in (earlier.mean, earlier.std))
        raise ValueError(f"{where} normalises images by other statistics; set config.data.mean={mean} and .std={std}")
    return earlier.variables, f"{run}, {earlier.config.model.name} at step {earlier.step}"


def with_weights(variables: Mapping[str, Any], earlier: Mapping[str, Any], head: str, run: str) -> dict[str, Any]:
    """Returns `variables` with the weights of an earlier run in all modules but the head.

    Args:
      variables: `params` and `batch_stats` of the new run.
      earlier: those of the earlier one, from `read`.
      head: name of the head.
      run: directory of the earlier run, for messages.

    Raises:
      ValueError: the run is of another model.
    """
    params = {**earlier["params"], head: variables["params"][head]}
    expected = {name: tree for name, tree in variables.items() if jax.tree.leaves(tree)}
    return {**variables, **check_variables({**earlier, "params": params}, expected, run)}
