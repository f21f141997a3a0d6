"""Learning-rate schedules and batch-size scaling."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

SCHEDULES = ("constant", "step", "cosine")
SCALINGS = ("none", "linear", "sqrt")


def scaled_learning_rate(learning_rate: float, scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """Scales a learning rate with the global batch size.

    Args:
      learning_rate: rate for batches of `reference_batch_size`.
      scaling: "none"; "linear", a factor of batch_size / reference_batch_size, for SGD; "sqrt", its square root, for
        Adam and RMSprop (their other constants are not scaled).
      batch_size: global batch size.
      reference_batch_size: batch size that `learning_rate` was tuned for, at least 1.

    Raises:
      ValueError: `scaling` is unknown, or `reference_batch_size` is below 1.

    Reference: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014 (both rules); Goyal
    et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017 (linear, with a warm-up); Malladi et al.,
    "On the SDEs and scaling rules for adaptive gradient algorithms", NeurIPS 2022 (square root).
    """
    if scaling not in SCALINGS:
        raise ValueError(f"config.optimizer.learning_rate_scaling={scaling!r}: choose {', '.join(SCALINGS)}")
    if reference_batch_size < 1:
        raise ValueError(f"config.optimizer.reference_batch_size={reference_batch_size} must be at least 1")
    power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[scaling]
    return learning_rate * (batch_size / reference_batch_size) ** power


class LearningRate(flax.struct.PyTreeNode):
    """Learning rate as a function of the step. Its numbers are traced, so runs that differ in them share a program.

    Attributes:
      name: "constant", "step" (StepLR: a factor of `decay_rate` every `decay_steps`) or "cosine" (to 0 at the end).
      learning_rate: peak rate.
      num_train_steps: length of the run, where the cosine ends.
      warmup_steps: length of the linear warm-up from 0, in every schedule.
      decay_steps, decay_rate: of "step".
    """

    name: str = flax.struct.field(pytree_node=False)
    learning_rate: jax.Array | float
    num_train_steps: jax.Array | float
    warmup_steps: jax.Array | float
    decay_steps: jax.Array | float
    decay_rate: jax.Array | float

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """Returns the rate at `step`, counted from 0."""
        after_warmup = jnp.maximum(step - self.warmup_steps, 0.0)
        if self.name == "step":
            factor = self.decay_rate ** jnp.floor(after_warmup / self.decay_steps)
        elif self.name == "cosine":
            done = after_warmup / jnp.maximum(self.num_train_steps - self.warmup_steps, 1.0)
            factor = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(done, 1.0)))
        else:
            factor = 1.0
        rising = step / jnp.maximum(self.warmup_steps, 1.0)
        return self.learning_rate * jnp.where(step < self.warmup_steps, rising, factor)


def make_learning_rate(
    name: str,
    learning_rate: float,
    *,
    num_train_steps: int,
    warmup_steps: int = 0,
    decay_steps: int = 0,
    decay_rate: float = 0.5,
) -> LearningRate:
    """Returns a learning-rate schedule.

    Args:
      name, learning_rate, num_train_steps, warmup_steps, decay_steps, decay_rate: see LearningRate; for "step"
        `decay_steps` is at least 1 and `decay_rate` in (0, 1].

    Raises:
      ValueError: `name` is unknown, or `decay_steps` is missing.
    """
    if name not in SCHEDULES:
        raise ValueError(f"config.optimizer.schedule={name!r} is not a schedule; choose constant, step or cosine")
    if name == "step" and decay_steps < 1:
        raise ValueError("config.optimizer.schedule='step' needs decay_epochs above 0")
    numbers = (learning_rate, num_train_steps, warmup_steps, decay_steps, decay_rate)
    return LearningRate(name, *map(np.float32, numbers))  # type: ignore[arg-type]  # scalars of the host
