"""Writing training curves: metrics.jsonl, and TensorBoard events where clu can be imported."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.runs import files
from dim_jax.runs.metrics_file import FILE_NAME, read

TENSORBOARD = "tensorboard"


class MetricWriter:
    """Appends one JSON line per logged step to metrics.jsonl, and the same numbers to TensorBoard event files.

    On resume, lines of steps after the restored step are dropped; those steps are logged again.
    """

    def __init__(self, workdir: str | Path, resume_step: int, tensorboard: bool, again: str | None = None):
        """Args:
        workdir: run directory.
        resume_step: number of completed steps.
        tensorboard: also write TensorBoard events if clu, TensorFlow and tensorboard are installed.
        again: split whose line of `resume_step` is dropped too, because that evaluation is repeated.
        """
        self._path = path = Path(workdir) / FILE_NAME
        dropped = (resume_step, again)
        records = [
            record
            for record in read(workdir)
            if record["step"] <= resume_step and (record["step"], record.get("split", "")) != dropped
        ]
        files.write_text(path, "".join(_line(record) for record in records))
        self._file = path.open("a", encoding="utf-8")
        self._wants_tensorboard, self._tensorboard = tensorboard, None

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Appends the line {"step": step, "split": split, **values} and flushes it to disk.

        Raises:
          OSError: it cannot be written, for example because the disk is full.
        """
        with files.naming(self._path):
            self._file.write(_line({"step": step, "split": split, **values}))
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._wants_tensorboard:
            # Imported late: clu imports TensorFlow, which takes seconds and would delay the first step.
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
        """Re-raises errors of TensorFlow as OSError, without importing TensorFlow."""
        try:
            yield
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise OSError(
                f"{self._path.parent / TENSORBOARD}: TensorBoard's events cannot be written ({reason}); fix this, or "
                "do without them by --config.train.tensorboard=False"
            ) from error


class NoMetricWriter:
    """A MetricWriter that writes nothing, for hosts other than host 0."""

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(files.to_json(record)) + "\n"


def _tensorboard_writer(folder: Path):
    try:
        from clu import metric_writers
    except ImportError:
        return None
    return metric_writers.SummaryWriter(str(folder))
