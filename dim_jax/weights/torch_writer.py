"""Writer of .pth files without PyTorch, which torch.load(path, weights_only=True) accepts."""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from dim_jax.weights.torch_files import STORAGES

PROTOCOL = 2  # the one that PyTorch writes
ROOT = "archive"
KIND_OF = {dtype: kind for kind, dtype in STORAGES.items()}
EMPTY_DICT = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def encode(tensors: Mapping[str, Any], more: Mapping[str, str] | None = None) -> bytes:
    """Returns a file of arrays by name, or nested dicts of them, in torch.save's ZIP format; equal arrays, equal bytes.

    Args:
      tensors: name -> array in PyTorch's layout, or a nested mapping of the same kind.
      more: name -> text of further entries of the archive, which PyTorch does not read.
    """
    storages: list[bytes] = []
    opcodes = pickle.PROTO + bytes([PROTOCOL]) + _dictionary(tensors, storages) + pickle.STOP
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        entries = {"data.pkl": pickletools.optimize(opcodes), "byteorder": b"little"}
        entries |= {f"data/{key}": values for key, values in enumerate(storages)} | {"version": b"3\n"}
        entries |= {name: text.encode() for name, text in (more or {}).items()}
        for name, entry in entries.items():
            # A new ZipInfo has a fixed date.
            archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), entry)
    return buffer.getvalue()


def _plain(value: Any) -> bytes:
    """Returns the opcodes of a number, a string, or a tuple of them."""
    return pickle.dumps(value, PROTOCOL)[2:-1]


def _dictionary(tensors: Mapping[str, Any], storages: list[bytes]) -> bytes:
    """Returns the opcodes of a mapping of arrays, and appends the arrays' bytes to `storages`."""
    items = b"".join(
        _plain(name) + (_dictionary if isinstance(value, Mapping) else _tensor)(value, storages)
        for name, value in tensors.items()
    )
    return EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS


def _tensor(array: np.ndarray, storages: list[bytes]) -> bytes:
    """Returns the opcodes of a tensor, and appends its bytes to `storages` as a separate storage."""
    array = np.asarray(array, order="C")
    kind = b"ctorch\n" + KIND_OF[array.dtype].encode() + b"\n"
    parts = (_plain("storage"), kind, _plain(str(len(storages))), _plain("cpu"), _plain(array.size))
    storage = pickle.MARK + b"".join(parts) + pickle.TUPLE + pickle.BINPERSID
    stride = tuple(step // array.itemsize for step in array.strides)
    view = (storage, _plain(0), _plain(array.shape), _plain(stride), pickle.NEWFALSE, EMPTY_DICT)
    storages.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return REBUILD + pickle.MARK + b"".join(view) + pickle.TUPLE + pickle.REDUCE
