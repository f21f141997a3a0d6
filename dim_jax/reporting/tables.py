"""CSV tables with the numbers of figures and tables: links in the page, and files in a folder beside it."""

import base64
import contextlib
import csv
import io
import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dim_jax.cli.command_line import printable
from dim_jax.data import csv_files
from dim_jax.runs import files

CONTENTS = "contents.json"
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
LONGEST_STEM = 80


@dataclass(frozen=True)
class Table:
    """The numbers of one figure or table.

    Attributes:
      name: file name without extension, unique within a run.
      title: description in words.
      columns: header.
      rows: cells of text, numbers, or None for undefined values; each row is as long as `columns`.
      owner: name of the run that the table belongs to.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    owner: str = ""

    @property
    def file_name(self) -> str:
        """File name of a download, which contains the name of the run."""
        return file_stem(f"{self.owner}_{self.name}" if self.owner else self.name) + ".csv"

    @property
    def text(self) -> str:
        """The table as CSV (RFC 4180, but with LF line endings)."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([cell(name) for name in self.columns])
        writer.writerows([cell(value) for value in row] for row in self.rows)
        return buffer.getvalue()

    @property
    def address(self) -> str:
        """The table as a data URI, so a link in the page works without a file."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv_files.encode(self.text)).decode("ascii")


def cell(value: Any) -> str:
    """Text of a cell: numbers with ten significant digits, an empty string for undefined values, printable text.

    Spreadsheets evaluate text that starts like a formula. Names come from folders and files, so such text is prefixed
    with an apostrophe (OWASP, "CSV injection").
    """
    if value is None:
        return ""
    if isinstance(value, numbers.Integral):
        return str(value)
    if isinstance(value, numbers.Real):
        return f"{value:.10g}" if math.isfinite(value) else ""
    text = printable(str(value))
    return "'" + text if text.lstrip().startswith(FORMULA_STARTS) else text


def file_stem(name: str) -> str:
    """Safe file name for `name`: letters, digits, dots, dashes and underscores; not hidden, not empty, not too long."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:LONGEST_STEM].strip(".") or "unnamed"


def unique_stems(names: Iterable[str]) -> list[str]:
    """File names for `names`, made unique (ignoring case) by appended numbers."""
    stems: list[str] = []
    used: set[str] = set()
    for name in names:
        stem, number = file_stem(name), 1
        while stem.casefold() in used:
            number += 1
            stem = f"{file_stem(name)}_{number}"
        used.add(stem.casefold())
        stems.append(stem)
    return stems


def owned(view: Any, owner: str) -> Any:
    """Template data with the owner of all its tables set to `owner`."""
    if isinstance(view, Table):
        return replace(view, owner=owner)
    if isinstance(view, dict):
        return {key: owned(item, owner) for key, item in view.items()}
    return [owned(item, owner) for item in view] if isinstance(view, list) else view


def collect(view: Any) -> list[Table]:
    """All tables in template data, in order; every CSV link of the page has its file because both come from these."""
    if isinstance(view, Table):
        return [view]
    inner = view.values() if isinstance(view, dict) else view if isinstance(view, list) else ()
    return [table for item in inner for table in collect(item)]


def write(folder: Path, tables: Mapping[str, Sequence[Table]]) -> None:
    """Writes `folder`/<name>/<table>.csv and removes files of earlier calls that this call does not write.

    Other files in the folder are left alone: the files of a call are listed in CONTENTS.

    Args:
      folder: the folder, created if needed.
      tables: name of a subfolder, made safe as a file name here -> its tables.

    Raises:
      ValueError: a file would be overwritten that no earlier call listed; nothing is written.
    """
    new = {}
    for name, group in zip(unique_stems(tables), tables.values(), strict=True):
        for stem, table in zip(unique_stems(table.name for table in group), group, strict=True):
            new[f"{name}/{stem}.csv"] = table.text
    old = _listed(folder)
    listed = [folder / CONTENTS] if has_contents(folder) else []
    files.check_replaceable([folder / name for name in (CONTENTS, *new)], {*listed, *(folder / name for name in old)})
    # Old and new names are listed first, so that an interruption leaves no unlisted file.
    files.write_json(folder / CONTENTS, sorted({*old, *new}))
    for name, text in new.items():
        files.write_bytes(folder / name, csv_files.encode(text))
    for name in old - set(new):
        (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder is not empty
            (folder / name).parent.rmdir()
    files.write_json(folder / CONTENTS, sorted(new))


def has_contents(folder: Path) -> bool:
    """Whether `folder` has a list of its tables, which may be empty."""
    try:
        return isinstance(files.read_json(folder / CONTENTS), list)
    except (OSError, ValueError):
        return False


def is_written_here(folder: Path) -> bool:
    """Whether `folder` was made by `write`."""
    return (folder / CONTENTS).is_file() and bool(_listed(folder))


def _listed(folder: Path) -> set[str]:
    """Returns the CSV files of an earlier call; names in a modified list that point outside the folder are ignored."""
    try:
        names = files.read_json(folder / CONTENTS)
    except (OSError, ValueError):
        return set()
    safe = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*\.csv")
    return (
        {name for name in names if isinstance(name, str) and safe.fullmatch(name)} if isinstance(names, list) else set()
    )
