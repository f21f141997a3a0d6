"""What a training run carries from step to step, and the random keys that follow from it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


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
