"""Grad-CAM maps of a classifier, and a sanity check against randomised weights."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dim_jax.models.feature_map import FEATURE_MAP

PREDICTED = -1


def has_feature_map(model: nn.Module) -> bool:
    """Returns whether a classifier has a feature map; a classifier of features has none."""
    return hasattr(model, "last_block")


def grad_cam(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, classes: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Classifies images in inference mode and computes Grad-CAM maps.

    A map is relu(sum_k w_k A_k) divided by its maximum, with A_k the channels of the last feature map and w_k the mean
    over positions of the gradient of the class's logit with respect to A_k.

    Args:
      model: a classifier that calls feature_map.expose_feature_map.
      variables: its `params` and `batch_stats`.
      images: (N, H, W, 3), normalised.
      classes: (N,) int, the class to explain; PREDICTED for the predicted one.

    Returns:
      logits (N, C), features (N, F) and maps (N, h, w) in [0, 1]: the maximum of each is 1, or 0 if the map has no
      positive value.

    Reference: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization",
    ICCV 2017, equations 1 and 2.
    """

    def apply(variables: Mapping[str, Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
        (logits, features), collections = model.apply(variables, images, mutable=["intermediates"])
        return logits, features, collections["intermediates"][FEATURE_MAP][0]

    def score(perturbation: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        outputs = apply({**variables, "perturbations": {FEATURE_MAP: perturbation}})
        labels = jnp.where(classes == PREDICTED, outputs[0].argmax(-1), classes)
        return (outputs[0] * jax.nn.one_hot(labels, outputs[0].shape[-1])).sum(), outputs

    feature_map = jax.eval_shape(apply, variables)[2]
    gradient, (logits, features, activations) = jax.grad(score, has_aux=True)(
        jnp.zeros(feature_map.shape, feature_map.dtype)
    )
    weights = gradient.astype(jnp.float32).mean((1, 2), keepdims=True)
    maps = nn.relu((weights * activations).sum(-1))
    largest = maps.max((1, 2), keepdims=True)
    return logits, features, jnp.where(largest > 0, maps / jnp.where(largest > 0, largest, 1.0), 0.0)


def shuffle_weights(params: Mapping[str, Any], module: str, seed: int = 0) -> dict[str, Any]:
    """Returns `params` with the entries of every tensor of one module shuffled, which keeps the scale of the weights.

    Args:
      params: parameters of a network.
      module: name of a top-level module.
      seed: seed of the permutations.
    """
    rng = np.random.default_rng(seed)

    def shuffled(tensor: Any) -> np.ndarray:
        tensor = np.asarray(tensor)
        return rng.permutation(tensor.ravel()).reshape(tensor.shape)

    return {**params, module: jax.tree.map(shuffled, params[module])}


def rank_correlation(maps: np.ndarray, others: np.ndarray) -> float | None:
    """Returns the mean Spearman correlation of pairs of maps, or None if no pair has one (constant maps).

    If the maps of a network and of the same network with shuffled weights correlate near 1, they show the image rather
    than what the network learned.

    Args:
      maps, others: (N, h, w).

    Reference: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
    """
    values = [
        stats.spearmanr(first.ravel(), second.ravel()).statistic
        for first, second in zip(maps, others, strict=True)
        if first.min() < first.max() and second.min() < second.max()
    ]
    return float(np.mean(values)) if values else None
