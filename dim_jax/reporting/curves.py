"""Learning curves: the metrics.jsonl files of run directories as one tidy table."""

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
PLACES = ("step", "epoch", "split")
# What has no part in the numbers: how often a thing was tried, how its images were read, and what was kept of it.
NOT_COMPARED = ("seed", "data.backend", "data.cache_gib", "train.tensorboard", "train.keep_checkpoints")
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


def tidy(records: Sequence[dict[str, Any]]) -> list[tuple[str, str, int, float, float]]:
    """Returns one (split, metric, step, epoch, value) per number, sorted; the epoch is NaN where it is not given.

    A resumed run writes the steps after its checkpoint again; of such repeated values the last one stands. A metric
    that was undefined (null) has the value NaN.
    """
    table: dict[tuple[str, str, int], tuple[float, float]] = {}
    for record in records:
        split, step = str(record.get("split", "")), int(record["step"])
        epoch = float(record["epoch"]) if is_number(record.get("epoch")) else math.nan
        for metric, value in record.items():
            if metric not in PLACES and (value is None or is_number(value) or isinstance(value, float)):
                table[split, metric, step] = epoch, math.nan if value is None else float(value)
    return [(*key, *table[key]) for key in sorted(table)]


def arms(configs: Mapping[str, dict[str, Any] | None]) -> dict[str, str]:
    """Names what each run tries, so that runs which differ in nothing but their seed have one name.

    Args:
      configs: run -> its configuration; None where there is none.

    Returns:
      Run -> the fields in which the configurations differ, with its values, such as "loss.name=fafl, loss.m=4"; fields
      of NOT_COMPARED are left out. Where nothing differs, the name of the first run stands for all of them; a run
      without configuration is named by itself.
    """
    flat = {run: _texts(config) for run, config in configs.items() if config is not None}
    fields = dict.fromkeys(field for texts in flat.values() for field in texts)
    differing = [
        field
        for field in fields
        if field not in NOT_COMPARED and len({texts.get(field) for texts in flat.values()}) > 1
    ]
    # What something is called comes before its settings.
    groups = list(dict.fromkeys(field.rpartition(".")[0] for field in differing))
    differing.sort(key=lambda field: (groups.index(field.rpartition(".")[0]), not field.endswith(".name")))
    named = {
        run: ", ".join(f"{field}={texts.get(field, 'unset')}" for field in differing) for run, texts in flat.items()
    }
    return {run: named.get(run, run) or next(iter(flat)) for run in configs}


def _texts(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns the fields of a configuration by their dotted names; equal numbers have equal texts."""
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
    """Returns the configuration of a run; None where there is none, with a warning where it is damaged."""
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
      `run` (str: the folder's name, with as many parents as tell the runs apart), `arm` (str: how its configuration
      differs from that of the other runs, see `arms`), `seed` (int64, -1 where unknown), `split` (str), `step` (int64),
      `epoch` (float64, NaN where not logged), `metric` (str), `value` (float64, NaN where undefined). Texts are Python
      strings in object columns: each is kept once, however many rows it has.

    Raises:
      FileNotFoundError: a path is not a run directory.
      ValueError: a run is given twice, or none is given.
    """
    folders = run_directories(runs)
    configs = {}
    for name, folder in folders.items():
        configs[name] = _config(folder)
    named = arms(configs)
    parts: dict[str, list[np.ndarray]] = {column: [] for column in COLUMNS}
    for name, folder in folders.items():
        records, unreadable = read_lines(folder)
        if unreadable:
            warnings.warn(unreadable_text(folder, unreadable), stacklevel=2)
        rows = tidy(records)
        split, metric, step, epoch, value = zip(*rows, strict=True) if rows else [()] * 5
        content = (name, named[name], _seed(configs[name]), split, step, epoch, metric, value)
        for (column, dtype), values in zip(COLUMNS.items(), content, strict=True):
            part = np.empty(len(rows), dtype)
            part[:] = values
            parts[column].append(part)
    return {column: np.concatenate(values) for column, values in parts.items()}
