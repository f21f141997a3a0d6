"""Writes that either happen whole or not at all: a temporary file or folder beside the target, then a rename."""

import contextlib
import fcntl
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# What NumPy and zipfile raise for an .npz that is damaged or something else.
NOT_AN_ARCHIVE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, MemoryError, OverflowError, RuntimeError,
    SyntaxError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextlib.contextmanager
def replacement(path: str | Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Yields an empty file or folder beside `path` that takes its place when the block ends without an error.

    Its name is the same for every writer of `path`: what a killed one left is taken over by the next, so that nothing
    piles up, and writers take turns. Parent folders are created. Only an empty folder can be replaced by a folder.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _claim(temporary, is_folder)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            _remove(temporary)
            raise
        finally:
            os.close(lock)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Gives an OSError in the block the name of the file that was to be written: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or Path(error.filename).suffix == ".tmp"):
            error.filename = str(path)
        raise


def _claim(temporary: Path, is_folder: bool) -> int:
    """Makes `temporary` empty and this process its only writer, until the descriptor that is returned is closed."""
    while True:
        if is_folder:
            temporary.mkdir(exist_ok=True)
        else:
            temporary.touch()
        try:
            lock = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # another writer has just moved it into place
            continue
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(temporary), os.fstat(lock)):
                break
        os.close(lock)
    if is_folder:
        for leftover in temporary.iterdir():
            _remove(leftover)
    return lock


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have, such as an endless one, has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes `content` to `path` atomically, creating parent folders, and returns the path."""
    path = Path(path)
    with replacement(path) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
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
    """Returns `value` with NumPy types made plain and non-finite numbers made None, as strict JSON needs."""
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
        content = json.loads(text)
        if "\\u" in text:  # half of a character can be written this way, and would fail wherever it is shown
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is not valid JSON ({reason}); restore it or make it again") from None
    return content


def read_object(path: str | Path) -> dict[str, Any]:
    """Reads a JSON file that must hold an object.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not JSON, or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} and no JSON object; restore it or make it again")
    return content


def read_arrays(path: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz file; those that it does not hold are left out.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such file or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive.files}
    except NOT_AN_ARCHIVE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no whole .npz file ({reason})") from None
