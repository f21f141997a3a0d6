"""Atomic writes and checked reads of files: JSON, text and NumPy archives."""

import contextlib
import errno
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.runs import locks

# Exceptions of NumPy and zipfile for a file that is damaged or not an .npz.
NOT_AN_ARCHIVE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, MemoryError, OverflowError, RuntimeError,
    SyntaxError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
# Errors of network file systems that have no locks: writers then take no turns.
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


@contextlib.contextmanager
def replacement(path: str | Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Yields an empty temporary file or folder that replaces `path` when the block ends without an error.

    The temporary is `.NAME.tmp` beside `path`, the same for every writer, so a writer overwrites what a killed one
    left. Writers of one path take turns by a lock, `.NAME.lock`, which exists only while it is held. Parent folders are
    created. A folder can replace only an empty folder.

    Raises:
      ValueError: another process wrote the folder while this one waited for its turn.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        was_filled = is_folder and _is_filled(path)
        with _writer_lock(path.with_name(f".{path.name}.lock"), path):
            if is_folder and _is_filled(path) and not was_filled:
                raise ValueError(f"{path} was written by another process meanwhile; run the same command again")
            _make_empty(temporary, is_folder)
            try:
                yield temporary
                os.replace(temporary, path)
            except BaseException:
                _remove(temporary)
                raise


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Sets the file name of an OSError raised in the block, if it has none or a temporary one, to `path`.

    The error of a full disk has no file name.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or Path(error.filename).suffix in (".tmp", ".lock")):
            error.filename = str(path)
        raise


def leftovers(folder: Path) -> list[Path]:
    """Returns the temporaries and locks of writers in `folder`, which killed ones leave behind."""
    return [*folder.glob(".*.tmp"), *folder.glob(".*.lock")]


def remove_leftovers(folder: Path) -> None:
    """Removes the temporaries and locks that killed writers left in `folder`; no other process may write there."""
    for leftover in leftovers(folder):
        _remove(leftover)


@contextlib.contextmanager
def turn(folder: str | Path) -> Iterator[None]:
    """Within the block no other process that calls this writes into `folder`; it waits until others have finished.

    The lock is `.NAME.turn.lock` beside the folder, whose parents are created, and removed again after an error, or in
    it if only the folder itself is writable, as that of a mounted volume.

    Raises:
      OSError: the lock cannot be created, or is another user's.
    """
    folder = Path(os.path.abspath(folder))
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    is_beside = os.access(folder.parent, os.W_OK) or not folder.is_dir()
    try:
        with _writer_lock((folder.parent if is_beside else folder) / f".{folder.name}.turn.lock", folder):
            yield
    except BaseException:
        with contextlib.suppress(OSError):  # a parent is not empty
            for parent in new_parents:
                parent.rmdir()
        raise


@contextlib.contextmanager
def _writer_lock(lock_path: Path, target: Path) -> Iterator[None]:
    """Holds the lock of the writers of `target`, whose file exists only while it is held."""
    lock = None
    with naming(target):
        try:
            lock = locks.acquire(lock_path, target)
        except (OSError, NotImplementedError) as error:
            if not isinstance(error, NotImplementedError) and error.errno not in NO_LOCKS:
                raise
    try:
        yield
    finally:
        if lock:
            with contextlib.suppress(OSError):  # an open file can't be removed on Windows; filelock does it there
                lock_path.unlink()
            lock.release()


def check_replaceable(paths: Iterable[str | Path], listed: Collection[Path] = ()) -> None:
    """Checks that no file would be overwritten that an earlier call of the same command did not write.

    Args:
      paths: files to write.
      listed: files of earlier calls.

    Raises:
      ValueError: a file exists that is not among `listed`, or in the place of a folder.
    """
    foreign = []
    for path in map(Path, paths):
        first = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
        if (first == path and path not in listed) or (first != path and not first.is_dir()):
            foreign.append(first)
    foreign = list(dict.fromkeys(foreign))
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ValueError(
            f"would overwrite {foreign[0]}{more}, which no earlier call of this command listed; move it, or choose "
            "another --out"
        )


def _is_filled(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _make_empty(path: Path, is_folder: bool) -> None:
    if is_folder:
        path.mkdir(exist_ok=True)
        for leftover in path.iterdir():
            _remove(leftover)
    else:
        path.write_bytes(b"")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_file(path: Path) -> bool:
    """Whether `path` is a file; False for a name that no file can have, such as one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Writes `data` to `path` atomically, creating parent folders, and returns the path."""
    path = Path(path)
    with replacement(path) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 `text` to `path` atomically."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """Writes `value` as JSON to `path` atomically; NumPy values are allowed, NaN and infinity become null."""
    return write_text(path, json.dumps(to_json(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def to_json(value: Any) -> Any:
    """Converts NumPy arrays and scalars to Python's types, paths to text, and NaN and infinities to None."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\u" in text:  # an escaped lone surrogate is valid JSON and can't be encoded when it is shown
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not valid JSON ({reason}); restore it or make it again") from None
    return value


def read_object(path: str | Path) -> dict[str, Any]:
    """Reads a JSON file that must hold an object.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not JSON, or holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not a JSON object; restore it or make it again")
    return value


def read_arrays(path: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Reads the named arrays of an .npz file; names that the file lacks are left out.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged or not an .npz file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive.files}
    except NOT_AN_ARCHIVE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no whole .npz file ({reason})") from None
