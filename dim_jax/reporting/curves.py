"""Learning curves: the metrics.jsonl files of run directories as one tidy table."""

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FILE_NAME = "metrics.jsonl"
CONFIG_NAME = "config.json"
PLACES = ("step", "epoch", "split")


def run_directories(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Checks that all paths are run directories and names them.

    Args:
      paths: folders in which `config.json` or `metrics.jsonl` lies.

    Returns:
      Name to absolute path, in the given order. A name is the last part of the path, or as many last parts as it takes
      to tell the runs apart.

    Raises:
      FileNotFoundError: a path is not a run directory.
      ValueError: no path was given, or one of them twice.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    folders = []
    for path in paths:
        folder = Path(path).resolve()
        if not any((folder / name).is_file() for name in (CONFIG_NAME, FILE_NAME)):
            reason = f"no {CONFIG_NAME} or {FILE_NAME} in it" if folder.is_dir() else "there is no such folder"
            raise FileNotFoundError(f"{path} is not a run directory: {reason}; give the --workdir of a run")
        if folder in folders:
            raise ValueError(f"{path} is given twice; give each run once")
        folders.append(folder)
    if not folders:
        raise ValueError("no run was given; give the --workdir of at least one run")
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, folders, strict=True))


def read_lines(folder: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Reads `folder/metrics.jsonl`.

    Returns:
      The objects in the order of the file, and the numbers (from 1) of the lines that are not one. A last line without
      its end is a line still being written: it is left out of both.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return [], []
    content = path.read_bytes().decode("utf-8", errors="replace")
    records, unreadable = [], []
    lines = content.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not _is_number(record.get("step")):
                raise ValueError
        except (ValueError, RecursionError):
            if number < len(lines):
                unreadable.append(number)
            continue
        records.append(record)
    return records, unreadable


def tidy(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, int, float, float]]:
    """Returns one (split, metric, step, epoch, value) per number, sorted; the epoch is NaN where it is not given.

    A resumed run writes the steps after its checkpoint again; of such repeated values the last one stands. A metric
    that was undefined (null) has the value NaN.
    """
    table: dict[tuple[str, str, int], tuple[float, float]] = {}
    for record in records:
        split, step = str(record.get("split", "")), int(record["step"])
        epoch = float(record["epoch"]) if _is_number(record.get("epoch")) else math.nan
        for metric, value in record.items():
            if metric not in PLACES and (value is None or _is_number(value, finite=False)):
                table[split, metric, step] = epoch, math.nan if value is None else float(value)
    return [(*key, *table[key]) for key in sorted(table)]


def _is_number(value: object, finite: bool = True) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (not finite or math.isfinite(value))


def load_curves(runs: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Reads the learning curves of several runs as one tidy table, for notebooks.

    With pandas, `pandas.DataFrame(load_curves(runs))` is the data frame; without, columns are picked by masks:

        curves = load_curves(["runs/a", "runs/b"])
        chosen = (curves["run"] == "a") & (curves["split"] == "val") & (curves["metric"] == "macro_f1")
        plt.plot(curves["epoch"][chosen], curves["value"][chosen])

    Args:
      runs: run directories, finished or not. A truncated last line of `metrics.jsonl` is one still being written and is
        left out; any other line that cannot be read is left out with a warning.

    Returns:
      Columns of equal length, one row per logged number, sorted by split, metric and step within each run:
      `run` (str: the folder's name, with as many parents as tell the runs apart), `split` (str), `step` (int64),
      `epoch` (float64, NaN where not logged), `metric` (str), `value` (float64, NaN where undefined).

    Raises:
      FileNotFoundError: a path is not a run directory.
      ValueError: a run is given twice, or none is given.
    """
    rows: list[tuple[str, str, str, int, float, float]] = []
    for name, folder in run_directories(runs).items():
        records, unreadable = read_lines(folder)
        if unreadable:
            shown = ", ".join(map(str, unreadable[:5])) + (", ..." if len(unreadable) > 5 else "")
            warnings.warn(f"{folder / FILE_NAME}: {len(unreadable)} unreadable line(s): {shown}", stacklevel=2)
        rows += [(name, *row) for row in tidy(records)]
    columns = list(zip(*rows, strict=True)) or [()] * 6
    run, split, metric, step, epoch, value = columns
    return {
        "run": np.array(run, np.str_),
        "split": np.array(split, np.str_),
        "step": np.array(step, np.int64),
        "epoch": np.array(epoch, np.float64),
        "metric": np.array(metric, np.str_),
        "value": np.array(value, np.float64),
    }
