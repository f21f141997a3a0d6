"""Reads PyTorch's .pth files without PyTorch, and without running anything that a file asks for.

A .pth holds a pickle, and unpickling calls whatever the file names. This reader knows the few names that weights and
training states need, each with a stand-in of its own here, and refuses any other before it is looked up. Tensors are
views of bytes that the file really holds, and copies are counted against its size: no claim takes memory.
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

# What the legacy format begins with, and its version.
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
RESAVE = "save the weights alone with PyTorch: torch.save(model.state_dict(), path)"


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dict.

    Args:
      path: what `torch.save(model.state_dict(), path)` wrote, in the ZIP format or in the legacy one before 1.6.

    Returns:
      name -> array in PyTorch's layout and dtype, read-only; together they may share the memory of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no file of PyTorch, damaged, asks for something to be run, or holds no state dict.
    """
    content = read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} and no state dict; {RESAVE}")
    other = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, np.ndarray))]
    if other:
        names = ", ".join(str(name)[:40] for name in other[:4] if isinstance(name, str))
        raise ValueError(f"{path} holds more than a state dict ({names or 'names that are no text'}); {RESAVE}")
    return dict(content)


def read(path: str | Path) -> Any:
    """Reads whatever containers of tensors, numbers and text a .pth holds, such as a training checkpoint.

    Returns:
      dicts, lists, tuples, sets, numbers, text, bytes and read-only arrays as they are nested in the file; an
      OrderedDict is a dict, a parameter its array, a dtype its name and a device the tuple of its parts.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no file of PyTorch, damaged, or asks for something to be run.
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
    found = "a web page" if start.startswith(b"<") else "empty" if not start else f"one that begins with {start[:16]!r}"
    raise ValueError(f"{path} is no .pth of PyTorch but {found}; download or save it again")


class _Refused(ValueError):
    """A file that is understood and not wanted; the message says all."""


class _Claim(NamedTuple):
    """What a pickle says of a storage."""

    key: str
    dtype: np.dtype
    count: int


class _Storage(NamedTuple):
    """The values of a storage, flat. Only this module can make one, so no view passes for it."""

    values: np.ndarray


class _Parameter:
    """What the first versions of PyTorch wrote where later ones write a tensor."""

    def __init__(self, data: Any = None, *_: Any):
        self.data = data

    def __setstate__(self, state: tuple) -> None:
        if len(state) == 5:
            self.data = state[0]


class _Dict(dict):
    """Stands in for OrderedDict: keeps the pairs alone, and nothing that a pickle would set beside them."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value.data if isinstance(value, _Parameter) else value)

    def __setstate__(self, state: Any) -> None:
        del state


class _Unpickler(pickle.Unpickler):
    """Unpickles containers, numbers, text and tensors.

    Attributes:
      path: of the file, for what is said of it.
      budget: values that may still be copied: what is written out once takes a byte at least.
      load_storage: turns a claim into a storage.
      known: what stands in for each name that a file may ask for.
    """

    def __init__(self, stream: io.BytesIO, path: Path, load: Callable[[_Claim], _Storage], make_tensor: Callable):
        super().__init__(stream, encoding="utf-8")
        self.path, self.load_storage, self.budget = path, load, len(stream.getvalue())

        # Functions of this one reading: whatever a pickle sets on them goes with it.
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

        self.known = {
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
            self.known[module, "set"] = lambda values=(): copy(set, values)
            self.known[module, "frozenset"] = lambda values=(): copy(frozenset, values)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise _Refused(
                f"{self.path} asks for {module}.{name}, which is not needed to store weights; nothing was run. "
                f"If you trust where it comes from, {RESAVE}"
            )
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count, *view = pid
        if kind != "storage" or any(each is not None for each in view):
            raise _Refused(f"{self.path} holds a whole model or a view of a storage; {RESAVE}")
        if not (type(count) is int and count >= 0 and isinstance(key, str | int)):
            raise ValueError("a storage without a key or a size")
        return self.load_storage(_Claim(str(key), STORAGES[storage], count))


def _strided(path: Path, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """Returns a tensor as a view of its storage, no part of it outside."""
    whole = all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    if not (type(storage) is _Storage and len(size) == len(stride) <= 32 and whole):
        raise ValueError("a tensor without a storage, a size or strides")
    values, count = storage.values, math.prod(size)
    end = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1 if count else 0
    # What repeats its values by a stride of 0 would be small in the file and large in memory.
    if max(count, end) > values.size:
        raise _Refused(
            f"{path} claims a tensor of {max(count, end)} values where its storage holds {values.size}; download or "
            "save it again (one made by expand(): after clone())"
        )
    strides = [step * values.itemsize for step in stride] if count else None
    return np.ndarray(size, values.dtype, values, offset * values.itemsize if count else 0, strides)


def _unpickle(
    stream: io.BytesIO, path: Path, load: Callable[[_Claim], _Storage], make_tensor: Callable = _strided
) -> Any:
    """Unpickles what comes next in `stream`."""
    start = stream.tell()
    for operation, argument, position in pickletools.genops(stream):
        # The unpickler makes room up to the place at which it is told to remember something.
        if "PUT" in operation.name and int(argument) > position:
            raise ValueError("a place beyond the file")
    stream.seek(start)
    return _Unpickler(stream, path, load, make_tensor).load()


def _held(path: Path, claim: _Claim, held: int) -> None:
    """Raises ValueError where a storage of `held` bytes is not as large as claimed."""
    if claim.count * claim.dtype.itemsize > held:
        raise _Refused(
            f"{path} claims {claim.count} values of {claim.dtype} where it holds {held} bytes; "
            "download or save it again"
        )


def _read_zip(path: Path) -> Any:
    """An archive of one pickle and, each in an entry of its own, the storages."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        sizes = {entry.filename: entry.file_size for entry in entries}
        roots = [name.split("/")[0] for name in sizes if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise _Refused(f"{path} is a ZIP archive but not one that torch.save wrote; give the .pth itself")
        # Stored as they are and one after the other, entries cannot be larger than the file.
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise _Refused(f"{path} holds compressed or overlapping parts, which PyTorch does not write; {RESAVE}")
        if f"{roots[0]}/byteorder" in sizes:
            _check_order(path, archive.read(f"{roots[0]}/byteorder") == b"little")
        contents: dict[str, bytes] = {}

        def load(claim: _Claim) -> _Storage:
            name = f"{roots[0]}/data/{claim.key}"
            _held(path, claim, sizes.get(name, 0))
            if name not in contents:
                contents[name] = archive.read(name) if name in sizes else b""
            return _Storage(np.frombuffer(contents[name], claim.dtype, claim.count))

        return _unpickle(io.BytesIO(archive.read(f"{roots[0]}/data.pkl")), path, load)


def _read_legacy(path: Path) -> Any:
    """Five pickles (magic number, version, machine, content, keys of the storages), then the storages."""
    content = path.read_bytes()
    stream = io.BytesIO(content)
    claims: dict[str, _Claim] = {}
    storages: dict[str, _Storage] = {}

    def note(claim: _Claim) -> None:
        if claims.setdefault(claim.key, claim).dtype != claim.dtype:
            raise ValueError("a storage of two dtypes")

    def load(claim: _Claim) -> _Storage:
        _held(path, claim, storages[claim.key].values.nbytes)
        return storages[claim.key]

    if _unpickle(stream, path, load) != MAGIC or _unpickle(stream, path, load) != VERSION:
        raise _Refused(f"{path} is a pickle but not one that torch.save wrote; give a .pth of PyTorch")
    _check_order(path, _unpickle(stream, path, load)["little_endian"])
    # Where a storage lies depends on the dtypes of those before it, and these on the content: it is read twice.
    start = stream.tell()
    _unpickle(stream, path, note, make_tensor=lambda *_: None)
    for key in _unpickle(stream, path, load):
        claim, count = claims[key], int.from_bytes(stream.read(8), "little", signed=True)
        if count < 0:
            raise ValueError("a storage of a negative size")
        place = stream.tell()
        _held(path, claim._replace(count=max(count, claim.count)), len(content) - place)
        storages[key] = _Storage(np.frombuffer(content, claim.dtype, count, place))
        stream.seek(place + count * claim.dtype.itemsize)
    stream.seek(start)
    return _unpickle(stream, path, load)


def _check_order(path: Path, little_endian: bool) -> None:
    if not little_endian:
        raise _Refused(f"{path} was saved on a big-endian machine; {RESAVE} on a common one")
