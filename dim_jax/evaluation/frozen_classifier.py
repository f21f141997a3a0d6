"""Classifiers of a frozen network's features as classifiers of images."""

from dataclasses import replace

import jax
import numpy as np

from dim_jax.data.dataset import open_run_dataset
from dim_jax.evaluation.classifier_run import ClassifierRun
from dim_jax.evaluation.frozen_networks import open_network
from dim_jax.evaluation.predictor import make_predictor
from dim_jax.models.feature_nets import LiteClassifier, folded_head


def classifier_of_images(run: ClassifierRun) -> ClassifierRun:
    """Returns a run of features as the same classifier of images: the frozen network with the run's last layer.

    Other runs are returned as they are.

    Args:
      run: the run. One of features standardises them by those of its training images, so these must be there.

    Raises:
      FileNotFoundError: the images of the run are gone.
      ValueError: the weights of the frozen network are not installed.
    """
    if run.config.data.backend != "features":
        return run
    network = open_network(run.config.data.feature_network)
    predictor = make_predictor(run.config, open_run_dataset(run.workdir, run.config))
    variables = predictor.check_variables(run.variables, run.checkpoint_folder)
    mean, std = predictor.statistics
    frozen = jax.device_get(network.variables)
    params = frozen["params"] | {"head": folded_head(jax.device_get(variables["params"]["head"]), mean, std)}
    half = np.full(3, 0.5, np.float32)  # scales [0, 1] to [-1, 1]
    return replace(
        run,
        mean=half,
        std=half,
        model=LiteClassifier(len(run.classes), network.architecture, network.image_size),
        variables={"params": params, "batch_stats": frozen["batch_stats"]},
    )
