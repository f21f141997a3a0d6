"""Images in buckets: whole folders in a local cache of bounded size, under the same path for every run of this machine.

The cache is ~/.cache/dim_jax/images, under XDG_CACHE_HOME if that is set. Folders that a running process uses are not
removed from it.
"""

import contextlib
import functools
import hashlib
import logging
import os
import shutil
from pathlib import Path

import filelock

from dim_jax.cli import command_line
from dim_jax.runs import buckets, files, locks

LIMIT = "DIM_JAX_IMAGE_CACHE_GIB"
DEFAULT_GIB = 50.0
RECORDS = "folders"  # <key>.json: what a cached folder holds; <key>.<process>.lock: held while a process uses it

log = logging.getLogger(__name__)
_used: list[filelock.FileLock] = []  # held until the process ends


def cache() -> Path:
    """Returns the folder of the cache."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.path.abspath(caches), "dim_jax", "images")


def place(source: str | Path) -> Path:
    """Returns the local path of a folder: its place in the cache for a URL, which need not be downloaded yet.

    Raises:
      ValueError: the URL is wrong.
    """
    if not command_line.is_bucket_url(source):
        return Path(source)
    for scheme in buckets.STORES:
        command_line.show_as(f"{cache() / scheme}/", f"{scheme}://")
    return cache().joinpath(*buckets.split_url(str(source)))


def fetch(source: str | Path) -> Path:
    """Downloads what a folder in a bucket has and its cached copy has not, once in a process; other paths stay.

    Args:
      source: URL of a folder, a path in the cache, or any other path.

    Returns:
      The local path.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the URL is wrong, or the folder does not fit into the cache.
      OSError: the bucket or the local disk fails.
    """
    path = place(source)
    if not path.is_relative_to(cache()):
        return path
    _fetch("{}://{}".format(*str(path.relative_to(cache())).split("/", 1)))
    return path


def local(source: str) -> str:
    """Returns the path of the cached copy of a URL, after `fetch`; any other text stays."""
    return str(fetch(source)) if command_line.is_bucket_url(source) else source


@functools.cache
def _fetch(url: str) -> None:
    folder, path = buckets.BucketFolder(url), place(url)
    objects = {name: entry for name, entry in folder.list().items() if not name.startswith(".")}
    if not objects:
        raise FileNotFoundError(f"{url}: no such folder in the bucket, or an empty one")
    records = cache() / RECORDS
    records.mkdir(parents=True, exist_ok=True)
    record = records / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"
    with files.turn(path):
        _used.append(locks.acquire(record.with_suffix(f".{os.getpid()}.lock"), path))
        versions, size = {name: entry.version for name, entry in objects.items()}, sum(e.size for e in objects.values())
        known = files.read_object(record)["versions"] if record.is_file() else {}
        _make_room(record, size, url)
        for name in known.keys() - versions.keys():
            (path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files are left in the folder
                (path / name).parent.rmdir()
        missing = [name for name in versions if known.get(name) != versions[name] or not (path / name).is_file()]
        if missing:
            log.info("downloading %d of the %d files of %s into %s", len(missing), len(versions), url, cache())
        rest = {name: version for name, version in known.items() if name in versions and name not in missing}
        files.write_json(record, {"url": url, "size": size, "versions": rest})
        folder.download({name: path / name for name in missing})
        for name in missing:
            if (path / name).stat().st_size != objects[name].size:
                raise OSError(f"{url}/{name} came with another size than it is listed with; run the same command again")
        files.write_json(record, {"url": url, "size": size, "versions": versions})


def _make_room(record: Path, size: int, url: str) -> None:
    """Removes the folders that were not used for the longest time until `size` bytes more are within the limit."""
    limit = float(os.environ.get(LIMIT) or DEFAULT_GIB) * 2**30
    oldest_first = sorted(record.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
    sizes = {path: files.read_object(path)["size"] for path in oldest_first if path != record}
    for path in list(sizes):
        if sum(sizes.values()) + size <= limit:
            break
        if not _is_used(path):
            other = place(files.read_object(path)["url"])
            log.info("removing %s from the cache of images", other)
            path.unlink()
            shutil.rmtree(other, ignore_errors=True)
            del sizes[path]
    if sum(sizes.values()) + size > limit:
        raise ValueError(
            f"{url} has {size / 2**30:.3f} GiB, and the cache of images has {limit / 2**30:.3f} GiB, of which "
            f"{sum(sizes.values()) / 2**30:.3f} are in use; set {LIMIT} to more"
        )


def _is_used(record: Path) -> bool:
    for lock_path in record.parent.glob(f"{record.stem}.*.lock"):
        try:
            locks.acquire(lock_path, record, wait=False).release()
        except filelock.Timeout:
            return True
        with contextlib.suppress(OSError):
            lock_path.unlink()
    return False
