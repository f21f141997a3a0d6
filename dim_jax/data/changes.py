"""Whether the images of a prepared dataset are still those that `prepare` read: by size and time, else by digest."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from dim_jax.data.manifest import Manifest, Row


def changed_files(manifest: Manifest) -> list[Path]:
    """Returns the image files whose content is not the one that was prepared, in the order of the manifest.

    A file of the same size and time of change is taken to be the same; of any other, the SHA-256 is compared. So the
    check costs a look at every file, and reading only those that were touched or copied. A converted image is judged
    by its source, where that is still there. Files that are gone are left to `manifest.missing_files`.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda row: _changed_file(manifest, row), manifest.rows, chunksize=256)
        return [path for path in found if path is not None]


def _changed_file(manifest: Manifest, row: Row) -> Path | None:
    path = manifest.root / (row.path.removesuffix(".png") if row.converted else row.path)
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (row.size, row.modified_ns):
            return None
        # Manifests that were written before there was `size` have none.
        if row.size in (-1, status.st_size) and _sha256(path, status.st_size, status.st_mtime_ns) == row.sha256:
            return None
    except OSError:
        return None
    return path


@cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Once per process and state of the file: an experiment opens its data for every run."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
