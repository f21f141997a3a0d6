"""Frozen networks whose features are classified: ImageNet's EfficientNet-Lites, and those among the trained models."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from dim_jax.data.dataset import Dataset
from dim_jax.data.frozen_features import FrozenNetwork
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.models.efficientnet_lite import PIXEL_MEAN, PIXEL_STD, PUBLISHED
from dim_jax.models.feature_nets import lite_input
from dim_jax.training import packed_runs
from dim_jax.weights import pretrained
from dim_jax.zoo import catalog


@dataclass(frozen=True)
class FrozenLite:
    """An EfficientNet-Lite with its weights.

    Attributes:
      architecture: key of efficientnet_lite.PUBLISHED.
      image_size: side in px that images are brought to.
      model: returns (logits, features) of images normalised as for the published weights.
      variables: its `params` and `batch_stats`.
    """

    architecture: str
    image_size: int
    model: nn.Module
    variables: dict[str, Any]


def open_network(name: str) -> FrozenLite:
    """Opens a frozen network.

    Args:
      name: key of efficientnet_lite.PUBLISHED, with ImageNet weights, or zoo:NAME.

    Raises:
      ValueError: there is no such model, it is no EfficientNet-Lite, or its weights are not installed.
    """
    if not name.startswith(catalog.PREFIX):
        published = PUBLISHED[name]
        return FrozenLite(name, published.image_size, published.make(), pretrained.efficientnet_lite(name))
    run = open_classifier_run(catalog.folder(name))
    network = run.config.model.name
    if network not in PUBLISHED or not np.allclose((run.mean, run.std), (PIXEL_MEAN, PIXEL_STD), atol=1e-4):
        raise ValueError(
            f"config.data.feature_network={name} is {network}; only models that are EfficientNet-Lites, normalised "
            "as ImageNet's, give features"
        )
    return FrozenLite(network, run.config.data.image_size, run.model, run.variables)


def architecture(name: str) -> str:
    """Returns the key of efficientnet_lite.PUBLISHED of a network, see `open_network`."""
    return catalog.models()[name.removeprefix(catalog.PREFIX)]["network"] if name.startswith(catalog.PREFIX) else name


def frozen_network(name: str, dataset: Dataset) -> FrozenNetwork:
    """Returns the network of a name, see `open_network`, for the features of a dataset.

    Raises:
      ValueError: there is no such model, or it was trained on images that are held out in the dataset.
    """
    if not name.startswith(catalog.PREFIX):
        return FrozenNetwork(pretrained.feature_space(name), partial(pretrained.pixel_features, name))
    folder, entry = catalog.folder(name), catalog.models()[name.removeprefix(catalog.PREFIX)]
    packed_runs.check_held_out(f"config.data.feature_network={name}", folder, dataset.held_out)
    digest = entry["files"][packed_runs.FILE_NAME]
    space = f"{name} pooled features, resized to {entry['image_size']} px bicubic with antialiasing (SHA-256 {digest})"
    return FrozenNetwork(space, partial(_pixel_features, name))


def check_weights(name: str) -> None:
    """Raises ValueError if there is no such network, or its weights are not installed."""
    if name.startswith(catalog.PREFIX):
        catalog.folder(name)
    else:
        pretrained.lite_path(name)


def _pixel_features(name: str) -> Callable[[np.ndarray], np.ndarray]:
    network = open_network(name)

    @jax.jit
    def features(variables: Any, pixels: jax.Array) -> jax.Array:
        outputs: Any = network.model.apply(variables, lite_input(pixels / 127.5 - 1, network.image_size))
        return outputs[1]

    return lambda pixels: np.asarray(features(network.variables, pixels.astype(np.float32)))
