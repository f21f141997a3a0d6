"""Checkpoints on disk: Orbax writes the arrays, a digest of every file tells a damaged checkpoint from a whole one."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dim_jax import files

DIGESTS = "sha256.json"
NOTES = "notes.json"
ARRAYS = "arrays"

Tree = Any


@dataclass(frozen=True)
class Checkpoint:
    """A restored checkpoint: the step, the state as NumPy arrays, and the notes saved beside it."""

    step: int
    state: Tree
    notes: dict[str, Any]


def save(folder: str | Path, step: int, state: Tree, notes: Mapping[str, Any], keep: int) -> Path:
    """Writes `folder/<step>` whole or not at all, then removes all but it and the `keep` - 1 before it.

    A whole checkpoint of the same step is left as it is: a resumed run comes to the same numbers.

    Args:
      folder: folder of the checkpoints.
      step: steps done.
      state: tree of host or single-device arrays (not replicated).
      notes: JSON-ready facts to keep with it, such as the best metric so far.
      keep: how many to keep, at least 1.
    """
    import orbax.checkpoint as ocp

    folder = Path(os.path.abspath(folder))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(step)
    if not is_whole(target):
        for leftover in folder.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(temporary / ARRAYS, jax.tree.map(np.asarray, jax.device_get(state)))
            files.write_json(temporary / NOTES, dict(notes))
            files.write_json(temporary / DIGESTS, _digests(temporary))
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    # Newer ones are damaged, or of a past that a resumed run has left; they must not push out the one just written.
    found = steps(folder)
    for other in set(found).difference([other for other in found if other <= step][-keep:]):
        shutil.rmtree(folder / str(other))
    return target


def restore(folder: str | Path, template: Tree | None = None) -> Checkpoint | None:
    """Returns the newest whole checkpoint of `folder`, or None if there is none at all.

    Args:
      folder: folder of the checkpoints.
      template: tree with the structure, shapes and dtypes to expect; None gives nested dicts as they were saved.

    Raises:
      ValueError: there are checkpoints, but all are damaged, or the newest whole one is of another model.
    """
    import orbax.checkpoint as ocp

    folder = Path(os.path.abspath(folder))
    found = steps(folder)
    for step in reversed(found):
        path = folder / str(step)
        if not is_whole(path):
            logging.getLogger(__name__).warning("%s is damaged (its files do not match their digests); not used", path)
            continue
        try:
            with ocp.StandardCheckpointer() as checkpointer:
                state = checkpointer.restore(path / ARRAYS, jax.tree.map(np.asarray, template))
            state = jax.tree.map(np.asarray, state)
            if template is not None:
                _check_shapes(state, template)
        except (ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} does not fit this model or optimizer ({reason}); use another workdir") from error
        return Checkpoint(step, state, files.read_json(path / NOTES))
    if found:
        raise ValueError(f"{folder}: every checkpoint is damaged; remove the folder to start anew")
    return None


def _check_shapes(state: Tree, template: Tree) -> None:
    expected = jax.tree_util.tree_leaves_with_path(template)
    for (path, leaf), found in zip(expected, jax.tree.leaves(state), strict=True):
        if np.shape(leaf) != found.shape:
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{where} has shape {found.shape} there and {np.shape(leaf)} here")


def steps(folder: str | Path) -> list[int]:
    """Returns the steps of the checkpoints in `folder`, whole or not, ascending."""
    folder = Path(folder)
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []


def is_whole(checkpoint: Path) -> bool:
    """Whether the files of a checkpoint are those that were written, byte for byte."""
    try:
        return files.read_json(checkpoint / DIGESTS) == _digests(checkpoint)
    except (OSError, ValueError):
        return False


def _digests(checkpoint: Path) -> dict[str, str]:
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != DIGESTS)
    return {path.relative_to(checkpoint).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
