"""Random keys of a training step, per step and per example."""

import jax
import jax.numpy as jnp


def step_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the key for draws shared by the whole batch of a step, independent of all `example_keys`."""
    return jax.random.fold_in(jax.random.split(key)[1], step)


def example_keys(key: jax.Array, step: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns one random key per example, derived from the step and the row in the global batch.

    The keys do not depend on the device, so any number of devices gives the same draws, and no key is saved.

    Args:
      key: key of the run.
      step: scalar.
      rows: (N,) indices in the global batch.

    Returns:
      (N,) keys.
    """
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda row: jax.random.fold_in(step_key, row))(jnp.asarray(rows))
