"""Curves on disk: JSON lines always, TensorBoard through clu where it can be imported."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dim_jax import files

FILE_NAME = "metrics.jsonl"


class MetricWriter:
    """Appends one JSON line per logged step to metrics.jsonl, and the same numbers to TensorBoard event files.

    On resume, lines of steps after the restored one are dropped: they will be written again.
    """

    def __init__(self, workdir: str | Path, resume_step: int, tensorboard: bool):
        """Args:
        workdir: run directory.
        resume_step: steps already done.
        tensorboard: also write TensorBoard events if clu, TensorFlow and tensorboard are there.
        """
        self._path = Path(workdir) / FILE_NAME
        kept = [line for line in _whole_lines(self._path) if json.loads(line)["step"] <= resume_step]
        files.write_text(self._path, "".join(line + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._tensorboard = _tensorboard_writer(Path(workdir) / "tensorboard") if tensorboard else None

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes the line {"step": step, "split": split, **values} and makes sure it is on disk."""
        line = json.dumps(files.to_json({"step": step, "split": split, **values}))
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._tensorboard is not None:
            kinds = int | float | np.number
            numbers = {f"{split}/{name}": value for name, value in values.items() if isinstance(value, kinds)}
            self._tensorboard.write_scalars(step, numbers)
            self._tensorboard.flush()

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def _whole_lines(path: Path) -> list[str]:
    """The lines of a JSON-lines file; a last line cut off by a crash is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and "step" in entry:
            lines.append(line)
    return lines


def _tensorboard_writer(folder: Path):
    try:
        from clu import metric_writers
    except ImportError:
        return None
    return metric_writers.SummaryWriter(str(folder))
