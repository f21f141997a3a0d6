"""Images that were moved to another folder since they were prepared."""

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from dim_jax.cli import command_line
from dim_jax.data import manifest as manifests
from dim_jax.data.listing import named
from dim_jax.data.manifest import Manifest, Row
from dim_jax.runs import files, workdir


def relocate(folders: Sequence[str | Path], root: str | Path) -> None:
    """Makes prepared folders and run directories read their images from another folder.

    Every image is compared with its SHA-256 in the manifest; the manifests are rewritten if all are the same.

    Args:
      folders: prepared folders or run directories, which no other process may use meanwhile.
      root: folder that has the images under the same relative paths, or a prepared folder of the same images.

    Raises:
      FileNotFoundError: `root` or an image in it does not exist.
      ValueError: an image is another one, `root` was prepared from others, or another process uses a run.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise FileNotFoundError(f"--data-root={root}: no such folder; give the one that has the images now")
    with contextlib.ExitStack() as held:
        for folder in map(Path, folders):
            is_run = (folder / workdir.CONFIG).is_file()
            held.enter_context(workdir.claim(folder) if is_run else files.turn(folder))
        moved = [(folder, _moved(Path(folder), root)) for folder in folders]
        for folder, manifest in moved:
            manifests.save(manifest, folder)
            command_line.say(
                f"the images of {folder} are read from {manifest.root}: {len(manifest)} of the same SHA-256"
            )


def _moved(folder: Path, root: Path) -> Manifest:
    """Returns the manifest of a folder with its images in `root`, after comparing them."""
    manifest = manifests.load(folder)
    moved = replace(manifest, root=root)
    if (root / manifests.FILE_NAME).is_file():
        prepared = manifests.load(root)
        if prepared.fingerprint != manifest.fingerprint:
            raise ValueError(f"--data-root={root} was prepared from other images than {folder}; give their folder")
        places = {name: getattr(prepared, name) for name in ("root", "converted_root", "packed", "prepared")}
        moved = replace(manifest, **places)
    missing = [str(path) for path in manifests.missing_files(moved)]
    if missing:
        raise FileNotFoundError(
            f"--data-root={root} lacks {len(missing)} of the {len(moved)} images of {folder}: {named(missing)}; give "
            "the folder that has all of them under the same names"
        )
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        rows = list(pool.map(lambda row: _compared(moved, row), moved.rows, chunksize=64))
    differing = [row.path for row, compared in zip(moved.rows, rows, strict=True) if compared is None]
    if differing:
        raise ValueError(
            f"--data-root={root} has other images than {folder}: the SHA-256 of {len(differing)} of {len(moved)} "
            f"differs ({named(differing)}); give the folder that has the same images"
        )
    return replace(moved, rows=tuple(row for row in rows if row is not None))


def _compared(manifest: Manifest, row: Row) -> Row | None:
    """Returns the row with the time of its file, so that it need not be read again; None if it is another image."""
    path = manifests.source_file(manifest, row)
    try:
        status = path.stat()
        digest = manifests.sha256(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return row if row.converted else None  # the converted image is there, which is all that is read
    return replace(row, size=status.st_size, modified_ns=status.st_mtime_ns) if digest == row.sha256 else None
