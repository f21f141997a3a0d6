"""Curves on disk: JSON lines always, TensorBoard through clu where it can be imported. And the one reader of them."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.runs import files

FILE_NAME = "metrics.jsonl"
TENSORBOARD = "tensorboard"

log = logging.getLogger(__name__)


class MetricWriter:
    """Appends one JSON line per logged step to metrics.jsonl, and the same numbers to TensorBoard event files.

    On resume, lines of steps after the restored one are dropped: they will be written again.
    """

    def __init__(self, workdir: str | Path, resume_step: int, tensorboard: bool, again: str | None = None):
        """Args:
        workdir: run directory.
        resume_step: steps already done.
        tensorboard: also write TensorBoard events if clu, TensorFlow and tensorboard are there.
        again: the split whose line of `resume_step` is dropped as well: it is going to be written again.
        """
        self._path = path = Path(workdir) / FILE_NAME
        dropped = (resume_step, again)
        kept = [
            record
            for record in read(workdir)
            if record["step"] <= resume_step and (record["step"], record.get("split", "")) != dropped
        ]
        files.write_text(path, "".join(_line(record) for record in kept))
        self._file = path.open("a", encoding="utf-8")
        self._wants_tensorboard, self._tensorboard = tensorboard, None

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the line {"step": step, "split": split, **values} and makes sure it is on disk.

        Raises:
          OSError: it cannot be written, for one because the disk is full.
        """
        with files.naming(self._path):
            self._file.write(_line({"step": step, "split": split, **values}))
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._wants_tensorboard:
            # Not before: clu imports TensorFlow, which takes seconds that the first step need not wait for.
            with self._tensorboard_errors():
                self._tensorboard = _tensorboard_writer(self._path.parent / TENSORBOARD)
            self._wants_tensorboard = False
        if self._tensorboard is not None:
            kinds = int | float | np.number
            numbers = {f"{split}/{name}": value for name, value in values.items() if isinstance(value, kinds)}
            with self._tensorboard_errors():
                self._tensorboard.write_scalars(step, numbers)
                self._tensorboard.flush()

    def close(self) -> None:
        with files.naming(self._path):
            self._file.close()
        if self._tensorboard is not None:
            with self._tensorboard_errors():
                self._tensorboard.close()

    @contextlib.contextmanager
    def _tensorboard_errors(self) -> Iterator[None]:
        """Raises an OSError for what TensorFlow raises, without knowing TensorFlow."""
        try:
            yield
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise OSError(
                f"{self._path.parent / TENSORBOARD}: TensorBoard's events cannot be written ({reason}); mend this, or "
                "do without them by --config.train.tensorboard=False"
            ) from error


class NoMetricWriter:
    """Stands in for MetricWriter on hosts that write nothing."""

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """Returns the records of `read_lines`, and logs a warning that names the lines that could not be read."""
    records, unreadable = read_lines(workdir)
    if unreadable:
        log.warning("%s", unreadable_text(workdir, unreadable))
    return records


def read_lines(workdir: str | Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Reads the metrics.jsonl of a run directory, whoever may be writing it.

    Returns:
      The records in the order of the file: objects with a number `step`, whatever else they hold. And the
      numbers (from 1) of the lines that are no record. A last line that is cut off is one still being written, or one
      that a crash left: it is in neither. Both are empty where there is no file.
    """
    path = Path(workdir) / FILE_NAME
    if not path.is_file():
        return [], []
    records, unreadable = [], []
    # Only this ends a line: splitlines would also cut at characters that a text may hold.
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
    """Returns the sentence that tells which lines of metrics.jsonl could not be read."""
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{Path(workdir) / FILE_NAME}: {len(numbers)} unreadable line(s): {shown}"


def is_number(value: object) -> bool:
    """Whether a value of a record is a finite number; true and false are none."""
    # A whole number too large for a float is none either; math.isfinite would raise on it.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(files.to_json(record)) + "\n"


def _tensorboard_writer(folder: Path):
    try:
        from clu import metric_writers
    except ImportError:
        return None
    return metric_writers.SummaryWriter(str(folder))
