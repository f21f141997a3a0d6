"""Optimizers and learning-rate schedules from optax, set to follow PyTorch's arithmetic."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

SCHEDULES = ("constant", "step", "cosine")
SCALINGS = ("none", "linear", "sqrt")


def scaled_learning_rate(learning_rate: float, scaling: str, batch_size: int, reference_batch_size: int) -> float:
    """Returns the learning rate that suits a global batch, from one that suits the reference batch.

    Args:
      learning_rate: for batches of `reference_batch_size`.
      scaling: "none" leaves it as it is; "linear" multiplies it by batch_size / reference_batch_size, for SGD; "sqrt"
        by the square root of that, for Adam and RMSprop (whose other constants stay as they are).

    Raises:
      ValueError: there is no such rule, or the reference is below 1.

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


def make_optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Returns a gradient transformation.

    Args:
      name: "adam" (betas 0.9 and 0.999, epsilon 1e-8), "rmsprop" (decay 0.99, epsilon 1e-8 outside the root) or "sgd".
      learning_rate: a number, or a schedule of the step.
      weight_decay: L2 penalty that is added to the gradient before the moments (PyTorch's `weight_decay`; not AdamW).
      momentum: for "sgd".
      clip_norm: gradients of a larger global norm are scaled down to it; 0 turns clipping off.

    Raises:
      ValueError: there is no such optimizer.
    """
    if name == "adam":
        update = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    elif name == "rmsprop":
        update = optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False)
    elif name == "sgd":
        update = optax.trace(momentum) if momentum else optax.identity()
    else:
        raise ValueError(f"config.optimizer.name={name!r} is not an optimizer; choose adam, rmsprop or sgd")
    return optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        update,
        optax.scale_by_learning_rate(learning_rate),
    )


class Schedule(flax.struct.PyTreeNode):
    """A learning rate as a function of the step. Its numbers may be traced: runs of any length share one program.

    Attributes:
      name: "constant", "step" (StepLR: times `decay_rate` after every `decay_steps`) or "cosine" (to 0 at the end).
      learning_rate: peak rate.
      num_train_steps: length of the run; the end of the cosine.
      warmup_steps: the rate first rises linearly from 0 over these steps, in every schedule.
      decay_steps, decay_rate: for "step".
    """

    name: str = flax.struct.field(pytree_node=False)
    learning_rate: jax.Array | float
    num_train_steps: jax.Array | float
    warmup_steps: jax.Array | float
    decay_steps: jax.Array | float
    decay_rate: jax.Array | float

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """Returns the rate of `step`, from 0 on."""
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


def make_schedule(
    name: str,
    learning_rate: float,
    *,
    num_train_steps: int,
    warmup_steps: int = 0,
    decay_steps: int = 0,
    decay_rate: float = 0.5,
) -> Schedule:
    """Returns a learning rate as a function of the step.

    Args:
      name, learning_rate, num_train_steps, warmup_steps, decay_steps, decay_rate: see Schedule; `decay_steps` must be
        at least 1 for "step", and `decay_rate` in (0, 1].

    Raises:
      ValueError: there is no such schedule, or `decay_steps` is missing.
    """
    if name not in SCHEDULES:
        raise ValueError(f"config.optimizer.schedule={name!r} is not a schedule; choose constant, step or cosine")
    if name == "step" and decay_steps < 1:
        raise ValueError("config.optimizer.schedule='step' needs decay_epochs above 0")
    numbers = (learning_rate, num_train_steps, warmup_steps, decay_steps, decay_rate)
    return Schedule(name, *map(np.float32, numbers))
