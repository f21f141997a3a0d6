"""Optimizers from optax, with PyTorch's arithmetic."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dim_jax.models.kernels.platforms import computed_together, materialized, runs_on_cpu
from dim_jax.training.joined_updates import join_small_tensors


def make_optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Returns a gradient transformation with PyTorch's arithmetic.

    Args:
      name: "adam" or "adamw" (betas 0.9 and 0.999, epsilon 1e-8), "rmsprop" (decay 0.99, epsilon 1e-8 outside the root)
        or "sgd".
      learning_rate: a number, or a function of the step.
      weight_decay: L2 penalty, added to the gradient before the moments; of "adamw" decoupled: each step also
        multiplies every parameter by 1 - learning_rate weight_decay.
      momentum: of "sgd".
      clip_norm: largest global norm of the gradient; 0 turns clipping off.

    Raises:
      ValueError: `name` is unknown.

    Reference: Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015; Loshchilov & Hutter, "Decoupled
    weight decay regularization", ICLR 2019.
    """
    if name in ("adam", "adamw"):
        update = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    elif name == "rmsprop":
        update = optax.scale_by_rms(decay=0.99, eps=1e-8, eps_in_sqrt=False)
    elif name == "sgd":
        update = optax.trace(momentum) if momentum else optax.identity()
    else:
        raise ValueError(f"config.optimizer.name={name!r} is not an optimizer; choose adam, adamw, rmsprop or sgd")
    decay = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    transformation = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        *((update, decay) if name == "adamw" else (decay, update)),
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.GradientTransformation(transformation.init, join_small_tensors(transformation.update))


@jax.named_scope("optimizer")
def apply_gradient(
    transformation: optax.GradientTransformation, gradient: Any, state: Any, params: Any, step: jax.Array
) -> tuple[Any, Any]:
    """Returns the parameters after one step, and the new state of the optimizer.

    Args:
      transformation: the optimizer.
      gradient: like `params`.
      state: of the optimizer.
      params: parameters before the step.
      step: number of completed steps, a scalar.
    """
    if runs_on_cpu():
        updates, new_state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), new_state
    # A TPU keeps arrays in tiles, so that it would copy them to make vectors.
    update = partial(_updated_together, transformation)
    return lax.platform_dependent(gradient, state, params, step, tpu=update, default=partial(_as_vectors, update))


def _updated_together(
    transformation: optax.GradientTransformation, gradient: Any, state: Any, params: Any, step: jax.Array
) -> tuple[Any, Any]:
    # After the last gradient: a parameter that one of them still reads would be copied first.
    gradient, state, params = materialized((gradient, state, params))
    updates, new_state = transformation.update(gradient, state, params)
    return computed_together((optax.apply_updates(params, updates), new_state), step)


def _as_vectors(
    update: Callable[..., tuple[Any, Any]], gradient: Any, state: Any, params: Any, step: jax.Array
) -> tuple[Any, Any]:
    """Applies an update to all arrays as vectors, which have one layout, so that GPUs need not copy them to others."""
    results = update(*jax.tree.map(_as_vector, (gradient, state, params)), step)
    return jax.tree.map(lambda vector, like: vector.reshape(jnp.shape(like)), results, (params, state))


def _as_vector(array: jax.Array) -> jax.Array:
    return array.reshape(-1) if jnp.ndim(array) else array


def scale_other_modules(
    transformation: optax.GradientTransformation, module: str, factor: float
) -> optax.GradientTransformation:
    """Returns a transformation whose updates of all top-level modules but one are multiplied by a factor.

    This is a learning rate of its own for those modules; decoupled weight decay is scaled with it.

    Args:
      transformation: its state stays the same.
      module: name of the module that keeps its updates, as in the parameters.
      factor: above 0.

    Reference: Howard & Ruder, "Universal language model fine-tuning for text classification", ACL 2018, section 3.2
    (discriminative fine-tuning).
    """

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = transformation.update(gradient, state, params)
        scaled = {name: jax.tree.map(lambda value: factor * value, part) for name, part in updates.items()}
        return scaled | {module: updates[module]}, state

    return optax.GradientTransformation(transformation.init, update)
