"""Training states of the classifier and of the GAN."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax


class TrainState(flax.struct.PyTreeNode):
    """State of a classifier's training.

    Attributes:
      step: number of completed steps, int32 scalar.
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
        """The variables that are evaluated."""
        return {"params": self.params, "batch_stats": self.batch_stats}


class AveragedTrainState(TrainState):
    """State of a classifier's training that also averages its weights; see moving_average.

    Attributes:
      ema_params, ema_batch_stats: moving averages of `params` and `batch_stats`. The statistics are averaged like the
        parameters, because re-estimating them would take a pass over the training images before every evaluation.
    """

    ema_params: Any
    ema_batch_stats: Any

    @classmethod
    def starting_from(cls, state: TrainState) -> "AveragedTrainState":
        """Returns a state whose averages are the current values."""
        return cls(**vars(state), ema_params=state.params, ema_batch_stats=state.batch_stats)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that are evaluated: the averages."""
        return {"params": self.ema_params, "batch_stats": self.ema_batch_stats}


def saved_variables(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `params` and `batch_stats` to evaluate of a restored TrainState or AveragedTrainState.

    Args:
      state: nested dicts, as checkpoints.restore returns them without a template; what is missing is left out.
    """
    prefix = "ema_" if "ema_params" in state else ""
    return {name: state[prefix + name] for name in ("params", "batch_stats") if prefix + name in state}


class NetworkState(flax.struct.PyTreeNode):
    """Training state of a GAN's generator or discriminator.

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
        """The variables for `module.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats, "spectral": self.spectral}


class GanState(flax.struct.PyTreeNode):
    """State of a GAN's training.

    Attributes:
      step: number of completed steps, int32 scalar.
      generator, discriminator: the two networks.
      ema_params: exponential moving average of the generator's parameters, used to generate images. Batch statistics
        for them are computed by synthesis.recalibrate.
      augment_probability: probability with which the discriminator's inputs are augmented, float32 scalar.
    """

    step: jax.Array
    generator: NetworkState
    discriminator: NetworkState
    ema_params: Any
    augment_probability: jax.Array
