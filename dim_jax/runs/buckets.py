"""Folders in buckets of S3 and Google Cloud Storage, over fsspec: whole objects are listed, read, written and deleted.

fsspec and the package of the store are imported when the first URL is opened.
"""

import contextlib
import functools
import importlib
import logging
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

STORES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}  # scheme -> package over fsspec, extra of dim_jax
URL = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]*[a-z0-9])/(.+)")
PATIENCE = 60.0  # s for which a request is repeated that fails for a passing reason
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0  # s between two attempts
TIMEOUT = 60  # s without a byte
PARALLEL = 8  # requests at a time
LARGE = 2**26  # bytes from which a file is sent in parts instead of read into memory

# Answers that a repetition does not change.
FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)

# gcsfs logs the traces of errors that it also raises.
LOGGERS = ("gcsfs", "s3fs", "aiobotocore", "botocore")

Value = TypeVar("Value")

log = logging.getLogger(__name__)


def split_url(url: str) -> tuple[str, str, str]:
    """Returns scheme, bucket and folder of s3://BUCKET/FOLDER or gs://BUCKET/FOLDER.

    Raises:
      ValueError: it is no such URL.
    """
    parts = URL.fullmatch(url.rstrip("/"))
    if parts is None or any(part in ("", ".", "..") for part in parts[3].split("/")):
        raise ValueError(f"{url!a} is no folder in a bucket; write s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")
    return parts[1], parts[2], parts[3]


@dataclass(frozen=True)
class StoredObject:
    """An object in a listing.

    Attributes:
      size: in bytes.
      version: text that changes with the contents.
    """

    size: int
    version: str


class BucketFolder:
    """The objects of a bucket whose names begin with a prefix.

    Requests that fail for a passing reason (no connection, too many requests, a fault of the server) are repeated for
    PATIENCE seconds. The errors of all methods are OSErrors of one line, FileNotFoundError among them.

    Attributes:
      url: without a slash at the end.
      scheme, bucket, prefix: the parts of the URL.
    """

    def __init__(self, url: str):
        """Args:
          url: s3://BUCKET/FOLDER or gs://BUCKET/FOLDER.

        Raises:
          ValueError: the URL is wrong, or the package for its store is not installed.
        """
        self.scheme, self.bucket, self.prefix = split_url(url)
        self.url = f"{self.scheme}://{self.bucket}/{self.prefix}"
        self._store = _open_store(self.scheme, url)

    def list(self) -> dict[str, StoredObject]:
        """Returns the objects below the folder by their names relative to it; none where there is no such folder.

        Raises:
          ValueError: a name is that of no file, or of one outside the folder.
        """
        root = f"{self.bucket}/{self.prefix}/"
        try:
            listed = self._call("listed", lambda: self._store.find(root, detail=True))
        except FileNotFoundError:
            return {}
        objects = {
            path.removeprefix(root): StoredObject(int(entry["size"]), str(entry.get("ETag") or entry.get("etag")))
            for path, entry in sorted(listed.items())
            if path.startswith(root) and not path.endswith("/")
        }
        for name in objects:
            if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name:
                raise ValueError(f"{self.url} holds {name!a}, which is no name for a local file; rename or delete it")
        return objects

    def read(self, name: str) -> bytes:
        """Returns the contents of an object."""
        return self._call("read", lambda: self._store.cat_file(self._path(name)), name)

    def download(self, files: dict[str, Path]) -> None:
        """Downloads objects to local files, several at a time; parent folders are created.

        Args:
          files: name -> local file.
        """

        def fetch(name: str) -> None:
            files[name].parent.mkdir(parents=True, exist_ok=True)
            self._call("read", lambda: self._store.get_file(self._path(name), str(files[name])), name)

        with ThreadPoolExecutor(PARALLEL) as pool:
            for _ in pool.map(fetch, files):
                pass

    def write(self, name: str, data: bytes) -> None:
        """Writes an object, replacing what was there."""
        self._call("written", lambda: self._store.pipe_file(self._path(name), data), name)

    def upload(self, name: str, file: Path) -> None:
        """Writes a local file as one object.

        Raises:
          FileNotFoundError: there is no such file any more, or no such bucket.
        """
        if file.stat().st_size < LARGE:
            self.write(name, file.read_bytes())  # a file that grows meanwhile is sent as far as it has been read
        else:
            self._call("written", lambda: self._store.put_file(str(file), self._path(name)), name)

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object on the condition that there is none, which the store checks.

        Returns:
          Whether the object has this data now, also where the answer to an earlier attempt was lost.
        """

        def attempt() -> bool:
            try:
                self._store.pipe_file(self._path(name), data, mode="create")
                return True
            except Exception:
                # Stores differ in the error for an object that exists; what is there does not.
                with contextlib.suppress(FileNotFoundError):
                    return bool(self._store.cat_file(self._path(name)) == data)
                raise

        return self._call("written", attempt, name)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects in this order; those that are gone already are no error."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._call("deleted", functools.partial(self._store.rm_file, self._path(name)), name)

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self.prefix}/{name}"

    def _call(self, verb: str, request: Callable[[], Value], name: str = "") -> Value:
        """Returns the result of a request, repeated if it fails for a passing reason; see the class for its errors."""
        deadline, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
        while True:
            try:
                return request()
            except Exception as error:
                if _is_final(error) or time.monotonic() + pause > deadline:
                    raise _plain(error, f"{self.url}{'/' if name else ''}{name}", verb) from error
                log.debug("%s: %s; trying again", self.url, error)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _open_store(scheme: str, url: str) -> Any:
    """Returns the fsspec file system of a scheme, without a cache of listings."""
    package, extra = STORES[scheme]
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        importlib.import_module(package)
        fsspec = importlib.import_module("fsspec")
    except ImportError as error:
        raise ValueError(f"{url} needs {package} ({error}); install it by pip install 'dim_jax[{extra}]'") from None
    # Repetition is left to BucketFolder, which knows what may be repeated and for how long.
    options: dict[str, Any] = {"timeout": TIMEOUT}
    if scheme == "s3":
        timeouts = {"connect_timeout": 10, "read_timeout": TIMEOUT}
        options = {"config_kwargs": {"retries": {"total_max_attempts": 1}, **timeouts}}
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, **options)
    except Exception as error:
        raise _plain(error, url, "opened") from error


def _is_final(error: Exception) -> bool:
    """Whether a request that failed by this error would fail again."""
    # Kinds of errors are known by name, so that no store's package is needed for another.
    kind = type(error).__name__
    is_refused = "Forbidden" in str(error) or kind in ("NoCredentialsError", "DefaultCredentialsError", "RefreshError")
    return isinstance(error, (*FINAL, ValueError)) or is_refused


def _plain(error: Exception, url: str, verb: str) -> OSError:
    """Returns an error of one line that says what to do."""
    reason = " ".join(str(error).split()) or type(error).__name__
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
    return kind(
        f"{url} cannot be {verb} ({reason[:300]}); check that the bucket exists, and the credentials and the network "
        "of this machine"
    )
