"""The data of every figure and table as CSV: in the page behind a link, and in a folder beside the page."""

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
from dim_jax.runs import files

CONTENTS = "contents.json"
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
LONGEST_STEM = 80


@dataclass(frozen=True)
class Table:
    """The numbers behind one figure.

    Attributes:
      name: of the file, without its ending; unique within a run.
      title: what is in it, in words.
      columns: the header.
      rows: cells of text, numbers, or None for what is undefined; each row as long as `columns`.
      owner: name of the run it belongs to.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    owner: str = ""

    @property
    def file_name(self) -> str:
        """What the table is called where downloads of several runs come together."""
        return file_stem(f"{self.owner}_{self.name}" if self.owner else self.name) + ".csv"

    @property
    def text(self) -> str:
        """The table as CSV (RFC 4180, but lines end in a newline alone)."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([cell(name) for name in self.columns])
        writer.writerows([cell(value) for value in row] for row in self.rows)
        return buffer.getvalue()

    @property
    def address(self) -> str:
        """The table as a data address, so that a link in the page needs no file."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.text.encode("utf-8")).decode("ascii")


def cell(value: Any) -> str:
    """Returns the text of one cell: numbers with ten digits, nothing for what is undefined, and names that stay names.

    A spreadsheet runs text that starts like a formula, so such names, which come from folders and files, get an
    apostrophe in front (OWASP, "CSV injection").
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
    """Returns `name` as letters, digits, dots, dashes and underscores, neither hidden nor empty nor too long."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:LONGEST_STEM].strip(".") or "unnamed"


def unique_stems(names: Iterable[str]) -> list[str]:
    """Returns a file name for each of `names`; names that would fall together, in capitals or not, are numbered."""
    stems: list[str] = []
    taken: set[str] = set()
    for name in names:
        stem, number = file_stem(name), 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{file_stem(name)}_{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def owned(view: Any, owner: str) -> Any:
    """Returns what a page shows with `owner` written into every table in it."""
    if isinstance(view, Table):
        return replace(view, owner=owner)
    if isinstance(view, dict):
        return {key: owned(item, owner) for key, item in view.items()}
    return [owned(item, owner) for item in view] if isinstance(view, list) else view


def collect(view: Any) -> list[Table]:
    """Returns every table within what a page shows, in its order: no link can be without its file."""
    if isinstance(view, Table):
        return [view]
    inner = view.values() if isinstance(view, dict) else view if isinstance(view, list) else ()
    return [table for item in inner for table in collect(item)]


def write(folder: Path, tables: Mapping[str, Sequence[Table]]) -> None:
    """Writes `folder`/<name>/<table>.csv and removes what an earlier call wrote there and this one does not.

    Nothing else in the folder is touched, whoever put it there: the files of a call are listed in CONTENTS.

    Args:
      folder: where to; made if need be.
      tables: name of a subfolder (not yet safe as a file name) to its tables.
    """
    new = {}
    for name, group in zip(unique_stems(tables), tables.values(), strict=True):
        for stem, table in zip(unique_stems(table.name for table in group), group, strict=True):
            new[f"{name}/{stem}.csv"] = table.text
    old = _listed(folder)
    # Both lists first, so that a stop between two files leaves none that no list knows.
    files.write_json(folder / CONTENTS, sorted({*old, *new}))
    for name, text in new.items():
        files.write_text(folder / name, text)
    for name in old - set(new):
        (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it still holds something
            (folder / name).parent.rmdir()
    files.write_json(folder / CONTENTS, sorted(new))


def is_written_here(folder: Path) -> bool:
    """Returns whether `folder` is one that `write` made."""
    return (folder / CONTENTS).is_file() and bool(_listed(folder))


def _listed(folder: Path) -> set[str]:
    """Returns the CSV files an earlier call wrote; a list that was changed by others cannot point outside."""
    try:
        listed = files.read_json(folder / CONTENTS)
    except (OSError, ValueError):
        return set()
    safe = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*\.csv")
    return (
        {name for name in listed if isinstance(name, str) and safe.fullmatch(name)}
        if isinstance(listed, list)
        else set()
    )
