"""Optimizers and learning-rate schedules from optax, set to follow PyTorch's arithmetic."""

import itertools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

SCHEDULES = ("constant", "step", "cosine")
SCALINGS = ("none", "linear", "sqrt")
SMALL = 2**14  # entries; tensors with fewer are updated together,
JOINED = 48  # at a time


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
    transformation = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity(),
        update,
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.GradientTransformation(transformation.init, _together(transformation.update))


def global_norm(tree: Any) -> jax.Array:
    """Returns the root of the sum of all squares in a tree of arrays, a scalar."""
    return optax.global_norm(_pack(tree))


class _Packed(flax.struct.PyTreeNode):
    """A tree of arrays of one dtype, its small ones joined to a few vectors.

    Networks have hundreds of tensors, most of them small. Updated one by one, they are half of the operations in the
    program of a training step, which takes its time to trace, to compile, and to load where it was compiled before.
    Neighbours are joined: one vector of all would wait for the first layer's gradient and keep all others until then.
    """

    joined: list[jax.Array]
    large: list[jax.Array]
    shapes: tuple[tuple[int, ...], ...] = flax.struct.field(pytree_node=False)
    structure: Any = flax.struct.field(pytree_node=False)

    def unpack(self) -> Any:
        """Returns the tree."""
        sizes = [math.prod(shape) for shape in self.shapes if _is_small(shape)]
        small = itertools.chain.from_iterable(
            jnp.split(vector, np.cumsum(part)[:-1]) for vector, part in zip(self.joined, _in_parts(sizes), strict=True)
        )
        large = iter(self.large)
        leaves = [next(small).reshape(shape) if _is_small(shape) else next(large) for shape in self.shapes]
        return jax.tree.unflatten(self.structure, leaves)


def _is_small(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) < SMALL


def _pack(tree: Any) -> Any:
    """Returns a tree with its small arrays joined, or as it is where it has a single one."""
    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) < 2:
        return tree
    shapes = tuple(jnp.shape(leaf) for leaf in leaves)
    small = [jnp.ravel(leaf) for leaf, shape in zip(leaves, shapes, strict=True) if _is_small(shape)]
    large = [leaf for leaf, shape in zip(leaves, shapes, strict=True) if not _is_small(shape)]
    return _Packed([jnp.concatenate(part) for part in _in_parts(small)], large, shapes, structure)


def _in_parts(items: list) -> list[list]:
    return [items[at : at + JOINED] for at in range(0, len(items), JOINED)]


def _together(update: optax.TransformUpdateFn) -> optax.TransformUpdateFn:
    """Returns an update that does the same to all small tensors at once; states keep their layout."""

    def update_together(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        structure = jax.tree.structure(gradient)

        def is_tree(node: Any) -> bool:
            return jax.tree.structure(node) == structure

        def packed(node: Any) -> Any:
            return jax.tree.map(lambda each: _pack(each) if is_tree(each) else each, node, is_leaf=is_tree)

        def unpacked(node: Any) -> Any:
            is_packed = lambda each: isinstance(each, _Packed)  # noqa: E731
            return jax.tree.map(lambda each: each.unpack() if is_packed(each) else each, node, is_leaf=is_packed)

        return unpacked(update(packed(gradient), packed(state), packed(params)))

    return update_together


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
