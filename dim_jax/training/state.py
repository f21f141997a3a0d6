"""What a training run carries from step to step, and the random keys that follow from it."""

from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


def fitting(found: Any, expected: Any, where: str | Path) -> dict[str, Any]:
    """Returns the variables of a restored checkpoint that a model takes, once they are sure to fit it.

    Args:
      found: what was restored.
      expected: collection -> tree of shapes, as jax.eval_shape gives them of the model's `init`.
      where: the checkpoints, for what is said of them.

    Raises:
      ValueError: something is missing, too many, or of another shape.
    """
    missing = [name for name in expected if not isinstance(found, dict) or name not in found]
    if missing:
        raise ValueError(f"{where} holds no {missing[0]} of such a model; give the run that it was saved in")
    kept = {name: found[name] for name in expected}
    ours, theirs = (_shapes(tree) for tree in (expected, kept))
    for path in sorted(ours.keys() | theirs.keys()):
        if ours.get(path) != theirs.get(path):
            raise ValueError(
                f"{where} is of another model: {path} is {theirs.get(path, 'missing')} there and "
                f"{ours.get(path, 'unknown')} here; give the run that it was saved in"
            )
    return kept


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}


class TrainState(flax.struct.PyTreeNode):
    """State of a classifier's training.

    Attributes:
      step: steps done, int32 scalar.
      params: parameters, float32.
      batch_stats: running statistics of the batch norms, float32.
      opt_state: state of the optimizer.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class Network(flax.struct.PyTreeNode):
    """State of one of a GAN's two networks in training.

    Attributes:
      params: parameters, float32.
      batch_stats: running statistics of the batch norms, float32.
      spectral: singular vectors of the spectrally normalised weights, float32.
      opt_state: state of the optimizer.
    """

    params: Any
    batch_stats: Any
    spectral: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats, "spectral": self.spectral}


class GanState(flax.struct.PyTreeNode):
    """State of a GAN's training.

    Attributes:
      step: steps done, int32 scalar.
      generator, discriminator: the two networks.
      ema_params: moving average of the generator's parameters: what images are drawn with. Its batch statistics are
        made anew where images are drawn (synthesis.recalibrate).
      augment_probability: with which an image is augmented before the discriminator sees it, float32 scalar.
    """

    step: jax.Array
    generator: Network
    discriminator: Network
    ema_params: Any
    augment_probability: jax.Array


def step_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the key for what is drawn once for the whole batch of a step; apart from every `example_keys`."""
    return jax.random.fold_in(jax.random.split(key)[1], step)


def example_keys(key: jax.Array, step: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns one random key per example, from the step and its row in the global batch alone.

    The device plays no part, so any number of devices draws the same numbers, and no key needs to be saved.

    Args:
      key: key of the run.
      step: scalar.
      rows: (N,) positions in the global batch.

    Returns:
      (N,) keys.
    """
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda row: jax.random.fold_in(step_key, row))(jnp.asarray(rows))
