"""Checkpoints on disk: Orbax writes the arrays, a digest of every file tells a damaged checkpoint from a whole one."""

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dim_jax.runs import files

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


def save(
    folder: str | Path,
    step: int,
    state: Tree,
    notes: Mapping[str, Any],
    keep: int,
    counts: Callable[[int], bool] = lambda step: True,
) -> Path:
    """Writes `folder/<step>` whole or not at all, then removes all but it and the newest `keep` that count.

    A whole checkpoint of the same step and notes is left as it is: a resumed run comes to the same numbers.

    Args:
      folder: folder of the checkpoints, held by this process.
      step: steps done.
      state: tree of host or single-device arrays (not replicated).
      notes: JSON-ready facts to keep with it, such as the best metric so far.
      keep: how many to keep, this one included if it counts, at least 1.
      counts: whether the checkpoint of a step is one of them; one that is not goes when the next one is written.
    """
    folder = Path(os.path.abspath(folder))
    target = folder / str(step)
    if not is_whole(target) or files.read_json(target / NOTES) != files.to_json(dict(notes)):
        files.remove_leftovers(folder)  # of a killed run that may never reach their step again
        with files.replacement(target, is_folder=True) as temporary:
            with _system_errors(), _checkpointer() as checkpointer:
                checkpointer.save(temporary / ARRAYS, jax.tree.map(np.asarray, jax.device_get(state)))
            files.write_json(temporary / NOTES, dict(notes))
            files.write_json(temporary / DIGESTS, _digests(temporary))
            if target.exists():
                shutil.rmtree(target)
    # Newer ones are damaged, or of a past that a resumed run has left; they must not push out the one just written.
    found = steps(folder)
    kept = [other for other in found if other <= step and counts(other)][-keep:]
    for other in set(found).difference(kept, [step]):
        shutil.rmtree(folder / str(other))
    return target


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Raises an OSError for what Orbax tells in the words of a ValueError, a full disk for one."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def restore(folder: str | Path, template: Tree | None = None, more: Sequence[str | Path] = ()) -> Checkpoint | None:
    """Returns the newest whole checkpoint of `folder`, or None if there is none at all.

    Args:
      folder: folder of the checkpoints.
      template: tree with the structure, shapes and dtypes to expect; None gives nested dicts as they were saved.
      more: further folders whose checkpoints are as good; of equal steps, that of the folder named first is taken.

    Raises:
      ValueError: there are checkpoints, but all are damaged, or the newest whole one is of another model.
    """
    folders = [Path(os.path.abspath(each)) for each in (folder, *more)]
    found = [each / str(step) for each in folders for step in steps(each)]
    for path in sorted(found, key=lambda path: -int(path.name)):
        if not is_whole(path):
            logging.getLogger(__name__).warning("%s is damaged (its files do not match their digests); not used", path)
            continue
        try:
            with _checkpointer() as checkpointer:
                state = checkpointer.restore(path / ARRAYS, jax.tree.map(np.asarray, template))
            state = jax.tree.map(np.asarray, state)
            if template is not None:
                _check_shapes(state, template)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} does not fit this model or optimizer ({reason}); use another workdir") from error
        return Checkpoint(int(path.name), state, files.read_json(path / NOTES))
    if found:
        raise ValueError(f"{folders[0]}: every checkpoint is damaged; bring back a copy, or train in another --workdir")
    return None


def _checkpointer() -> Any:
    """Returns Orbax's writer and reader for this process alone: it would wait for all hosts otherwise."""
    import orbax.checkpoint as ocp

    host = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _check_shapes(state: Tree, template: Tree) -> None:
    expected = jax.tree_util.tree_leaves_with_path(template)
    for (path, leaf), found in zip(expected, jax.tree.leaves(state), strict=True):
        if np.shape(leaf) != found.shape:
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{where} has shape {found.shape} there and {np.shape(leaf)} here")


def steps(folder: str | Path) -> list[int]:
    """Returns the steps of the checkpoints in `folder`, whole or not, ascending."""
    folder = Path(folder)
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []


def is_whole(checkpoint: Path) -> bool:
    """Whether the files of a checkpoint are those that were written, byte for byte."""
    try:
        return files.read_json(checkpoint / DIGESTS) == _digests(checkpoint)
    except (OSError, ValueError):
        return False


def _digests(checkpoint: Path) -> dict[str, str]:
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != DIGESTS)
    return {path.relative_to(checkpoint).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
