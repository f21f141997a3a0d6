"""Record of the source of a prepared folder, sources.json, and what has changed in the source since."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dim_jax.data import manifest as manifests
from dim_jax.data import spellings
from dim_jax.data.listing import Listing, named
from dim_jax.data.manifest import Manifest
from dim_jax.runs import files

FILE_NAME = "sources.json"
VERSION = 1
COLUMNS = ("size", "label", "group", "split")

Facts = dict[str, Any]  # a value for each of COLUMNS


def write(listing: Listing, folder: str | Path) -> Path:
    """Writes size, label, group and split of every listed image to `folder/sources.json`, and returns its path."""
    rows = {path: list(facts.values()) for path, facts in _facts(listing).items()}
    return files.write_json(Path(folder) / FILE_NAME, {"version": VERSION, "columns": COLUMNS, "images": rows})


def read(folder: str | Path) -> dict[str, Facts] | None:
    """Returns the facts of every image by its path, or None if the folder is from before there were records.

    Raises:
      ValueError: the record is malformed.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return None
    record = files.read_object(path)
    rows = record.get("images")
    is_known = record.get("version") == VERSION and record.get("columns") == list(COLUMNS) and isinstance(rows, dict)
    if not is_known or not all(_is_row(values) for values in rows.values()):
        raise ValueError(f"{path} is no record of images")
    return {name: dict(zip(COLUMNS, values, strict=True)) for name, values in rows.items()}


def _is_row(values: object) -> bool:
    """Returns whether a value of a record is a number and three texts, as COLUMNS."""
    return isinstance(values, list) and [type(value) for value in values] == [int, str, str, str]


def _facts(listing: Listing) -> dict[str, Facts]:
    return {
        item.path: {
            "size": _size(listing.root / item.path),
            "label": item.label,
            "group": item.group,
            "split": item.split,
        }
        for item in listing.images
    }


def _size(path: Path) -> int:
    """Returns the size of a file in bytes, -1 if it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def changes(folder: str | Path, list_source: Callable[[], Listing] | None) -> list[str]:
    """Returns a text for each kind of change since a folder was prepared; nothing if there is none.

    Args:
      folder: the prepared folder.
      list_source: returns the images that the source lists now; None for a source that cannot change. It is not called
        for a folder without a record, as other images might have been listed when it was written.

    Raises:
      FileNotFoundError, ValueError: a file of the prepared folder is damaged, or as `list_source`.
    """
    manifest = manifests.load(folder)
    before = read(folder)
    texts, removed = [], []
    if before is not None and list_source is not None:
        listing = list_source()
        now = _facts(listing)
        moved = _moved(manifest, listing.root, before, now)
        removed = [path for path in before if path not in now and path not in moved]
        added = [path for path in now if path not in before and path not in moved.values()]
        texts += _text("image was added", "images were added", added)
        texts += _text("image is gone", "images are gone", removed)
        texts += _text(
            "image was moved", "images were moved", [f"{old} to {new}" for old, new in sorted(moved.items())]
        )
        new_path = {path: moved.get(path, path) for path in before}
        pairs = {path: (before[path], now[new]) for path, new in new_path.items() if new in now}
        for name in ("label", "group", "split"):
            differing = [
                f"{path} from {old[name] or 'unknown'} to {new[name] or 'unknown'}"
                for path, (old, new) in pairs.items()
                if spellings.key(old[name], name == "group") != spellings.key(new[name], name == "group")
            ]
            texts += _text(f"{name} was changed", f"{name}s were changed", differing)
        resized = [path for path, (old, new) in pairs.items() if old["size"] != new["size"]]
        removed += moved
    else:
        resized = []
    gone = {manifest.root / path for path in removed}
    missing = [str(path) for path in manifests.missing_files(manifest) if path not in gone]
    texts += _text("file is gone", "files are gone", missing)
    changed = [_relative(path, manifest.root) for path in manifests.changed_files(manifest) if path not in gone]
    texts += _text("file was changed", "files were changed", list(dict.fromkeys([*resized, *changed])))
    return texts


def _text(one: str, many: str, items: Sequence[str]) -> list[str]:
    return [f"{len(items)} {one if len(items) == 1 else many} ({named(items)})"] if items else []


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _moved(manifest: Manifest, root: Path, before: dict[str, Facts], now: dict[str, Facts]) -> dict[str, str]:
    """Returns the new path of each image that is gone from its old one and has the same contents at a new one."""
    digests = {row.path.removesuffix(".png") if row.converted else row.path: row.sha256 for row in manifest.rows}
    gone = {digests[path]: path for path in before if path not in now and path in digests}
    sizes = {before[path]["size"] for path in gone.values()}
    moved: dict[str, str] = {}
    for path, facts in now.items():
        if path not in before and facts["size"] in sizes:
            with (root / path).open("rb") as file:
                old = gone.pop(hashlib.file_digest(file, "sha256").hexdigest(), None)
            if old is not None:
                moved[old] = path
    return moved
