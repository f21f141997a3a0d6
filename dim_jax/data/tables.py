"""Tables of images as a source: their columns, and the files that they list."""

import contextlib
import difflib
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dim_jax.data import csv_files, spellings
from dim_jax.data.folder_walk import walk
from dim_jax.data.images import SUFFIXES
from dim_jax.data.listing import SPLIT_NAMES, ListedImage, Listing, named
from dim_jax.data.spellings import plain
from dim_jax.runs import files

COLUMNS = ("path", "label", "group", "split")
NEEDED = "needed are path,label[,group][,split]"
# Other names for the columns, without spaces and with an ending such as _id removed.
SYNONYMS = {
    "path": "file filename filepath image imagepath imagefile img imgpath imagename picture",
    "label": "class classname category target diagnosis klasse diagnose y",
    "group": "patient patienten patientin pat case fall slide wsi schnitt subject participant individual donor person "
    "specimen biopsy biopsie probe proben praparat praparate block befund histo einsendung einsendungs eingangs grp "
    "mrn accession paciente paziente patiente caso",
    "split": "subset set partition fold part phase datasplit usage",
}
# Words that say nothing about which of these a column is.
FILLERS = frozenset({
    "id", "no", "nr", "num", "number", "nummer", "code", "name", "key", "uid", "barcode", "bcr", "submitter",
    "identifier", "pseudonym", "anonymous", "study",
})  # fmt: skip
MOST_SHOWN = MOST_VALUES = 8  # columns in a message, values of one


@dataclass(frozen=True)
class Table:
    """The cells of a table.

    Attributes:
      records: line of the file and the cells of COLUMNS of each image, "" where there are none.
      columns: the columns of COLUMNS that the table has.
      others: names of the other columns that are not empty, and their values in small letters, MOST_VALUES at most.
    """

    records: list[tuple[int, dict[str, str]]]
    columns: tuple[str, ...]
    others: dict[str, set[str]]


def read(
    path: str | Path, source: str | Path | None = None, *, has_group_regex: bool = False, split: str = "auto"
) -> Listing:
    """Lists the images of a table with the columns path, label and optionally group and split.

    Args:
      path: the table: CSV in UTF-8 or UTF-16, with or without a byte order mark or a line `sep=;` before the header,
        separated by commas, semicolons, tabs or bars.
      source: folder that the paths are relative to; the folder of the table if this is None or lacks the first image.
      has_group_regex: whether the groups are read from the paths, so that no group column is needed.
      split: requested split method; a split column is used for "auto" and "manifest".

    Returns:
      The listing without classes, with warnings of the columns and files that are passed over.

    Raises:
      FileNotFoundError: the table or a listed image does not exist.
      ValueError: a column is missing or misspelled, a cell is empty, a path is listed twice or outside the folder, or a
        split is unknown.
    """
    path = Path(os.path.abspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --manifest needs a CSV of path,label[,group][,split]")
    table = _read_cells(path)
    _check_other_columns(path, table, has_group_regex, split in ("auto", "manifest"))
    folder = _folder(path, source, table.records[0][1]["path"])
    listed: dict[str, ListedImage] = {}
    line_of: dict[str, int] = {}
    respelled = []
    for line, cells in table.records:
        where = f"{path}, line {line}"
        for name in ("path", "label"):
            if not cells[name]:
                raise ValueError(f"{where}: the {name} is empty; fill it in or drop the line")
        relative, is_respelled = folder.find(cells["path"], where)
        if relative in listed:
            raise ValueError(f"{where}: {relative!r} is already listed in line {line_of[relative]}; keep one of them")
        part = SPLIT_NAMES.get(plain(cells["split"]), "")
        if "split" in table.columns and not part:
            raise ValueError(f"{where}: unknown split {cells['split']!r}; use train, val or test")
        if not files.is_file(folder.root / relative):
            raise FileNotFoundError(f"{where}: {folder.root / relative} does not exist; fix the path or drop the line")
        if is_respelled:
            respelled.append(f"{cells['path']} is {relative}")
        line_of[relative] = line
        listed[relative] = ListedImage(relative, cells["label"], cells["group"], part, where)
    warnings = []
    if table.others:
        needs_group = "group" not in table.columns and not has_group_regex
        warnings.append(
            f"columns of {path.name} that are not read: {named(list(table.others), MOST_SHOWN)}"
            + ("; if one of them says the patient or case, call it group" if needs_group else "")
        )
    if respelled:
        warnings.append(
            f"{len(respelled)} paths in {path.name} differ from the names of the files in capitals or Unicode form, "
            f"and are taken for them: {named(respelled)}"
        )
    lost = [f"line {line}" for line, cells in table.records if any("\ufffd" in cell for cell in cells.values())]
    if lost:
        warnings.append(
            f"{len(lost)} lines of {path.name} have characters that an earlier conversion lost (\ufffd), so different "
            f"names may have become one: {named(lost)}"
        )
    is_whole = source is not None and folder.root == Path(os.path.abspath(source))
    ignored = [name for name in folder.unlisted(listed, is_whole) if folder.root / name != path]
    unlisted = [name for name in ignored if os.path.splitext(name)[1].lower() in SUFFIXES]
    if unlisted:
        warnings.append(
            f"{len(unlisted)} images in {folder.root} are not listed in {path.name} and left out: {named(unlisted)}"
        )
    images = [listed[name] for name in sorted(listed)]
    return Listing(folder.root, images, has_split="split" in table.columns, ignored=ignored, warnings=warnings)


def read_paths(path: str | Path) -> list[str]:
    """Returns the column path of a table with the columns path and label, such as a list of images to leave out.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such table, or a path is empty.
    """
    path = Path(os.path.abspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a CSV of path,label")
    records = _read_cells(path).records
    for line, cells in records:
        if not cells["path"]:
            raise ValueError(f"{path}, line {line}: the path is empty; fill it in or drop the line")
    return [cells["path"] for _, cells in records]


@dataclass(frozen=True)
class _Folder:
    """The folder that the paths of a table are relative to."""

    root: Path

    @cached_property
    def names(self) -> list[str]:
        """Paths of all files, relative to the root."""
        return sorted(path.relative_to(self.root).as_posix() for path in walk(self.root, must_be_readable=False).files)

    @cached_property
    def by_spelling(self) -> dict[str, list[str]]:
        """The paths by their plain spelling."""
        spelled: dict[str, list[str]] = {}
        for name in self.names:
            spelled.setdefault(plain(name), []).append(name)
        return spelled

    def find(self, cell: str, where: str = "") -> tuple[str, bool]:
        """Returns the relative path of the file that a cell names, and whether it is spelled otherwise on disk.

        Raises:
          ValueError: the path is outside the folder.
        """
        # A backslash is a separator on Windows, and a character like others elsewhere.
        for form in (cell, cell.replace("\\", "/")):
            relative = _inside(form, self.root, where)
            if files.is_file(self.root / relative):
                return relative, False
        similar = self.by_spelling.get(plain(relative), ())
        return (similar[0], True) if len(similar) == 1 else (relative, False)

    def unlisted(self, listed: Collection[str], is_whole: bool) -> list[str]:
        """Returns the files that are not listed.

        Args:
          listed: relative paths of the listed images.
          is_whole: whether the folder was given as that of the images; otherwise, only the folders in it that have
            listed images are searched, as a table may be in a folder of everything.
        """
        if is_whole:
            return [name for name in self.names if name not in listed]
        tops = {name.partition("/")[0] if "/" in name else "" for name in listed}
        paths = [path for top in tops - {""} for path in walk(self.root / top, must_be_readable=False).files]
        if "" in tops:
            paths += [path for path in self.root.iterdir() if path.is_file() and not path.name.startswith(".")]
        return sorted({path.relative_to(self.root).as_posix() for path in paths} - set(listed))


def _folder(path: Path, source: str | Path | None, first: str) -> _Folder:
    """Returns the first of `source` and the folder of the table that has the first image."""
    folders = [_Folder(Path(os.path.abspath(folder))) for folder in (source, path.parent) if folder is not None]
    for folder in folders:
        with contextlib.suppress(ValueError):
            if first and files.is_file(folder.root / folder.find(first)[0]):
                return folder
    return folders[0]


def _inside(path: str, root: Path, where: str) -> str:
    """Returns `path` as a POSIX path relative to `root`; raises ValueError if it is outside `root`."""
    absolute = Path(os.path.normpath(root / path))
    for folder in (root, root.resolve()):
        if absolute.is_relative_to(folder) and absolute != folder:
            return absolute.relative_to(folder).as_posix()
    raise ValueError(f"{where}: path {path!r} leads outside {root}; give --source as the folder that holds all images")


def _read_cells(path: Path) -> Table:
    """Reads the cells of a table.

    Spaces around cells, the case of the header, empty lines and columns, and the separator do not matter, because
    spreadsheets choose them.
    """
    known = {*COLUMNS, *" ".join(SYNONYMS.values()).split()}
    rows = csv_files.rows(path, lambda cell: _letters(cell) in known)
    _, header = next(rows, (0, []))
    names = [plain(name) for name in header]
    _check_header(path, names, header)
    columns = {name: names.index(name) for name in COLUMNS if name in names}
    records: list[tuple[int, dict[str, str]]] = []
    values: dict[int, set[str]] = {}
    for line, row in rows:
        filled = [number for number, cell in enumerate(row) if cell and not cell.isspace()]
        if filled[-1] >= len(header):
            raise ValueError(f"{path}, line {line}: more cells than columns; put quotes around cells with commas")
        for number in filled:
            if len(seen := values.setdefault(number, set())) < MOST_VALUES:
                seen.add(row[number].strip().lower())
        cells = {name: _without_quotes(row[column]) for name, column in columns.items() if column < len(row)}
        records.append((line, dict.fromkeys(COLUMNS, "") | cells))
    if not records:
        raise ValueError(f"{path} lists no images; it needs one line for each, as path,label[,group][,split]")
    others = {
        name.strip() or f"number {number + 1}, without a name": values.get(number, set())
        for number, name in enumerate(header)
        if number not in columns.values() and (name.strip() or number in values)
    }
    return Table(records, tuple(columns), others)


def _without_quotes(cell: str) -> str:
    """Returns a cell without the spaces, and the typographic quotes on both sides, that word processors write."""
    cell = cell.strip()
    is_quoted = len(cell) > 1 and cell[0] in "\u201c\u201e\u00ab\u00bb" and cell[-1] in "\u201d\u201c\u00bb\u00ab"
    return cell[1:-1].strip() if is_quoted else cell


def _check_header(path: Path, names: Sequence[str], header: Sequence[str]) -> None:
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        hints = [f"{other} to {name}" for name in missing for other in header if _is_near(other, name)]
        raise ValueError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {', '.join(filter(None, names[:MOST_SHOWN])) or 'none'}; {NEEDED}"
            + (f"; rename {' or '.join(hints[:2])}" if hints else "")
        )
    for name in COLUMNS:
        if names.count(name) > 1:
            raise ValueError(f"{path} has the column {name} {names.count(name)} times; keep one of them")


def _check_other_columns(path: Path, table: Table, has_group_regex: bool, uses_split: bool) -> None:
    """Raises ValueError if a column that is not read may be meant as the group or the split, and there is none."""
    doubts = []
    for name, is_used, meaning, option in (
        ("group", not has_group_regex, "the patient or case", "prepare with --group-regex"),
        ("split", uses_split, "train, val or test", "prepare with --split=group"),
    ):
        near = [
            other
            for other, values in table.others.items()
            if _is_near(other, name) or (name == "split" and "train" in values and values <= SPLIT_NAMES.keys())
        ]
        if is_used and near and name not in table.columns:
            doubts.append(f"call the column {near[0]!r} {name} if it says {meaning}, or else drop it or {option}")
    if doubts:
        raise ValueError(
            f"{path} has columns that are not read: {named(list(table.others), MOST_SHOWN)}; {'; '.join(doubts)}"
        )


def _is_near(other: str, name: str) -> bool:
    """Returns whether a column is a synonym or a misspelling of `name`."""
    folded = spellings.unaccented(plain(other))
    letters = re.sub(r"[^a-z]", "", folded)
    word = re.sub(r"(id|no|nr|number|code|name|nummer|num|kennung|kennzeichen)?s?$", "", letters)
    parts = set(re.findall("[a-z]+", folded)) - FILLERS
    synonyms = SYNONYMS[name].split()
    # Misspellings are compared only at similar length, as the ratio takes time.
    is_similar = abs(len(letters) - len(name)) <= 2 and difflib.SequenceMatcher(None, letters, name).ratio() >= 0.79
    return word in synonyms or letters in synonyms or is_similar or (bool(parts) and parts <= set(synonyms))


def _letters(column: str) -> str:
    """Returns the Latin letters in the name of a column, without accents."""
    return re.sub(r"[^a-z]", "", spellings.unaccented(plain(column)))
