"""Transitional training of a class-conditional GAN: the schedule by which its conditioning is faded in."""

import jax
import jax.numpy as jnp
import optax


def label_strength(condition_from: float, condition_until: float, num_train_steps: int) -> optax.Schedule:
    """Schedule of the scale of a GAN's label-dependent parts.

    clip((step / num_train_steps - condition_from) / (condition_until - condition_from), 0, 1). Conditioned from the
    start on the labels of few images, a GAN tends to collapse to a single image per class.

    Args:
      condition_from: fraction of the run up to which the scale is 0, in [0, 1].
      condition_until: fraction of the run from which the scale is 1, in [condition_from, 1]; 0 for 1 from the start.
      num_train_steps: length of the run.

    Returns:
      A function from the step to a float32 scalar in [0, 1].

    Reference: Shahbazi et al., "Collapse by conditioning: training class-conditional GANs with limited data", ICLR
    2022, section 3.
    """
    begin, end = condition_from * num_train_steps, condition_until * num_train_steps

    def strength(step: int | jax.Array) -> jax.Array:
        ramp = jnp.maximum(step - begin, 0.0) / max(end - begin, 1.0)
        return jnp.where(step >= end, 1.0, ramp).astype(jnp.float32)

    return strength
