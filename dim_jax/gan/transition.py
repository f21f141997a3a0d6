"""Transitional training: a class-conditional GAN learns without labels first; then they come to count by degrees."""

import jax
import jax.numpy as jnp
import optax


def label_strength(condition_from: float, condition_until: float, num_train_steps: int) -> optax.Schedule:
    """Returns what the parts of a GAN that depend on labels are scaled by, as a function of the step.

    clip((step / num_train_steps - condition_from) / (condition_until - condition_from), 0, 1). Told the labels of few
    images from the start, a GAN tends to draw a single image per class.

    Args:
      condition_from: share of the run during which labels count for nothing, in [0, 1].
      condition_until: share of the run after which they count in full, in [condition_from, 1]; 0: from the start.
      num_train_steps: length of the run.

    Reference: Shahbazi et al., "Collapse by conditioning: training class-conditional GANs with limited data", ICLR
    2022, section 3.
    """
    begin, end = condition_from * num_train_steps, condition_until * num_train_steps

    def strength(step: int | jax.Array) -> jax.Array:
        risen = jnp.maximum(step - begin, 0.0) / max(end - begin, 1.0)
        return jnp.where(step >= end, 1.0, risen).astype(jnp.float32)

    return strength
