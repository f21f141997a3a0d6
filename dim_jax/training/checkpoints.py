"""Checkpoints on disk: arrays written by Orbax, with a SHA-256 digest of every file to detect damage."""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dim_jax.runs import files
from dim_jax.runs.workdir import DIGESTS

NOTES = "notes.json"
ARRAYS = "arrays"
TRIAL = ".trial.tmp"
# Errors of Orbax for arrays that are incomplete, or have another structure than the template.
UNREADABLE = (ValueError, KeyError, TypeError, FileNotFoundError)
# Orbax expands [...], and TensorStore takes a backslash as a separator and :// as the end of a scheme.
PLAIN_PATH = re.compile(r"[\w/ .,+=@~-]*")

Tree = Any


@dataclass(frozen=True)
class Checkpoint:
    """A restored checkpoint.

    Attributes:
      step: number of completed steps.
      state: tree of NumPy arrays.
      notes: the JSON object saved with it.
    """

    step: int
    state: Tree
    notes: dict[str, Any]


def save(
    folder: str | Path,
    step: int,
    state: Tree,
    notes: Mapping[str, Any],
    keep: int,
    counts: Callable[[int], bool] = lambda step: True,
) -> Path:
    """Writes `folder/<step>` atomically, then removes all checkpoints but this one and the newest `keep` that count.

    An undamaged checkpoint of the same step and notes is not written again, because a resumed run computes the same
    numbers.

    Args:
      folder: folder of the checkpoints, locked by this process.
      step: number of completed steps.
      state: tree of host or single-device arrays (not replicated).
      notes: JSON object to save with it, such as the best metric so far.
      keep: number of checkpoints to keep, including this one if it counts; at least 1.
      counts: step -> whether its checkpoint counts towards `keep`; others are removed by the next call.

    Returns:
      The path of the checkpoint.

    Raises:
      OSError: it cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    target = folder / str(step)
    if not is_undamaged(target) or files.read_json(target / NOTES) != files.to_json(dict(notes)):
        files.remove_leftovers(folder)  # of killed runs, which may never reach the same step again
        with files.replacement(target, is_folder=True) as temporary:
            with _system_errors(), _plain_path(temporary) as plain, _checkpointer() as checkpointer:
                checkpointer.save(plain / ARRAYS, jax.tree.map(np.asarray, jax.device_get(state)))
            files.write_json(temporary / NOTES, dict(notes))
            files.write_json(temporary / DIGESTS, digests(temporary))
            if target.exists():
                shutil.rmtree(target)
    # Newer ones are damaged, or from before the run was resumed at an earlier step; they must not displace this one.
    saved_steps = steps(folder)
    steps_to_keep = [saved for saved in saved_steps if saved <= step and counts(saved)][-keep:]
    for old_step in set(saved_steps).difference(steps_to_keep, [step]):
        shutil.rmtree(folder / str(old_step))
    return target


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Re-raises system errors, such as a full disk, that Orbax reports as ValueError."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


@contextlib.contextmanager
def _plain_path(folder: Path) -> Iterator[Path]:
    """Yields a path of `folder` that Orbax takes literally: its own, or that of a temporary link."""
    if PLAIN_PATH.fullmatch(folder.relative_to(folder.anchor).as_posix()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        link = Path(place, "checkpoint")
        link.symlink_to(folder, target_is_directory=True)
        yield link


def check_folder(folder: str | Path) -> None:
    """Saves a small tree below `folder` and restores it, so that no training begins that could not be kept.

    Raises:
      OSError: it cannot be written.
      ValueError: it cannot be read back.
    """
    tree: Tree = {"kernel": np.arange(6, dtype=np.float32), "step": np.int32(1)}
    trial = Path(folder, TRIAL)
    try:
        shutil.rmtree(trial, ignore_errors=True)  # of a killed run
        save(trial, 1, tree, {}, keep=1)
        restored = restore(trial, tree)
        if restored is None or not np.array_equal(restored.state["kernel"], tree["kernel"]):
            raise ValueError("other numbers came back")
    except OSError as error:
        error.filename = str(folder)
        raise
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}: a checkpoint that is saved there cannot be restored ({_reason(error)}), so training would be "
            "lost; use another folder"
        ) from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def restore(folder: str | Path, template: Tree | None = None, more: Sequence[str | Path] = ()) -> Checkpoint | None:
    """Restores the newest undamaged checkpoint, or returns None if there is no checkpoint at all.

    Args:
      folder: folder of the checkpoints.
      template: tree with the expected structure, shapes and dtypes; None returns nested dicts as saved.
      more: further folders with checkpoints of the same run; for equal steps, the first folder is preferred.

    Raises:
      ValueError: all checkpoints are damaged, or the newest undamaged one is of another model.
    """
    folders = [Path(os.path.abspath(path)) for path in (folder, *more)]
    checkpoint_paths = [path / str(step) for path in folders for step in steps(path)]
    reasons = []
    for path in sorted(checkpoint_paths, key=lambda path: -int(path.name)):
        reason = "its files do not match their digests"
        if is_undamaged(path):
            try:
                state = _read(path, template)
                return Checkpoint(int(path.name), state, files.read_json(path / NOTES))
            except UNREADABLE as error:
                reason = f"its arrays are not whole: {_reason(error)}"
                if template is not None and _is_readable(path):
                    raise ValueError(
                        f"{path} does not fit this model or optimizer ({_reason(error)}); use another workdir"
                    ) from error
        logging.getLogger(__name__).warning("%s is damaged (%s); not used", path, reason)
        reasons.append(f"{path}: {reason}")
    if checkpoint_paths:
        if checkpoint_paths != [path / str(step) for path in folders for step in steps(path)]:
            return restore(folder, template, more)  # the run is being trained, and has replaced what was listed
        raise ValueError(
            f"{folders[0]}: every checkpoint is damaged; bring back a copy, or train in another --workdir "
            f"({reasons[0]})"
        )
    return None


def _read(checkpoint: Path, template: Tree | None) -> Tree:
    """Reads the arrays of a checkpoint, and compares them with the template if there is one."""
    with _plain_path(checkpoint) as plain, _checkpointer() as checkpointer:
        state = checkpointer.restore(plain / ARRAYS, jax.tree.map(np.asarray, template))
    state = jax.tree.map(np.asarray, state)
    if template is not None:
        _check_shapes(state, template)
    return state


def _is_readable(checkpoint: Path) -> bool:
    """Whether the arrays can be read as they were saved, whatever model they are of."""
    try:
        _read(checkpoint, None)
    except UNREADABLE:
        return False
    return True


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _checkpointer() -> Any:
    """Returns an Orbax checkpointer for this process alone; by default it would wait for all hosts."""
    import orbax.checkpoint as ocp

    host = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _check_shapes(state: Tree, template: Tree) -> None:
    expected = jax.tree_util.tree_leaves_with_path(template)
    for (path, leaf), restored in zip(expected, jax.tree.leaves(state), strict=True):
        if np.shape(leaf) != restored.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{name} has shape {restored.shape} there and {np.shape(leaf)} here")


def steps(folder: str | Path) -> list[int]:
    """Returns the steps of the checkpoints in `folder`, damaged or not, in ascending order."""
    folder = Path(folder)
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []


def is_undamaged(checkpoint: Path) -> bool:
    """Whether the files of a checkpoint match their digests."""
    try:
        return files.read_json(checkpoint / DIGESTS) == digests(checkpoint)
    except (OSError, ValueError):
        return False


def digests(checkpoint: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file of a checkpoint, by its relative path."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != DIGESTS)
    return {path.relative_to(checkpoint).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
