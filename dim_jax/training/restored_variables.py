"""Comparing the variables of a checkpoint with those that a model takes."""

from pathlib import Path
from typing import Any

import jax
import numpy as np


def check_variables(state: Any, expected: Any, source: str | Path) -> dict[str, Any]:
    """Returns the collections of a restored state that a model takes, after comparing their shapes.

    Args:
      state: restored tree.
      expected: collection -> tree of shapes, as jax.eval_shape gives them for the model's `init`.
      source: folder of the checkpoint, for messages.

    Raises:
      ValueError: a tensor is missing, unknown or of another shape.
    """
    missing = [name for name in expected if not isinstance(state, dict) or name not in state]
    if missing:
        raise ValueError(f"{source} holds no {missing[0]} of such a model; give the run that it was saved in")
    variables = {name: state[name] for name in expected}
    model_shapes, saved_shapes = _shapes(expected), _shapes(variables)
    for path in sorted(model_shapes.keys() | saved_shapes.keys()):
        if model_shapes.get(path) != saved_shapes.get(path):
            raise ValueError(
                f"{source} is of another model: {path} is {saved_shapes.get(path, 'missing')} there and "
                f"{model_shapes.get(path, 'unknown')} here; give the run that it was saved in"
            )
    return variables


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}
