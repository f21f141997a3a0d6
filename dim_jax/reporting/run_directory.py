"""Reading whatever a run directory holds so far; what is missing or damaged is said in words instead of raised."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from dim_jax.data.dataset import GENERATED_FILE
from dim_jax.reporting import curves
from dim_jax.runs import files
from dim_jax.runs.metrics_file import is_number

if TYPE_CHECKING:
    from dim_jax.data.manifest import Manifest
    from dim_jax.data.splits import Fold

SPLIT_ORDER = ("test", "val", "train")
LARGEST_NUMBER = 1e15  # of an evaluation


@dataclass(frozen=True)
class RunRecords:
    """The contents of one run directory; an empty dict or None is a part that is not there.

    Attributes:
      name: short name, different for every run of a report.
      folder: the run directory.
      config: the resolved configuration.
      environment: versions, devices, time of the start.
      manifest, fold: the images, and the split of them this run used.
      split_method: how the split was drawn, and its seed.
      generated: how many generated images there were to train on, by class.
      data_warnings: what `prepare` warned of.
      data_seconds: how long `prepare` took, or None where it was not written down.
      curves: rows of `curves.tidy`.
      evaluations: content of eval/<split>/metrics.json by split, test first.
      problems: what is missing or damaged, one sentence each.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    manifest: "Manifest | None"
    fold: "Fold | None"
    split_method: str
    generated: dict[str, int]
    data_warnings: list[str]
    data_seconds: float | None
    curves: list[tuple[str, str, int, float, float]]
    evaluations: dict[str, dict[str, Any]]
    problems: list[str] = field(default_factory=list)

    def setting(self, *names: str) -> Any:
        """Returns the field `config[names[0]][names[1]]...`, or None where the configuration has none."""
        value: Any = self.config
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def is_gan(self) -> bool:
        """Whether a GAN was trained here; where the configuration is lost, the curves tell."""
        trainer = self.setting("trainer")
        return trainer == "gan" or (trainer is None and any(split == "samples" for split, *_ in self.curves))

    def rows_of(self, split: str) -> np.ndarray:
        """Returns the manifest rows of a split; none when the manifest or the split is missing."""
        if self.manifest is None or self.fold is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.array(self.fold.assignment) == split)


def read(name: str, folder: Path) -> RunRecords:
    """Reads the run directory `folder`, which `curves.run_directories` found to be one."""
    problems: list[str] = []
    config = _object(folder, "config.json", problems)
    environment = _object(folder, "environment.json", problems)
    manifest, fold, split_method = _data(folder, config, problems)
    data_report = _object(folder, "data_report.json", problems) if (folder / "data_report.json").is_file() else {}
    data_warnings, data_seconds = data_report.get("warnings"), data_report.get("seconds")
    records, unreadable = curves.read_lines(folder)
    if unreadable:
        problems.append(f"{len(unreadable)} line(s) of {curves.FILE_NAME} cannot be read; the curves leave them out.")
    found = {path.parent.name for path in folder.glob("eval/*/metrics.json")}
    ordered = [split for split in (*SPLIT_ORDER, *sorted(found - set(SPLIT_ORDER))) if split in found]
    evaluations = {split: _evaluation(folder, f"eval/{split}/metrics.json", problems) for split in ordered}
    return RunRecords(
        name=name,
        folder=folder,
        config=config,
        environment=environment,
        manifest=manifest,
        fold=fold,
        split_method=split_method,
        generated=_generated(folder, problems),
        data_warnings=[str(item) for item in data_warnings] if isinstance(data_warnings, list) else [],
        data_seconds=float(data_seconds) if is_number(data_seconds) else None,
        curves=curves.tidy(records),
        evaluations={split: content for split, content in evaluations.items() if content},
        problems=problems,
    )


def _object(folder: Path, name: str, problems: list[str]) -> dict[str, Any]:
    try:
        content = files.read_json(folder / name)
    except FileNotFoundError:
        problems.append(f"There is no {name}.")
        return {}
    except (OSError, ValueError):
        problems.append(f"{name} is damaged: it is not valid JSON.")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{name} is damaged: it does not hold a JSON object.")
        return {}
    return content


def _generated(folder: Path, problems: list[str]) -> dict[str, int]:
    if not (folder / GENERATED_FILE).is_file():
        return {}
    images = _object(folder, GENERATED_FILE, problems).get("images", [])
    try:
        counted = Counter(entry["label"] for entry in images)
        return dict(sorted(counted.items()))
    except (KeyError, TypeError):
        problems.append(f"{GENERATED_FILE} is damaged: its images have no labels; the page does not count them.")
        return {}


def _evaluation(folder: Path, name: str, problems: list[str]) -> dict[str, Any]:
    """Reads a file of metrics; a table in it whose entries are not what they should be is left out as a whole."""
    content = _object(folder, name, problems)
    for table in ("per_class", "reliability"):
        rows = content.get(table) or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_row(row) for row in rows):
            problems.append(f"{name} is damaged: its {table} is no table of numbers; the page leaves it out.")
            del content[table]
    for names in ("classes", "absent_classes"):
        if not isinstance(content.get(names, []), list):
            problems.append(f"{name} is damaged: its {names} are no list; the page leaves them out.")
            del content[names]
    return content


def _is_row(row: dict[str, Any]) -> bool:
    numbers = [value for key, value in row.items() if key != "class" and value is not None]
    return isinstance(row.get("class", ""), str) and all(
        is_number(value) and abs(value) < LARGEST_NUMBER for value in numbers
    )


def _data(folder: Path, config: dict[str, Any], problems: list[str]) -> tuple["Manifest | None", "Fold | None", str]:
    try:
        manifest = manifests.load(folder)
    except FileNotFoundError:
        problems.append(f"There is no {manifests.FILE_NAME}, so the data cannot be summed up.")
        return None, None, ""
    except (OSError, ValueError) as error:
        problems.append(f"The manifest cannot be used: {error}.")
        return None, None, ""
    try:
        split = splits.load(folder, manifest)
    except FileNotFoundError:
        problems.append(f"There is no {splits.FILE_NAME}, so images cannot be counted by split.")
        return manifest, None, ""
    except (OSError, ValueError) as error:
        problems.append(f"The split cannot be used: {error}.")
        return manifest, None, ""
    data = config.get("data")
    fold = data.get("fold", 0) if isinstance(data, dict) else 0
    if not isinstance(fold, int) or not 0 <= fold < len(split.folds):
        problems.append(f"The split has no fold {fold!r}.")
        return manifest, None, split.method
    method = f"{split.method}, seed {split.seed}" + (f", fold {fold} of {len(split.folds)}" if split.folds[1:] else "")
    return manifest, split.folds[fold], method
