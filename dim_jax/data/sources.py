"""Where images come from: class folders, or a manifest.csv. Lists them; reads no pixels."""

import csv
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dim_jax.data.images import SUFFIXES
from dim_jax.runs import files

COLUMNS = ("path", "label", "group", "split")
SEPARATORS = (",", ";", "\t")
LONGEST_HEADER, MOST_SHOWN = 2**20, 8
SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


@dataclass(frozen=True)
class Listed:
    """An image as a source lists it, before it has been read: `split` is "" when the source names none."""

    path: str
    label: str
    group: str = ""
    split: str = ""
    where: str = ""


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
      root: folder the paths of the images are relative to.
      classes: class names in label order.
      images: the images, sorted by path.
      has_split: whether each image names its split.
      ignored: files passed over.
      notes: decisions a user should know of.
    """

    root: Path
    classes: tuple[str, ...]
    images: list[Listed]
    has_split: bool = False
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def listing(
    source: str | Path | None,
    manifest: str | Path | None,
    group_regex: str | None,
    classes: Sequence[str] | None,
    split: str,
) -> Listing:
    """Lists class folders, or the images of a CSV.

    Args:
      source: folder of the images; None takes the CSV's.
      manifest: CSV, or None for class folders.
      group_regex: see `with_groups`; None keeps the groups of the CSV.
      classes: see `class_order`.
      split: wanted split method: a split column is noted as unused unless this is "auto" or "manifest".

    Raises:
      FileNotFoundError, ValueError: as the functions below.
    """
    notes, ignored, has_split = [], [], False
    if manifest:
        root, listed, has_split = read_csv(manifest, source)
        if has_split and split not in ("auto", "manifest"):
            notes.append(f"the split column of {manifest} is passed over for --split={split}")
        if group_regex and any(item.group for item in listed):
            notes.append(f"the group column of {manifest} is passed over for --group-regex")
    else:
        root = Path(os.path.abspath(source))
        listed, ignored = read_class_folders(root)
    if group_regex:
        listed = with_groups(listed, group_regex)
    return Listing(root, class_order(listed, classes), listed, has_split, ignored, notes)


def read_csv(path: str | Path, source: str | Path | None = None) -> tuple[Path, list[Listed], bool]:
    """Reads a manifest.csv with the columns path, label and optionally group and split.

    Args:
      path: the CSV file (UTF-8, with or without a byte order mark).
      source: folder the paths are relative to; without it, or when the first image is not in it, the CSV's folder.

    Returns:
      The root folder, the listed images sorted by path, and whether there is a split column.

    Raises:
      FileNotFoundError: the CSV or a listed image does not exist.
      ValueError: missing columns, an empty cell, a path listed twice or outside the root, an unknown split.
    """
    path = Path(os.path.abspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --manifest needs a CSV of path,label[,group][,split]")
    records, has_split = _read_cells(path)
    candidates = [Path(os.path.abspath(folder)) for folder in (source, path.parent) if folder is not None]
    first = records[0][1]["path"]
    root = next((folder for folder in candidates if files.is_file(folder / first)), candidates[0])

    listed, line_of = [], {}
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
        listed.append(Listed(relative, cells["label"], cells["group"], split, where))
    return root, sorted(listed, key=lambda item: item.path), has_split


def _read_cells(path: Path) -> tuple[list[tuple[int, dict[str, str]]], bool]:
    """Returns (line, the cells of COLUMNS) of every record of a CSV, and whether it has a split column.

    Spaces around cells, capitals in the header and what separates the cells do not count: a spreadsheet chooses them.
    Of a column that is not in COLUMNS nothing is kept.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline(LONGEST_HEADER)
            separator = max(SEPARATORS, key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            place = {name: header.index(name) for name in COLUMNS if name in header}
            _check_header(path, header)
            records = []
            for row in reader:
                if len(row) > len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: more cells than columns; put quotes around cells with commas"
                    )
                if row:
                    cells = {name: row[at].strip() for name, at in place.items() if at < len(row)}
                    records.append((reader.line_num, dict.fromkeys(COLUMNS, "") | cells))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a UTF-8 CSV file ({error}); save it again as CSV UTF-8") from None
    if not records:
        raise ValueError(f"{path} lists no images; it needs one line for each, as path,label[,group][,split]")
    return records, "split" in place


def _check_header(path: Path, header: Sequence[str]) -> None:
    needed = "needed are path,label[,group][,split]"
    missing = [name for name in ("path", "label") if name not in header]
    if missing:
        raise ValueError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"found {', '.join(header[:MOST_SHOWN]) or 'none'}; {needed}"
        )
    for name in COLUMNS:
        if header.count(name) > 1:
            raise ValueError(f"{path} has the column {name} {header.count(name)} times; keep one of them")


def _inside(path: str, root: Path, where: str) -> str:
    """Returns `path` relative to `root`, POSIX, or raises when it leads outside."""
    absolute = Path(os.path.normpath(root / path))
    for folder in (root, root.resolve()):
        if absolute.is_relative_to(folder) and absolute != folder:
            return absolute.relative_to(folder).as_posix()
    raise ValueError(f"{where}: path {path!r} leads outside {root}; give --source as the folder that holds all images")


def read_class_folders(root: str | Path) -> tuple[list[Listed], list[str]]:
    """Lists `root/<class>/**/<image>`; hidden files and folders are passed over.

    Returns:
      The images sorted by path, and the other files (no image suffix, or not in a class folder), which are ignored.

    Raises:
      FileNotFoundError: `root` is no folder.
      ValueError: there are no class folders, one holds no images, or a file name is not valid UTF-8.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; --source is phantom or a folder with one folder per class")
    listed, ignored, counts = [], [], {}
    for path in files_below(root):
        relative = path.relative_to(root)
        name = relative.as_posix()
        if not _is_utf8(name):
            raise ValueError(f"{name!r} below {root}: the name is not valid UTF-8; rename it")
        if len(relative.parts) < 2 or path.suffix.lower() not in SUFFIXES:
            ignored.append(name)
        else:
            listed.append(Listed(name, relative.parts[0], where=name))
            counts[relative.parts[0]] = counts.get(relative.parts[0], 0) + 1
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no class folders; expected {root.name}/<class>/<image>, or give --manifest")
    empty = [folder for folder in folders if folder not in counts]
    if empty:
        raise ValueError(f"class {empty[0]!r} has no images in {root / empty[0]}; add some or remove the folder")
    return sorted(listed, key=lambda item: item.path), sorted(ignored)


def files_below(root: Path) -> list[Path]:
    """Lists visible files, following links to folders but never round in a circle.

    Raises:
      OSError: a folder below `root` cannot be read, so that it is not known what would be missing.
    """
    found, visited = [], set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return found


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


def with_groups(listed: Sequence[Listed], pattern: str) -> list[Listed]:
    """Sets the group of every image to what `pattern` finds in its path: the first capturing group, or all of it.

    Raises:
      ValueError: the pattern does not compile, or finds nothing in a path.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--group-regex={pattern!r} is not a regular expression: {error}") from None
    result = []
    for item in listed:
        match = compiled.search(item.path)
        group = (match.group(1) if compiled.groups else match.group(0)) if match else None
        if not group:
            raise ValueError(f"--group-regex={pattern!r} finds no group in {item.path!r}; widen it or rename the file")
        result.append(replace(item, group=group))
    return result


def without_classes(listing: Listing, exclude: Sequence[str], classes: Sequence[str] | None) -> Listing:
    """Leaves all images of some classes out, and says so in the notes.

    Args:
      listing: of all classes.
      exclude: names of classes.
      classes: see `class_order`; None keeps the order of `listing`.

    Raises:
      ValueError: a class to leave out is not there, or as in `class_order`.
    """
    absent = [name for name in exclude if name not in listing.classes]
    if absent:
        raise ValueError(f"--exclude={absent[0]} is not a class; the classes are {', '.join(listing.classes)}")
    kept = [item for item in listing.images if item.label not in exclude]
    note = f"{len(listing.images) - len(kept)} images of {', '.join(exclude)} are left out for --exclude"
    order = classes or [name for name in listing.classes if name not in exclude]
    return replace(listing, classes=class_order(kept, order), images=kept, notes=[*listing.notes, note])


def class_order(listed: Sequence[Listed], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the class names in label order: `wanted`, or else those found, sorted.

    Raises:
      ValueError: a name is repeated or empty, an image has a label that is not wanted, a wanted class has no images,
        two labels differ in spelling alone, or there are fewer than two classes.
    """
    found = sorted({item.label for item in listed})
    spelled: dict[str, str] = {}
    for name in found:
        other = spelled.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if other != name:
            raise ValueError(
                f"the labels {other!a} and {name!a} differ in spelling alone (capitals, spaces or how accents "
                "are written); spell them alike, or rename one if they are two classes"
            )
    if wanted is None:
        wanted = found
    if len(set(wanted)) != len(wanted) or not all(wanted):
        raise ValueError(f"--classes={','.join(wanted)} has an empty or repeated name")
    for item in listed:
        if item.label not in wanted:
            raise ValueError(f"unknown label {item.label!r} at {item.where}; --classes names {', '.join(wanted)}")
    empty = [name for name in wanted if name not in found]
    if empty:
        raise ValueError(f"class {empty[0]!r} has no images; the labels found are {', '.join(found)}")
    if len(wanted) < 2:
        raise ValueError(f"there is only one class, {wanted[0]!r}; a classifier needs at least two")
    return tuple(wanted)
