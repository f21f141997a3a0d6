"""Writes .pth files without PyTorch, made of nothing but what torch.load(path, weights_only=True) accepts."""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.runs import files
from dim_jax.weights.torch_files import STORAGES

PROTOCOL = 2  # the one that PyTorch writes
ROOT = "archive"
KIND_OF = {dtype: kind for kind, dtype in STORAGES.items()}
EMPTY_DICT = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def write(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Writes arrays by name, or dicts of them, as torch.save does from version 1.6 on; equal arrays give equal bytes.

    Args:
      path: the file.
      content: name -> array in PyTorch's layout, or a mapping like this one.
    """
    storages: list[bytes] = []
    instructions = pickle.PROTO + bytes([PROTOCOL]) + _dictionary(content, storages) + pickle.STOP
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        entries = {"data.pkl": pickletools.optimize(instructions), "byteorder": b"little"}
        entries |= {f"data/{key}": values for key, values in enumerate(storages)} | {"version": b"3\n"}
        for name, entry in entries.items():
            # A ZipInfo of its own has a fixed date.
            archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), entry)
    return files.write_bytes(path, buffer.getvalue())


def _plain(value: Any) -> bytes:
    """Returns the instructions that make a number, a text, or a tuple of them."""
    return pickle.dumps(value, PROTOCOL)[2:-1]


def _dictionary(content: Mapping[str, Any], storages: list[bytes]) -> bytes:
    items = b"".join(
        _plain(name) + (_dictionary if isinstance(value, Mapping) else _tensor)(value, storages)
        for name, value in content.items()
    )
    return EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS


def _tensor(array: np.ndarray, storages: list[bytes]) -> bytes:
    """Puts an array into a storage of its own, and returns the instructions that make a tensor of it."""
    array = np.asarray(array, order="C")
    kind = b"ctorch\n" + KIND_OF[array.dtype].encode() + b"\n"
    parts = (_plain("storage"), kind, _plain(str(len(storages))), _plain("cpu"), _plain(array.size))
    storage = pickle.MARK + b"".join(parts) + pickle.TUPLE + pickle.BINPERSID
    stride = tuple(step // array.itemsize for step in array.strides)
    view = (storage, _plain(0), _plain(array.shape), _plain(stride), pickle.NEWFALSE, EMPTY_DICT)
    storages.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return REBUILD + pickle.MARK + b"".join(view) + pickle.TUPLE + pickle.REDUCE
