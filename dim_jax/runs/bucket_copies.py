"""A local copy of a folder in a bucket: downloaded at the start, and uploaded in an order that a kill may interrupt."""

import _thread
import logging
import re
import shutil
import signal
import threading
import time
from pathlib import Path

from dim_jax.runs import files
from dim_jax.runs.bucket_owner import Owner
from dim_jax.runs.buckets import BucketFolder
from dim_jax.runs.metrics_file import FILE_NAME as METRICS
from dim_jax.runs.workdir import DIGESTS

SECONDS = 10.0  # between two uploads while a command runs
# Folders that are written elsewhere and renamed, so that locally they are always complete -> their last file.
WHOLE = {re.compile(r"((?:.*/)?(?:checkpoints|best)/\d+)/.+"): DIGESTS, re.compile(r"(data)/.+"): "split.json"}
ATTEMPTS = 3  # to download a run that is being trained
NOT_DOWNLOADED = re.compile(r"(.*/)?(tensorboard|profile)/.+")  # a resumed run writes further files there
# Files by which a folder of ours is recognised, in it or in a folder of a class.
MARKS = frozenset({"config.json", "pool.json", "selected.json", "rejected.json", "predictions.json", "manifest.json"})

Stamp = tuple[int, int, int]  # size, time of the last change and number of a file

log = logging.getLogger(__name__)


class BucketCopy:
    """The local copy of a folder in a bucket.

    What begins with a dot (locks and temporary files) is only here.

    Attributes:
      folder: the folder in the bucket.
      path: the local copy.
    """

    def __init__(self, folder: BucketFolder, path: Path):
        self.folder, self.path = folder, path
        self._stored: dict[str, Stamp] = {}  # local files that are in the bucket
        self._incomplete: list[str] = []

    def download(self, is_owned: bool = False) -> None:
        """Downloads the folder, without the checkpoints that were not uploaded to their end.

        Args:
          is_owned: whether nobody else writes there; then such checkpoints are deleted by the next upload.

        Raises:
          ValueError: the folder has files, but none that dim_jax would have written.
          OSError: the bucket or the local disk fails.
        """
        for attempt in range(1, ATTEMPTS + 1):
            listed = {name: entry for name, entry in self.folder.list().items() if not _is_hidden(name)}
            if listed and not any(name.split("/")[-1] in MARKS and name.count("/") < 2 for name in listed):
                raise ValueError(f"{self.folder.url} holds no run, pool or selection, but {next(iter(listed))}")
            incomplete = sorted(name for name in listed if (_last_file(name) or name) not in listed)
            names = sorted(listed.keys() - incomplete - {name for name in listed if NOT_DOWNLOADED.fullmatch(name)})
            try:
                self.folder.download({name: self.path / name for name in names})
                for name in names:
                    if (self.path / name).stat().st_size != listed[name].size:
                        raise FileNotFoundError(f"{self.folder.url}/{name} has changed; run the same command again")
                break
            except FileNotFoundError:
                shutil.rmtree(self.path, ignore_errors=True)
                if attempt == ATTEMPTS:
                    raise
        self._incomplete = incomplete if is_owned else []
        self._stored = {name: stamp for name, stamp in self._files().items() if name in names}

    def upload(self) -> None:
        """Makes the bucket's folder equal to the copy.

        Files are uploaded in the order in which they were written, after the metrics: so the bucket is at any time in a
        state in which the run could have been killed, and a checkpoint has its digests last.

        Raises:
          OSError: the bucket cannot be written.
        """
        present = self._files()
        for name in sorted(present, key=lambda name: _place(name, present[name])):
            path = self.path / name
            if self._stored.get(name) == present[name] or not self._is_due(path):
                continue
            try:
                self.folder.upload(name, path)
            except FileNotFoundError:
                if path.exists():
                    raise
                continue  # a checkpoint that was removed meanwhile
            self._stored[name] = present[name]
        gone = [name for name in self._stored if not (self.path / name).exists()]
        # Without its digests a checkpoint counts as incomplete; with them it would count as damaged.
        self.folder.delete(sorted(gone, key=lambda name: not name.endswith(DIGESTS)) + self._incomplete)
        self._incomplete = []
        for name in gone:
            del self._stored[name]

    def _is_due(self, path: Path) -> bool:
        """Whether all files of a checkpoint are in the bucket, if `path` has its digests; True for any other file."""
        if path.name != DIGESTS:
            return True
        try:
            listed = files.read_object(path)
        except FileNotFoundError:
            return False
        return all((path.parent / name).relative_to(self.path).as_posix() in self._stored for name in listed)

    def _files(self) -> dict[str, Stamp]:
        """Returns the stamps of the files by name."""
        stamps = {}
        for path in self.path.rglob("*"):
            name = path.relative_to(self.path).as_posix()
            if _is_hidden(name):
                continue
            try:
                if path.is_file():
                    status = path.stat()
                    stamps[name] = (status.st_size, status.st_mtime_ns, status.st_ino)
            except FileNotFoundError:  # removed meanwhile
                continue
        return stamps


class Uploader(threading.Thread):
    """Uploads a copy every SECONDS while its owner works on it."""

    def __init__(self, copy: BucketCopy, owner: Owner):
        super().__init__(name="uploader", daemon=True)
        self._copy, self._owner, self._is_ended = copy, owner, threading.Event()

    def run(self) -> None:
        while not self._is_ended.wait(SECONDS):
            try:
                self._owner.check()
                self._copy.upload()
            except OSError as error:
                log.warning("%s; it is tried again", error)
            except ValueError:  # taken over: the command ends as at a signal, and `finish` reports the reason
                _thread.interrupt_main(signal.SIGTERM)
                return

    def finish(self) -> None:
        """Ends the thread and uploads what is not in the bucket yet.

        Raises:
          ValueError: the folder was taken over.
          OSError: the bucket cannot be written; the local copy is complete.
        """
        self._is_ended.set()
        self.join()
        self._owner.check()
        started = time.perf_counter()
        self._copy.upload()
        log.info("%s is complete; the last upload took %.1f s", self._copy.folder.url, time.perf_counter() - started)


def _last_file(name: str) -> str | None:
    """Returns the last file of the folder of WHOLE that a file is in; None where it is in none."""
    return next((f"{match[1]}/{last}" for folder, last in WHOLE.items() if (match := folder.fullmatch(name))), None)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _place(name: str, stamp: Stamp) -> tuple[bool, int, bool, str]:
    """Returns the sort key of a file in the order of upload; times may be as coarse as some milliseconds."""
    return name.split("/")[-1] != METRICS, stamp[1], name == _last_file(name), name
