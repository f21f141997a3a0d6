"""Random keys of a training step, per step and per example."""

import jax
import jax.numpy as jnp


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
