"""Dataset manifest: the images with their labels, groups (patients or cases), digests and sizes."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dim_jax.cli.command_line import shown
from dim_jax.data import bucket_images, images
from dim_jax.runs import files

FILE_NAME = "manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
      path: POSIX path relative to the manifest's `root`, or to its `converted_root` when `converted` is true.
      label: class name.
      group: patient or case; "" when unknown, and the image is then a group of its own.
      sha256: digest of the source file, before any conversion.
      width, height: pixels of the upright image.
      converted: true when `prepare` wrote an upright 8-bit PNG of an image that the decoders cannot read directly.
      size: size of the source file in bytes; -1 when unknown.
      modified_ns: modification time of the source file in ns since the epoch; -1 when unknown.
    """

    path: str
    label: str
    group: str
    sha256: str
    width: int
    height: int
    converted: bool = False
    size: int = -1
    modified_ns: int = -1


@dataclass(frozen=True)
class Manifest:
    """All images of a dataset, ordered by source path.

    Attributes:
      root: absolute folder of the images.
      classes: class names; the index of a name is its integer label.
      rows: the images.
      converted_root: absolute folder of the converted images, if there are any.
      packed: absolute path of the decoded pixels (packed_pixels.py), if `prepare` wrote them.
      prepared: absolute folder that `prepare` wrote, where features of the images are cached; None before `save`.
    """

    root: Path
    classes: tuple[str, ...]
    rows: tuple[Row, ...]
    converted_root: Path | None = None
    packed: Path | None = None
    prepared: Path | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def labels(self) -> np.ndarray:
        """Integer labels, int32 of shape (N,)."""
        index = {name: number for number, name in enumerate(self.classes)}
        return np.array([index[row.label] for row in self.rows], np.int32)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the ordered (path, label, digest) of all rows; equal only if every row is the same image."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(f"{row.path}\0{row.label}\0{row.sha256}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def file(self, index: int) -> Path:
        """Returns the absolute path of the image of row `index`."""
        row = self.rows[index]
        root = self.converted_root if row.converted else self.root
        return root / row.path


def save(manifest: Manifest, folder: str | Path) -> Path:
    """Writes `folder/manifest.json` and returns its path.

    Paths inside `folder` are stored relative to it, so that the folder can be moved, and images in a bucket by its URL.
    """
    folder = Path(os.path.abspath(folder))

    def stored(path: Path | None) -> str | None:
        if path is None:
            return None
        path = Path(os.path.abspath(path))
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else shown(path)

    record = {
        "version": VERSION,
        "root": stored(manifest.root),
        "converted_root": stored(manifest.converted_root),
        "packed": stored(manifest.packed),
        "prepared": stored(manifest.prepared or folder),
        "classes": list(manifest.classes),
        "rows": [asdict(row) for row in manifest.rows],
    }
    return files.write_json(folder / FILE_NAME, record)


def load(folder: str | Path) -> Manifest:
    """Reads `folder/manifest.json`.

    Raises:
      FileNotFoundError: there is no manifest in the folder.
      ValueError: the manifest has another version, is incomplete or inconsistent; the message names the row.
    """
    folder = Path(os.path.abspath(folder))
    path = folder / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it with python -m dim_jax.prepare --out={folder}")
    record = files.read_json(path)
    if not isinstance(record, dict) or record.get("version") != VERSION:
        version = record.get("version") if isinstance(record, dict) else None
        raise ValueError(f"{path} has version {version!r}, expected {VERSION}; prepare the data again")
    missing = [key for key in ("root", "classes", "rows") if key not in record]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; prepare the data again")
    classes = record["classes"]
    if not _is_list_of(classes, str) or not classes or len(set(classes)) != len(classes):
        raise ValueError(f"{path}: 'classes' must be a list of different names, not {classes!r}")
    if not _is_list_of(record["rows"], dict) or not record["rows"]:
        raise ValueError(f"{path}: 'rows' must be a list of one object per image; prepare the data again")
    for key in ("root", "converted_root", "packed", "prepared"):
        if not isinstance(record.get(key), str if key == "root" else str | None):
            raise ValueError(f"{path}: {key!r} must be a path, not {record[key]!r}; prepare the data again")
    known = set(classes)
    rows = tuple(_read_row(row, f"{path}, row {number}", known) for number, row in enumerate(record["rows"]))
    converted_root = record.get("converted_root")
    if converted_root is None and any(row.converted for row in rows):
        raise ValueError(f"{path} has converted images but no 'converted_root'; prepare the data again")
    listed: set[tuple[str, bool]] = set()
    for number, row in enumerate(rows):
        if (row.path, row.converted) in listed:
            raise ValueError(f"{path}, row {number}: {row.path!r} is listed twice; prepare the data again")
        listed.add((row.path, row.converted))

    def absolute(stored: str | None) -> Path | None:
        # Joining with an absolute path gives that path, so this covers all stored forms.
        return None if stored is None else Path(os.path.normpath(folder / bucket_images.place(stored)))

    return Manifest(
        root=absolute(record["root"]),
        classes=tuple(classes),
        rows=rows,
        converted_root=absolute(converted_root),
        packed=absolute(record.get("packed")),
        prepared=absolute(record.get("prepared", ".")),
    )


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _read_row(row: dict, where: str, classes: set[str]) -> Row:
    types: dict[str, Any] = {field.name: field.type for field in fields(Row)}
    optional = {field.name for field in fields(Row) if field.default is not MISSING}
    for name, kind in types.items():
        if name not in row and name not in optional:
            raise ValueError(f"{where} lacks {name!r}; prepare the data again")
        if name in row and type(row[name]) is not kind:
            raise ValueError(f"{where}: {name!r} must be {kind.__name__}, not {row[name]!r}; prepare the data again")
    if row["label"] not in classes:
        raise ValueError(f"{where}: unknown label {row['label']!r}; the classes are {', '.join(sorted(classes))}")
    if _leaves_root(row["path"]):
        raise ValueError(f"{where}: path {row['path']!r} leaves the image folder; prepare the data again")
    return Row(**{name: row[name] for name in types if name in row})


def _leaves_root(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return not parts or path.startswith("/") or ".." in parts


def missing_files(manifest: Manifest) -> list[Path]:
    """Returns the paths of images that no longer exist, in manifest order."""
    return [path for path in map(manifest.file, range(len(manifest))) if not path.is_file()]


def changed_files(manifest: Manifest) -> list[Path]:
    """Returns the image files that have changed since they were prepared, in manifest order.

    A file with the recorded size and modification time counts as unchanged; of any other the SHA-256 is compared, so
    the check costs one `stat` per file and reads only files that were touched or copied. A converted image is checked
    by its source file, if that still exists. Missing files are left to `missing_files`.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        paths = pool.map(lambda row: _changed_file(manifest, row), manifest.rows, chunksize=256)
        return [path for path in paths if path is not None]


def source_file(manifest: Manifest, row: Row) -> Path:
    """Returns the absolute path of the file that an image was prepared from; of a converted one it may not exist."""
    return manifest.root / (row.path.removesuffix(".png") if row.converted else row.path)


def _changed_file(manifest: Manifest, row: Row) -> Path | None:
    path = source_file(manifest, row)
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (row.size, row.modified_ns):
            return None
        # Manifests written before `size` was added have -1.
        if row.size in (-1, status.st_size) and sha256(path, status.st_size, status.st_mtime_ns) == row.sha256:
            return None
    except OSError:
        return None
    return path


@cache
def sha256(path: Path, size: int, modified_ns: int) -> str:
    """Returns the digest of a file, cached by its size and time: an experiment opens its data for every run."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_generated(path: str | Path, classes: Sequence[str], split_sha256: str | None = None) -> list[tuple[Path, int]]:
    """Reads a list of generated images: `{"images": [{"path": ..., "label": ...}, ...]}`; other keys are ignored.

    A `split_sha256` in the list names the split whose training images the GAN was trained on.

    Args:
      path: the JSON file; image paths in it are relative to its folder.
      classes: class names in label order.
      split_sha256: Dataset.split_sha256 of the split to train on; None skips that check.

    Returns:
      (absolute path, integer label) of each image, in the order of the file.

    Raises:
      FileNotFoundError: the list or an image in it does not exist.
      ValueError: the list is malformed, has an unknown label or names another split; or an image differs from its
        digest or, in a list without digests, cannot be read or is not plain (images.inspect).
    """
    path = Path(os.path.abspath(path))
    record = files.read_json(path)
    entries = record.get("images") if isinstance(record, dict) else None
    if not _is_list_of(entries, dict):
        raise ValueError(f'{path} must hold {{"images": [{{"path": ..., "label": ...}}, ...]}}')
    source = record.get("split_sha256")
    if source is not None and split_sha256 is not None and source != split_sha256:
        raise ValueError(
            f"{path} holds images of a GAN that was trained on another split ({str(source)[:12]}, here "
            f"{split_sha256[:12]}), so held-out images may have trained it; train, generate and select on this split"
        )
    index = {name: number for number, name in enumerate(classes)}
    generated = []
    for number, entry in enumerate(entries):
        where = f"{path}, image {number}"
        for key in ("path", "label"):
            if not isinstance(entry.get(key), str):
                raise ValueError(f"{where}: {key!r} must be a string, not {entry.get(key)!r}")
        if entry["label"] not in index:
            raise ValueError(f"{where}: unknown label {entry['label']!r}; the classes are {', '.join(classes)}")
        image = Path(os.path.normpath(path.parent / entry["path"]))
        if not files.is_file(image):
            raise FileNotFoundError(f"{where}: {image} does not exist; generate or select the images again")
        try:
            encoded = images.read_bytes(image)
            if "sha256" not in entry and (fault := images.inspect(encoded, str(image)).conversion):
                raise ValueError(f"{image}: decoders read it differently ({fault}); save it as an RGB PNG of 8 bits")
        except (OSError, ValueError) as error:
            raise ValueError(f"{where}: {error}; generate or select the images again") from None
        if "sha256" in entry and hashlib.sha256(encoded).hexdigest() != entry["sha256"]:
            raise ValueError(f"{where}: {image} was changed since it was listed; generate or select the images again")
        generated.append((image, index[entry["label"]]))
    return generated
