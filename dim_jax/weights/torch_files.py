"""Safe reader of PyTorch's .pth files, without PyTorch and without executing anything that a file names.

A .pth contains a pickle, and unpickling calls whatever callable the file names. This reader has an allowlist of the few
names that weights and training states need, replaces each with a function defined here, and refuses any other name
before it is looked up. Tensors are views of bytes that are in the file, and copies are limited by its size, so a forged
size allocates no memory.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

# Magic number and version of the legacy format.
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "FloatStorage": np.dtype("float32"),
    "DoubleStorage": np.dtype("float64"),
    "HalfStorage": np.dtype("float16"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("int64"),
    "IntStorage": np.dtype("int32"),
    "ShortStorage": np.dtype("int16"),
    "CharStorage": np.dtype("int8"),
    "ByteStorage": np.dtype("uint8"),
    "BoolStorage": np.dtype("bool"),
    "ComplexFloatStorage": np.dtype("complex64"),
    "ComplexDoubleStorage": np.dtype("complex128"),
}
MOST_TEXT = 2**20  # bytes of a further entry
RESAVE = "save the weights alone with PyTorch: torch.save(model.state_dict(), path)"


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dict.

    Args:
      path: file from `torch.save(model.state_dict(), path)`, in the ZIP format or the legacy one (PyTorch before 1.6).

    Returns:
      name -> array in PyTorch's layout and dtype, read-only; the arrays may share the memory of the file.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is not a PyTorch file, damaged, names anything not allowed, or holds no state dict.
    """
    state_dict = read(path)
    if not isinstance(state_dict, dict):
        raise ValueError(f"{path} holds a {type(state_dict).__name__} and no state dict; {RESAVE}")
    other = [key for key, value in state_dict.items() if not (isinstance(key, str) and isinstance(value, np.ndarray))]
    if other:
        names = ", ".join(str(key)[:40] for key in other[:4] if isinstance(key, str))
        raise ValueError(f"{path} holds more than a state dict ({names or 'keys that are not strings'}); {RESAVE}")
    return dict(state_dict)


def read(path: str | Path) -> Any:
    """Reads nested containers of tensors, numbers and strings, such as a training checkpoint.

    Args:
      path: file from torch.save.

    Returns:
      dicts, lists, tuples, sets, numbers, strings, bytes and read-only arrays, nested as in the file; an OrderedDict
      becomes a dict, a parameter its array, a dtype its name and a device the tuple of its parts.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is not a PyTorch file, damaged, or names anything not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    try:
        if start.startswith(b"PK"):
            return _read_zip(path)
        if start.startswith(b"\x80"):
            return _read_legacy(path)
    except _Refused:
        raise
    except (
        ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, RuntimeError, OSError,
        pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path} is damaged or cut short ({type(error).__name__}); download or save it again"
        ) from error
    kind = "a web page" if start.startswith(b"<") else "empty" if not start else f"one that begins with {start[:16]!r}"
    raise ValueError(f"{path} is not a .pth of PyTorch but {kind}; download or save it again")


def entry(path: str | Path, name: str) -> str | None:
    """Returns the text of a further entry of the archive; None if there is none, or the file is no ZIP archive.

    Compressed entries, and any of more than MOST_TEXT bytes, count as none.
    """
    if not Path(path).is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            matches = [info for info in archive.infolist() if info.filename.split("/")[1:] == [name]]
            if len(matches) != 1 or matches[0].compress_type != zipfile.ZIP_STORED or matches[0].file_size > MOST_TEXT:
                return None
            return archive.read(matches[0]).decode("utf-8")
    except (OSError, ValueError, LookupError, RuntimeError, OverflowError, struct.error, zipfile.BadZipFile):
        return None


class _Refused(ValueError):
    """A file that is readable but refused; its message is complete."""


class _StorageInfo(NamedTuple):
    """A storage as a pickle declares it; not verified yet."""

    key: str
    dtype: np.dtype
    count: int  # type: ignore[assignment]  # hides tuple.count


class _Storage(NamedTuple):
    """The values of a storage, flat. Only this module creates instances, so no view can pose as a storage."""

    values: np.ndarray


class _Parameter:
    """Stand-in for torch.nn.Parameter, which the first versions of PyTorch pickled."""

    def __init__(self, data: Any = None, *_: Any):
        self.data = data

    def __setstate__(self, state: tuple) -> None:
        if len(state) == 5:
            self.data = state[0]


class _Dict(dict):
    """Stand-in for OrderedDict, which ignores any attributes that a pickle sets."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value.data if isinstance(value, _Parameter) else value)

    def __setstate__(self, state: Any) -> None:
        del state


class _Unpickler(pickle.Unpickler):
    """Unpickler of containers, numbers, strings and tensors.

    Attributes:
      path: path of the file, for messages.
      budget: number of values that may still be copied; a value that is in the file once takes at least a byte.
      load_storage: loads a declared storage.
      stand_ins: (module, name) that a file may name -> function or value used in its place.
    """

    def __init__(self, stream: io.BytesIO, path: Path, load: Callable[[_StorageInfo], _Storage], make_tensor: Callable):
        super().__init__(stream, encoding="utf-8")
        self.path, self.load_storage, self.budget = path, load, len(stream.getvalue())

        # Local functions: attributes that a pickle sets on them do not outlive this unpickler.
        def tensor(*arguments: Any) -> Any:
            return make_tensor(path, *arguments)

        def copy(kind: Callable[[Any], Any], values: Collection) -> Any:
            self.budget -= len(values)
            if self.budget < 0:
                raise ValueError("more copies than the file holds")
            return kind(values)

        def ordered_dict(pairs: Collection = ()) -> _Dict:
            result = _Dict()
            for key, value in copy(list, pairs):
                result[key] = value
            return result

        self.stand_ins = {
            ("collections", "OrderedDict"): ordered_dict,
            ("torch._utils", "_rebuild_tensor"): tensor,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch.nn.parameter", "Parameter"): _Parameter,
            ("torch", "Size"): lambda values=(): copy(tuple, values),
            ("torch", "device"): lambda *parts: parts,
            ("_codecs", "encode"): lambda text, _: copy(lambda text: text.encode("latin1"), text),
            **{("torch", dtype.name): dtype.name for dtype in STORAGES.values()},
            **{(module, name): name for module in ("torch", "torch.cuda") for name in STORAGES},
        }
        for module in ("builtins", "__builtin__"):
            self.stand_ins[module, "set"] = lambda values=(): copy(set, values)
            self.stand_ins[module, "frozenset"] = lambda values=(): copy(frozenset, values)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.stand_ins:
            raise _Refused(
                f"{self.path} asks for {module}.{name}, which is not needed to store weights; nothing was run. "
                f"If you trust where it comes from, {RESAVE}"
            )
        return self.stand_ins[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise _Refused(f"{self.path} holds a whole model or a view of a storage; {RESAVE}")
        if not (type(count) is int and count >= 0 and isinstance(key, str | int)):
            raise ValueError("a storage without a key or a size")
        return self.load_storage(_StorageInfo(str(key), STORAGES[storage], count))


def _strided(path: Path, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """Returns a tensor as a view of its storage, checked to be inside it."""
    is_valid = all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    if not (type(storage) is _Storage and len(size) == len(stride) <= 32 and is_valid):
        raise ValueError("a tensor without a storage, a size or strides")
    values, count = storage.values, math.prod(size)
    end = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1 if count else 0
    # A tensor that repeats values by a stride of 0 is small in the file but may be large in memory.
    if max(count, end) > values.size:
        raise _Refused(
            f"{path} claims a tensor of {max(count, end)} values where its storage holds {values.size}; download or "
            "save it again (one made by expand(): after clone())"
        )
    strides = [step * values.itemsize for step in stride] if count else None
    return np.ndarray(size, values.dtype, values, offset * values.itemsize if count else 0, strides)


def _unpickle(
    stream: io.BytesIO, path: Path, load: Callable[[_StorageInfo], _Storage], make_tensor: Callable = _strided
) -> Any:
    """Unpickles the next object of `stream`."""
    start = stream.tell()
    for operation, argument, position in pickletools.genops(stream):
        # The unpickler allocates its memo up to the largest index, so an index must not exceed the position.
        if "PUT" in operation.name and int(argument) > position:
            raise ValueError("a memo index beyond the file")
    stream.seek(start)
    return _Unpickler(stream, path, load, make_tensor).load()


def _check_size(path: Path, info: _StorageInfo, num_bytes: int) -> None:
    """Raises ValueError if a storage of `num_bytes` is smaller than declared."""
    if info.count * info.dtype.itemsize > num_bytes:
        raise _Refused(
            f"{path} claims {info.count} values of {info.dtype} where it holds {num_bytes} bytes; "
            "download or save it again"
        )


def _read_zip(path: Path) -> Any:
    """Reads the ZIP format: a pickle, and each storage in a separate entry."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        sizes = {entry.filename: entry.file_size for entry in entries}
        roots = [name.split("/")[0] for name in sizes if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise _Refused(f"{path} is a ZIP archive but not one that torch.save wrote; give the .pth itself")
        # Uncompressed entries that do not overlap cannot be larger than the file.
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise _Refused(f"{path} holds compressed or overlapping entries, which PyTorch does not write; {RESAVE}")
        if f"{roots[0]}/byteorder" in sizes:
            _check_order(path, archive.read(f"{roots[0]}/byteorder") == b"little")
        loaded: dict[str, bytes] = {}

        def load(info: _StorageInfo) -> _Storage:
            name = f"{roots[0]}/data/{info.key}"
            _check_size(path, info, sizes.get(name, 0))
            if name not in loaded:
                loaded[name] = archive.read(name) if name in sizes else b""
            return _Storage(np.frombuffer(loaded[name], info.dtype, info.count))

        return _unpickle(io.BytesIO(archive.read(f"{roots[0]}/data.pkl")), path, load)


def _read_legacy(path: Path) -> Any:
    """Reads the legacy format: five pickles (magic number, version, machine, object, keys), then the storages."""
    encoded = path.read_bytes()
    stream = io.BytesIO(encoded)
    infos: dict[str, _StorageInfo] = {}
    storages: dict[str, _Storage] = {}

    def record(info: _StorageInfo) -> None:
        if infos.setdefault(info.key, info).dtype != info.dtype:
            raise ValueError("a storage of two dtypes")

    def load(info: _StorageInfo) -> _Storage:
        _check_size(path, info, storages[info.key].values.nbytes)
        return storages[info.key]

    if _unpickle(stream, path, load) != MAGIC or _unpickle(stream, path, load) != VERSION:
        raise _Refused(f"{path} is a pickle but not one that torch.save wrote; give a .pth of PyTorch")
    _check_order(path, _unpickle(stream, path, load)["little_endian"])
    # The offset of a storage depends on the dtypes of those before it, which only the object pickle has: it is read
    # twice, first for the dtypes.
    start = stream.tell()
    _unpickle(stream, path, record, make_tensor=lambda *_: None)
    for key in _unpickle(stream, path, load):
        info, count = infos[key], int.from_bytes(stream.read(8), "little", signed=True)
        if count < 0:
            raise ValueError("a storage of a negative size")
        offset = stream.tell()
        _check_size(path, info._replace(count=max(count, info.count)), len(encoded) - offset)
        storages[key] = _Storage(np.frombuffer(encoded, info.dtype, count, offset))
        stream.seek(offset + count * info.dtype.itemsize)
    stream.seek(start)
    return _unpickle(stream, path, load)


def _check_order(path: Path, little_endian: bool) -> None:
    if not little_endian:
        raise _Refused(f"{path} was saved on a big-endian machine; {RESAVE} on a little-endian one")
