"""Learning curves of run directories, from their metrics.jsonl files, as one table in long format."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.runs import files
from dim_jax.runs.metrics_file import FILE_NAME, is_number, read_lines, unreadable_text

CONFIG_NAME = "config.json"
KEYS = ("step", "epoch", "split")  # fields of a line that are not metrics
# Config fields that do not define an arm: the seed, how images are read, and which files are written.
NOT_COMPARED = (
    "seed", "data.backend", "data.cache_gib", "train.tensorboard", "train.keep_checkpoints",
    "train.checkpoint_seconds_apart",
)  # fmt: skip
UNKNOWN_SEED = -1
COLUMNS = {
    "run": object,
    "arm": object,
    "seed": np.int64,
    "split": object,
    "step": np.int64,
    "epoch": np.float64,
    "metric": object,
    "value": np.float64,
}


def run_directories(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Unique short names of run directories.

    Args:
      paths: folders that contain `config.json` or `metrics.jsonl`.

    Returns:
      Name -> absolute path, in the order of `paths`. A name is the last part of the path, or as many last parts as are
      needed to make the names unique.

    Raises:
      FileNotFoundError: a path is not a run directory.
      ValueError: `paths` is empty or contains a folder twice.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    folders = []
    for path in paths:
        folder = Path(path).resolve()
        if not any((folder / name).is_file() for name in (CONFIG_NAME, FILE_NAME)):
            reason = f"no {CONFIG_NAME} or {FILE_NAME} in it" if folder.is_dir() else "no such folder"
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


def tidy(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, int, float, float]]:
    """Lines of metrics.jsonl in long format: one row per number.

    Args:
      records: decoded lines, in the order of the file. A resumed run logs the steps after its checkpoint again; the
        last value of a step is used.

    Returns:
      Rows (split, metric, step, epoch, value), sorted. The epoch is NaN where it was not logged, the value is NaN where
      the metric was undefined (null).
    """
    table: dict[tuple[str, str, int], tuple[float, float]] = {}
    for record in records:
        split, step = str(record.get("split", "")), int(record["step"])
        epoch = float(record["epoch"]) if is_number(record.get("epoch")) else math.nan
        for metric, value in record.items():
            if metric not in KEYS and (value is None or is_number(value) or isinstance(value, float)):
                table[split, metric, step] = epoch, math.nan if value is None else float(value)
    return [(*key, *table[key]) for key in sorted(table)]


def arms(configs: Mapping[str, dict[str, Any] | None]) -> dict[str, str]:
    """Arm of each run; runs that differ only in their seed belong to the same arm.

    Args:
      configs: run -> its configuration, or None if it has none.

    Returns:
      Run -> its values of the fields in which the configurations differ, except those in NOT_COMPARED, such as
      "loss.name=fafl, loss.m=4". If no field differs, all runs have the name of the first run; a run without a
      configuration has its own name.
    """
    flat = {run: _texts(config) for run, config in configs.items() if config is not None}
    fields = dict.fromkeys(field for texts in flat.values() for field in texts)
    differing = [
        field
        for field in fields
        if field not in NOT_COMPARED and len({texts.get(field) for texts in flat.values()}) > 1
    ]
    # Within a group, the name comes before the other settings.
    groups = list(dict.fromkeys(field.rpartition(".")[0] for field in differing))
    differing.sort(key=lambda field: (groups.index(field.rpartition(".")[0]), not field.endswith(".name")))
    named = {
        run: ", ".join(f"{field}={texts.get(field, 'unset')}" for field in differing) for run, texts in flat.items()
    }
    return {run: named.get(run, run) or next(iter(flat)) for run in configs}


def _texts(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns dotted field name -> value as text; equal numbers (4 and 4.0) have equal texts."""
    texts: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            texts |= _texts(value, f"{prefix}{name}.")
        elif isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
            texts[prefix + name] = str(int(value))
        else:
            texts[prefix + name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return texts


def _config(folder: Path) -> dict[str, Any] | None:
    """Returns the configuration of a run, or None if the file is missing or damaged; a damaged file is warned about."""
    if not (folder / CONFIG_NAME).is_file():
        return None
    try:
        config = files.read_json(folder / CONFIG_NAME)
    except (OSError, ValueError) as error:
        warnings.warn(str(error), stacklevel=3)
        return None
    return config if isinstance(config, dict) else None


def _seed(config: dict[str, Any] | None) -> int:
    seed = (config or {}).get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63 else UNKNOWN_SEED


def load_curves(runs: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Learning curves of several runs as one table in long format, for notebooks.

    `pandas.DataFrame(load_curves(runs))` makes a data frame of it. Without pandas, select rows by a mask:

        curves = load_curves(["runs/a", "runs/b"])
        rows = (curves["run"] == "a") & (curves["split"] == "val") & (curves["metric"] == "macro_f1")
        plt.plot(curves["epoch"][rows], curves["value"][rows])

    Args:
      runs: run directories, finished or not. A truncated last line of `metrics.jsonl` is still being written and is
        skipped; other unreadable lines are skipped with a warning.

    Returns:
      Columns of equal length, one row per logged number, sorted by split, metric and step within each run:
      `run` (str: name of the folder, preceded by parent folders where needed to make it unique), `arm` (str: the
      settings in which its configuration differs from the others, see `arms`), `seed` (int64, -1 if unknown), `split`
      (str), `step` (int64), `epoch` (float64, NaN if not logged), `metric` (str) and `value` (float64, NaN if
      undefined). Columns of text have the dtype object, so equal texts share one Python string.

    Raises:
      FileNotFoundError: a path is not a run directory.
      ValueError: `runs` is empty or contains a run twice.
    """
    folders = run_directories(runs)
    configs = {}
    for name, folder in folders.items():
        configs[name] = _config(folder)
    arm_of = arms(configs)
    parts: dict[str, list[np.ndarray]] = {column: [] for column in COLUMNS}
    for name, folder in folders.items():
        records, unreadable = read_lines(folder)
        if unreadable:
            warnings.warn(unreadable_text(folder, unreadable), stacklevel=2)
        rows = tidy(records)
        split, metric, step, epoch, value = zip(*rows, strict=True) if rows else [()] * 5
        columns = (name, arm_of[name], _seed(configs[name]), split, step, epoch, metric, value)
        for (column, dtype), values in zip(COLUMNS.items(), columns, strict=True):
            part = np.empty(len(rows), dtype)
            part[:] = values
            parts[column].append(part)
    return {column: np.concatenate(values) for column, values in parts.items()}
