"""Training states of the classifier and of the GAN."""

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
        """The variables for `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


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
