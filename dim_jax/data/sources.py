"""Image sources: class folders or a manifest.csv. Images are listed, not read."""

import csv
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dim_jax.data.images import SUFFIXES
from dim_jax.runs import files

COLUMNS = ("path", "label", "group", "split")
SEPARATORS = (",", ";", "\t")
LONGEST_HEADER = 2**20  # characters
MOST_SHOWN = 8  # columns in an error message
SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


@dataclass(frozen=True)
class ListedImage:
    """An image as its source lists it, before it is read.

    Attributes:
      path: POSIX path relative to the root of the source.
      label: class name.
      group: patient or case; "" if unknown.
      split: "train", "val" or "test"; "" if the source has no split.
      where: position in the source, for error messages.
    """

    path: str
    label: str
    group: str = ""
    split: str = ""
    where: str = ""


@dataclass(frozen=True)
class Listing:
    """The images of a source.

    Attributes:
      root: folder that the paths of the images are relative to.
      classes: class names in label order.
      images: the images, sorted by path.
      has_split: whether the source assigns each image to a split.
      ignored: files that are not images of a class.
      notes: choices made while listing, for the report.
    """

    root: Path
    classes: tuple[str, ...]
    images: list[ListedImage]
    has_split: bool = False
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_images(
    source: str | Path | None,
    manifest: str | Path | None,
    group_regex: str | None,
    classes: Sequence[str] | None,
    split: str,
) -> Listing:
    """Lists the images of class folders or of a CSV.

    Args:
      source: folder of the images; None takes the folder of the CSV.
      manifest: the CSV; None for class folders.
      group_regex: see `with_groups`; None keeps the groups of the CSV.
      classes: see `class_order`.
      split: requested split method; a split column is used for "auto" and "manifest" only.

    Raises:
      FileNotFoundError, ValueError: as `read_csv`, `read_class_folders`, `with_groups` and `class_order`.
    """
    notes: list[str] = []
    ignored: list[str] = []
    has_split = False
    if manifest:
        root, listed, has_split = read_csv(manifest, source)
        if has_split and split not in ("auto", "manifest"):
            notes.append(f"the split column of {manifest} is ignored because of --split={split}")
        if group_regex and any(item.group for item in listed):
            notes.append(f"the group column of {manifest} is ignored because of --group-regex")
    else:
        root = Path(os.path.abspath(source))
        listed, ignored = read_class_folders(root)
    if group_regex:
        listed = with_groups(listed, group_regex)
    return Listing(root, class_order(listed, classes), listed, has_split, ignored, notes)


def read_csv(path: str | Path, source: str | Path | None = None) -> tuple[Path, list[ListedImage], bool]:
    """Reads a manifest.csv with the columns path, label and optionally group and split.

    Args:
      path: the CSV file (UTF-8, with or without a byte order mark).
      source: folder that the paths are relative to; the folder of the CSV if this is None or lacks the first image.

    Returns:
      The root folder, the listed images sorted by path, and whether there is a split column.

    Raises:
      FileNotFoundError: the CSV or a listed image does not exist.
      ValueError: a column is missing, a cell is empty, a path is listed twice or outside the root, or a split is
        unknown.
    """
    path = Path(os.path.abspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --manifest needs a CSV of path,label[,group][,split]")
    records, has_split = _read_cells(path)
    candidates = [Path(os.path.abspath(folder)) for folder in (source, path.parent) if folder is not None]
    first = records[0][1]["path"]
    root = next((folder for folder in candidates if files.is_file(folder / first)), candidates[0])

    listed: list[Any] = []
    line_of: dict[str, int] = {}
    for line, cells in records:
        where = f"{path}, line {line}"
        for name in ("path", "label"):
            if not cells[name]:
                raise ValueError(f"{where}: the {name} is empty; fill it in or drop the line")
        relative = _inside(cells["path"], root, where)
        if relative in line_of:
            raise ValueError(f"{where}: {relative!r} is already listed in line {line_of[relative]}; keep one of them")
        line_of[relative] = line
        if has_split and cells["split"].lower() not in SPLIT_NAMES:
            raise ValueError(f"{where}: unknown split {cells['split']!r}; use train, val or test")
        if not files.is_file(root / relative):
            raise FileNotFoundError(f"{where}: {root / relative} does not exist; mend the path or drop the line")
        split = SPLIT_NAMES.get(cells["split"].lower(), "")
        listed.append(ListedImage(relative, cells["label"], cells["group"], split, where))
    return root, sorted(listed, key=lambda item: item.path), has_split


def _read_cells(path: Path) -> tuple[list[tuple[int, dict[str, str]]], bool]:
    """Returns (line, cells of COLUMNS) of each record of a CSV, and whether it has a split column.

    Spaces around cells, the case of the header and the separator do not matter, because spreadsheets choose them. Other
    columns are ignored.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline(LONGEST_HEADER)
            separator = max(SEPARATORS, key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            columns = {name: header.index(name) for name in COLUMNS if name in header}
            _check_header(path, header)
            records = []
            for row in reader:
                if len(row) > len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: more cells than columns; put quotes around cells with commas"
                    )
                if row:
                    cells = {name: row[column].strip() for name, column in columns.items() if column < len(row)}
                    records.append((reader.line_num, dict.fromkeys(COLUMNS, "") | cells))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a UTF-8 CSV file ({error}); save it again as CSV UTF-8") from None
    if not records:
        raise ValueError(f"{path} lists no images; it needs one line for each, as path,label[,group][,split]")
    return records, "split" in columns


def _check_header(path: Path, header: Sequence[str]) -> None:
    needed = "needed are path,label[,group][,split]"
    missing = [name for name in ("path", "label") if name not in header]
    if missing:
        raise ValueError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {', '.join(header[:MOST_SHOWN]) or 'none'}; {needed}"
        )
    for name in COLUMNS:
        if header.count(name) > 1:
            raise ValueError(f"{path} has the column {name} {header.count(name)} times; keep one of them")


def _inside(path: str, root: Path, where: str) -> str:
    """Returns `path` as a POSIX path relative to `root`; raises ValueError if it is outside `root`."""
    absolute = Path(os.path.normpath(root / path))
    for folder in (root, root.resolve()):
        if absolute.is_relative_to(folder) and absolute != folder:
            return absolute.relative_to(folder).as_posix()
    raise ValueError(f"{where}: path {path!r} leads outside {root}; give --source as the folder that holds all images")


def read_class_folders(root: str | Path) -> tuple[list[ListedImage], list[str]]:
    """Lists `root/<class>/**/<image>`; hidden files and folders are skipped.

    Returns:
      The images sorted by path, and the ignored files (no image suffix, or not in a class folder).

    Raises:
      FileNotFoundError: `root` is not a folder.
      ValueError: there are no class folders, one holds no images, or a file name is not valid UTF-8.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; --source is phantom or a folder with one folder per class")
    listed: list[Any] = []
    ignored: list[str] = []
    counts: dict[str, int] = {}
    for path in files_below(root):
        relative = path.relative_to(root)
        name = relative.as_posix()
        if not _is_utf8(name):
            raise ValueError(f"{name!r} below {root}: the name is not valid UTF-8; rename it")
        if len(relative.parts) < 2 or path.suffix.lower() not in SUFFIXES:
            ignored.append(name)
        else:
            listed.append(ListedImage(name, relative.parts[0], where=name))
            counts[relative.parts[0]] = counts.get(relative.parts[0], 0) + 1
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no class folders; expected {root.name}/<class>/<image>, or give --manifest")
    empty = [folder for folder in folders if folder not in counts]
    if empty:
        raise ValueError(f"class {empty[0]!r} has no images in {root / empty[0]}; add some or remove the folder")
    return sorted(listed, key=lambda item: item.path), sorted(ignored)


def files_below(root: Path) -> list[Path]:
    """Lists the visible files below `root`; links to folders are followed, each folder once.

    Raises:
      OSError: a folder below `root` cannot be read; skipping it could lose images silently.
    """
    paths, visited = [], set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(folder, name) for name in names if not name.startswith(".")]
    return paths


def _refuse(error: OSError) -> None:
    raise type(error)(
        f"{error.filename}: the folder cannot be read ({error.strerror}); mend its permissions or move it"
    )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_groups(listed: Sequence[ListedImage], pattern: str) -> list[ListedImage]:
    """Sets the group of each image from its path.

    Args:
      listed: the images.
      pattern: regular expression searched in each path; the group is its first capturing group, or else the whole
        match.

    Raises:
      ValueError: the pattern is invalid, or a path does not match it.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group-regex={pattern!r} is not a regular expression: {error}") from None
    grouped = []
    for item in listed:
        match = compiled.search(item.path)
        group = (match.group(1) if compiled.groups else match.group(0)) if match else None
        if not group:
            raise ValueError(f"--group-regex={pattern!r} finds no group in {item.path!r}; widen it or rename the file")
        grouped.append(replace(item, group=group))
    return grouped


def without_classes(listing: Listing, exclude: Sequence[str], classes: Sequence[str] | None) -> Listing:
    """Returns the listing without the images of some classes, with a note of it.

    Args:
      listing: images of all classes.
      exclude: names of the classes to leave out.
      classes: see `class_order`; None keeps the order of `listing`.

    Raises:
      ValueError: a class in `exclude` does not exist, or as `class_order`.
    """
    absent = [name for name in exclude if name not in listing.classes]
    if absent:
        raise ValueError(f"--exclude={absent[0]} is not a class; the classes are {', '.join(listing.classes)}")
    images = [item for item in listing.images if item.label not in exclude]
    note = f"{len(listing.images) - len(images)} images of {', '.join(exclude)} are left out because of --exclude"
    order = classes or [name for name in listing.classes if name not in exclude]
    return replace(listing, classes=class_order(images, order), images=images, notes=[*listing.notes, note])


def class_order(listed: Sequence[ListedImage], names: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the class names in label order.

    Args:
      listed: the images.
      names: class names in label order; None sorts the labels of the images.

    Raises:
      ValueError: a name is repeated or empty, the label of an image is not in `names`, a class has no images, two
        labels differ in spelling only, or there are fewer than two classes.
    """
    labels = sorted({item.label for item in listed})
    normalised: dict[str, str] = {}
    for name in labels:
        other = normalised.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if other != name:
            raise ValueError(
                f"the labels {other!a} and {name!a} differ in spelling only (capitals, spaces or how accents "
                "are written); spell them alike, or rename one if they are two classes"
            )
    if names is None:
        names = labels
    if len(set(names)) != len(names) or not all(names):
        raise ValueError(f"--classes={','.join(names)} has an empty or repeated name; give each class once")
    for item in listed:
        if item.label not in names:
            raise ValueError(f"unknown label {item.label!r} at {item.where}; --classes names {', '.join(names)}")
    empty = [name for name in names if name not in labels]
    if empty:
        raise ValueError(f"class {empty[0]!r} has no images; the images have the labels {', '.join(labels)}")
    if len(names) < 2:
        raise ValueError(f"there is only one class, {names[0]!r}; a classifier needs at least two")
    return tuple(names)
