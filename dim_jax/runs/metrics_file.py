"""Reading metrics.jsonl, the training curves of a run directory."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

FILE_NAME = "metrics.jsonl"

log = logging.getLogger(__name__)


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """Returns the records of `read_lines`; logs a warning that names unreadable lines."""
    records, unreadable = read_lines(workdir)
    if unreadable:
        log.warning("%s", unreadable_text(workdir, unreadable))
    return records


def read_lines(workdir: str | Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Reads the metrics.jsonl of a run directory, which may still be written to.

    Args:
      workdir: run directory.

    Returns:
      The records in the order of the file: objects with a number `step`. And the numbers, from 1, of the lines that
      are no record. A truncated last line, still being written or left by a crash, is in neither list. Both are empty
      where there is no file.
    """
    path = Path(workdir) / FILE_NAME
    if not path.is_file():
        return [], []
    records, unreadable = [], []
    # Not splitlines, which also splits at other characters that a string may contain.
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not is_number(record.get("step")) or abs(record["step"]) >= 2**63:
                raise ValueError
        except (ValueError, RecursionError):
            if number < len(lines):
                unreadable.append(number)
            continue
        records.append(record)
    return records, unreadable


def unreadable_text(workdir: str | Path, numbers: list[int]) -> str:
    """Returns a message that names the unreadable lines of metrics.jsonl.

    Args:
      workdir: run directory.
      numbers: line numbers, from 1.
    """
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{Path(workdir) / FILE_NAME}: {len(numbers)} unreadable line(s): {shown}"


def is_number(value: object) -> bool:
    """Whether a value of a record is a finite number (not a bool)."""
    # An integer too large for a float is excluded; math.isfinite would raise on it.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
