"""Packed runs: the weights of a trained network in one small file, in place of the checkpoints of a run directory."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.runs import files
from dim_jax.training import checkpoints
from dim_jax.training.checkpoints import Checkpoint
from dim_jax.weights import safetensor_files

FILE_NAME, RECORD = "weights.safetensors", "packed.json"
SEPARATOR = "/"
LARGEST = float(np.finfo(np.float16).max)

Tree = Any


def save(folder: str | Path, step: int, state: Tree) -> Path:
    """Writes `folder/weights.safetensors`: kernels as float16, vectors and scalars, which are few, as they are.

    Args:
      folder: folder of the packed run.
      step: step of the checkpoint.
      state: nested dicts of arrays, float32 for the most part.

    Returns:
      The path of the file.

    Raises:
      ValueError: a weight is not finite, or too large for float16.
    """
    arrays = dict(_leaves(state))
    for name, array in arrays.items():
        if array.dtype == np.float32 and array.ndim > 1:
            if not np.abs(array).max(initial=0.0) <= LARGEST:
                raise ValueError(f"weights of {name} are not finite or above {LARGEST:g}, too large for float16")
            arrays[name] = array.astype(np.float16)
    return files.write_bytes(Path(folder, FILE_NAME), safetensor_files.encode(arrays, {"step": str(step)}))


def restore(workdir: str | Path, folder: str | Path) -> Checkpoint | None:
    """Returns the state of a packed run, float32, or else the newest checkpoint in a folder of a run directory.

    Args:
      workdir: run directory, or folder of a packed run.
      folder: folder of the checkpoints, as for checkpoints.restore.

    Raises:
      ValueError: the file of a packed run is damaged.
    """
    path = Path(workdir, FILE_NAME)
    if not path.is_file():
        return checkpoints.restore(folder)
    step = safetensor_files.metadata(path, "step")
    state: Tree = {}
    for name, array in safetensor_files.read(path).items():
        *parents, leaf = name.split(SEPARATOR)
        branch = state
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = array.astype(np.float32) if array.dtype == np.float16 else array
    if step is None or not step.isdecimal():
        raise ValueError(f"{path} does not say of which step it is; pack the run again")
    return Checkpoint(int(step), state, {})


def read_record(workdir: str | Path) -> dict[str, Any]:
    """Returns what a packed run says of its training (interop.packed_exports); {} for any other run.

    Raises:
      ValueError: the file is damaged.
    """
    path = Path(workdir, RECORD)
    return files.read_object(path) if path.is_file() else {}


def digest(sha256: str) -> str:
    """Returns the part of an image's SHA-256 that packed runs record: enough to recognise it, a quarter of the size."""
    return sha256[:16]


def training_images(workdir: str | Path) -> frozenset[str]:
    """Returns the `digest` of every training image of a packed run; none for any other run."""
    data = read_record(workdir).get("data")
    digests = data.get("training_images") if isinstance(data, dict) else None
    return frozenset(digests if isinstance(digests, list) else ())


def check_held_out(where: str, workdir: str | Path, held_out: Mapping[str, str]) -> None:
    """Checks that a packed run was not trained on images that are held out of training elsewhere.

    Args:
      where: what names the run, for messages.
      workdir: the run.
      held_out: SHA-256 of the images that are held out, by their paths.

    Raises:
      ValueError: it was trained on one of them, or on unknown images.
    """
    known = training_images(workdir)
    if not known:
        raise ValueError(f"{where} was imported without images, so what it was trained on is unknown")
    leaked = [path for path, sha256 in held_out.items() if digest(sha256) in known]
    if leaked:
        raise ValueError(
            f"{where} was trained on {len(leaked)} of the images that are held out here, such as {leaked[0]}; choose "
            "another model, or train one on the training images of this split"
        )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}{SEPARATOR}")
        else:
            yield f"{prefix}{name}", np.asarray(value)
