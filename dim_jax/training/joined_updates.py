"""Optimizer updates of many small tensors as a few long vectors, on CPU."""

import itertools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dim_jax.models.kernels.platforms import runs_on_cpu

SMALL = 2**14  # tensors with fewer entries are joined,
JOINED = 48  # so many at a time


@jax.named_scope("global_norm")
def global_norm(tree: Any) -> jax.Array:
    """Returns the L2 norm of a tree of arrays taken as one vector, a scalar."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(_pack(tree))))


class _Packed(flax.struct.PyTreeNode):
    """A tree of arrays of one dtype whose small arrays are concatenated to a few vectors.

    Most of the hundreds of tensors of a network are small. Updated one by one, they are half of the operations of a
    training step, which then takes longer to trace, compile and load. Only neighbours are joined: a single vector
    would have to wait for the gradient of the first layer and keep all others in memory until then.
    """

    joined: list[jax.Array]
    large: list[jax.Array]
    shapes: tuple[tuple[int, ...], ...] = flax.struct.field(pytree_node=False)
    structure: Any = flax.struct.field(pytree_node=False)

    def unpack(self) -> Any:
        """Returns the original tree."""
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
    """Returns a tree as _Packed, or unchanged if it has fewer than two arrays."""
    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) < 2:
        return tree
    shapes = tuple(jnp.shape(leaf) for leaf in leaves)
    small = [jnp.ravel(leaf) for leaf, shape in zip(leaves, shapes, strict=True) if _is_small(shape)]
    large = [leaf for leaf, shape in zip(leaves, shapes, strict=True) if not _is_small(shape)]
    return _Packed([jnp.concatenate(part) for part in _in_parts(small)], large, shapes, structure)


def _in_parts(items: list) -> list[list]:
    return [items[at : at + JOINED] for at in range(0, len(items), JOINED)]


def join_small_tensors(update: optax.TransformUpdateFn) -> optax.TransformUpdateFn:
    """Wraps an elementwise update so that on CPU it is applied to concatenations of small tensors.

    Args:
      update: `update` of an optax transformation whose state holds trees like the gradient's.

    Returns:
      An update with the same results; gradients, states and parameters keep their structure.
    """

    def joined_update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if not runs_on_cpu():
            return update(gradient, state, params)
        structure = jax.tree.structure(gradient)

        def is_tree(node: Any) -> bool:
            return bool(jax.tree.structure(node) == structure)  # type: ignore[operator]  # untyped in JAX

        def packed(node: Any) -> Any:
            return jax.tree.map(lambda tree: _pack(tree) if is_tree(tree) else tree, node, is_leaf=is_tree)

        def unpacked(node: Any) -> Any:
            is_packed = lambda tree: isinstance(tree, _Packed)  # noqa: E731
            return jax.tree.map(lambda tree: tree.unpack() if is_packed(tree) else tree, node, is_leaf=is_packed)

        return unpacked(update(packed(gradient), packed(state), packed(params)))

    return joined_update
