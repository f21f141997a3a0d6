"""Local copies in place of the folders in buckets that a command was given; other paths stay as they are."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import filelock

from dim_jax.cli import command_line, stopping
from dim_jax.runs import buckets, locks, workdir
from dim_jax.runs.bucket_copies import BucketCopy, Uploader
from dim_jax.runs.bucket_owner import Owner

BEGINNING, LOCK = "dim_jax-", "lock"
SECONDS_TO_LOCK = 60

AnyPath = TypeVar("AnyPath", str, str | Path)


class LocalPaths:
    """Local copies of the folders in buckets that a command reads and writes; a context manager.

    The copies are in a new folder of the system's folder for temporary files (TMPDIR), as SCHEME/BUCKET/FOLDER, so that
    relative paths between them are right in the bucket too. Messages show the URLs instead. At the end of the block,
    also after an error, what was written is uploaded and the copies are removed.
    """

    def __init__(
        self, take_over: bool = False, on_first_host: Callable[[Callable[[], Any]], Any] = lambda function: function()
    ):
        """Args:
        take_over: replace other owners of the folders to write.
        on_first_host: calls a function on the only host that reads and writes the folders; see hosts.on_first_host.
        """
        self._take_over, self._on_first_host = take_over, on_first_host
        self._ends: list[Callable[[], None]] = []
        self._root: Path | None = None
        self._lock: filelock.FileLock | None = None

    def read(self, path: AnyPath) -> AnyPath:
        """Returns the local path of a folder that is only read."""
        return self._local(path, self._open)

    def update(self, path: AnyPath) -> AnyPath:
        """Returns the local path of a folder to which files are added at the end, whoever its owner is."""
        return self._local(path, self._open_for_update)

    def write(self, path: AnyPath) -> AnyPath:
        """Returns the local path of a folder that has this process for its owner, and is uploaded while it is written.

        Raises:
          ValueError: it has another owner, or `take_over` was given for a folder that is in no bucket.
        """
        if self._take_over and not command_line.is_bucket_url(path):
            raise ValueError(f"--take-over is for a folder in a bucket, and {path} is none; leave it out")
        return self._local(path, self._open_as_owner)

    def in_option(self, arguments: Sequence[str], name: str, local: Callable[[str], str]) -> list[str]:
        """Returns command-line arguments with `local(value)` in place of the value of --NAME=VALUE or --NAME VALUE."""
        result: list[str] = []
        for argument in arguments:
            option, equals, value = argument.partition("=")
            if option.startswith("-") and option.lstrip("-") == name and equals:
                argument = f"{option}={local(value)}"
            elif result and result[-1].startswith("-") and result[-1].lstrip("-") == name:
                argument = local(argument)
            result.append(argument)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._on_first_host(self._end)
        else:
            self._end()  # other hosts may have ended already, and have no copies

    def _local(self, path: AnyPath, open_url: Callable[[str], AnyPath]) -> AnyPath:
        return self._on_first_host(lambda: open_url(str(path))) if command_line.is_bucket_url(path) else path

    def _open(self, url: str) -> str:
        copy = self._new_copy(url)
        copy.download()
        return str(copy.path)

    def _open_for_update(self, url: str) -> str:
        copy = self._new_copy(url)
        copy.download()
        self._ends.append(copy.upload)
        return str(copy.path)

    def _open_as_owner(self, url: str) -> str:
        copy = self._new_copy(url)
        owner = Owner(copy.folder, self._take_over)
        self._ends.append(owner.release)
        copy.download(is_owned=True)
        if owner.has_taken_over and copy.path.is_dir():
            (copy.path / workdir.LOCK).touch()  # what a killed run leaves on disk, so that its files count as a run's
        uploader = Uploader(copy, owner)
        uploader.start()
        self._ends.insert(-1, uploader.finish)
        return str(copy.path)

    def _new_copy(self, url: str) -> BucketCopy:
        folder = buckets.BucketFolder(url)
        if self._root is None:
            place = Path(tempfile.gettempdir())
            _remove_copies_of_killed_processes(place)
            self._root = Path(tempfile.mkdtemp(prefix=BEGINNING, dir=place))
            self._lock = locks.acquire(self._root / LOCK, self._root)
            for scheme in buckets.STORES:
                command_line.show_as(f"{self._root / scheme}/", f"{scheme}://")
        path = self._root / folder.scheme / folder.bucket / folder.prefix
        path.parent.mkdir(parents=True, exist_ok=True)
        return BucketCopy(folder, path)

    def _end(self) -> None:
        """Uploads what was written, and removes the copies if that has succeeded.

        Raises:
          ValueError: a folder was taken over by another process.
          OSError: a bucket cannot be written; the copies are still there.
        """
        if self._root is None:
            return
        errors: list[Exception] = []
        with stopping.deferred():
            for end in self._ends:
                try:
                    end()
                except (OSError, ValueError) as error:
                    errors.append(error)
            self._ends = []
            if errors:
                (self._root / LOCK).unlink(missing_ok=True)  # no later command removes this folder
            self._lock.release()
            if not errors:
                shutil.rmtree(self._root, ignore_errors=True)
        if errors:
            kind = OSError if isinstance(errors[0], OSError) else ValueError
            raise kind(f"{errors[0]}; the local copy is still in {self._root}") from errors[0]


def _remove_copies_of_killed_processes(place: Path) -> None:
    for lock_path in place.glob(f"{BEGINNING}*/{LOCK}"):
        with contextlib.suppress(OSError, NotImplementedError, filelock.Timeout):
            if time.time() - lock_path.stat().st_mtime < SECONDS_TO_LOCK:  # it may just have been made
                continue
            lock = locks.acquire(lock_path, lock_path.parent, wait=False)
            shutil.rmtree(lock_path.parent, ignore_errors=True)
            lock.release()
