"""Contents of a run directory, finished or not; missing and damaged files become sentences instead of exceptions."""

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
LARGEST_NUMBER = 1e15  # largest valid absolute value in an evaluation


@dataclass(frozen=True)
class RunRecords:
    """Contents of a run directory; parts that are missing are empty or None.

    Attributes:
      name: short name, unique within a report.
      folder: the run directory.
      config: the resolved configuration.
      environment: versions, devices and start time.
      manifest, fold: the images, and the fold of the split that the run used.
      split_method: method, seed and fold of the split, in words.
      generated: class -> number of generated training images.
      data_warnings: warnings of `prepare`.
      data_notes: notes of `prepare` on its source.
      licence: what `prepare` read on the licence of the data (data.licences); empty if nothing is recorded.
      data_seconds: wall time of `prepare` in seconds; None if not recorded.
      curves: rows of `curves.tidy`.
      evaluations: split -> content of eval/<split>/metrics.json, test first.
      problems: missing and damaged files, one sentence each.
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
    data_notes: list[str]
    licence: dict[str, str]
    data_seconds: float | None
    curves: list[tuple[str, str, int, float, float]]
    evaluations: dict[str, dict[str, Any]]
    problems: list[str] = field(default_factory=list)

    def setting(self, *names: str) -> Any:
        """The field `config[names[0]][names[1]]...`, or None if the configuration does not have it."""
        value: Any = self.config
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def generator(self) -> str:
        """Kind of a generator's run, "gan" or "diffusion", by its curves without a configuration; "" for others."""
        trainer = self.setting("trainer")
        if trainer is None and any(split == "samples" for split, *_ in self.curves):
            is_gan = any(metric == "discriminator_loss" for _, metric, *_ in self.curves)
            return "gan" if is_gan else "diffusion"
        return trainer if trainer in ("gan", "diffusion") else ""

    def rows_of(self, split: str) -> np.ndarray:
        """Manifest rows of a split, int (n,); empty if the manifest or the split is missing."""
        if self.manifest is None or self.fold is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.array(self.fold.assignment) == split)


def read(name: str, folder: Path) -> RunRecords:
    """Reads a run directory.

    Args:
      name: name of the run in the report.
      folder: the run directory, checked by `curves.run_directories`.
    """
    problems: list[str] = []
    config = _object(folder, "config.json", problems)
    environment = _object(folder, "environment.json", problems)
    manifest, fold, split_method = _data(folder, config, problems)
    data_report = _object(folder, "data_report.json", problems) if (folder / "data_report.json").is_file() else {}
    data_seconds = data_report.get("seconds")
    records, unreadable = curves.read_lines(folder)
    if unreadable:
        problems.append(
            f"{len(unreadable)} line(s) of {curves.FILE_NAME} cannot be read and are missing from the curves."
        )
    evaluated = {path.parent.name for path in folder.glob("eval/*/metrics.json")}
    ordered = [split for split in (*SPLIT_ORDER, *sorted(evaluated - set(SPLIT_ORDER))) if split in evaluated]
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
        data_warnings=_texts(data_report.get("warnings")),
        data_notes=_texts(data_report.get("notes")),
        licence=_licence(data_report.get("licence")),
        data_seconds=float(data_seconds) if is_number(data_seconds) else None,
        curves=curves.tidy(records),
        evaluations={split: evaluation for split, evaluation in evaluations.items() if evaluation},
        problems=problems,
    )


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _licence(value: Any) -> dict[str, str]:
    is_known = isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("file", "text", "sha256"))
    return value if is_known else {}


def _object(folder: Path, name: str, problems: list[str]) -> dict[str, Any]:
    try:
        value = files.read_json(folder / name)
    except FileNotFoundError:
        problems.append(f"There is no {name}.")
        return {}
    except (OSError, ValueError):
        problems.append(f"{name} is damaged: it is not valid JSON.")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{name} is damaged: it is not a JSON object.")
        return {}
    return value


def _generated(folder: Path, problems: list[str]) -> dict[str, int]:
    if not (folder / GENERATED_FILE).is_file():
        return {}
    images = _object(folder, GENERATED_FILE, problems).get("images", [])
    try:
        counts = Counter(entry["label"] for entry in images)
        return dict(sorted(counts.items()))
    except (KeyError, TypeError):
        problems.append(f"{GENERATED_FILE} is damaged: its images have no labels, so they are not counted.")
        return {}


def _evaluation(folder: Path, name: str, problems: list[str]) -> dict[str, Any]:
    """Reads a metrics.json; tables with invalid entries are left out as a whole."""
    evaluation = _object(folder, name, problems)
    for table in ("per_class", "reliability"):
        rows = evaluation.get(table) or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) and _is_row(row) for row in rows):
            problems.append(f"{name} is damaged: {table} is not a table of numbers and is left out.")
            del evaluation[table]
    for names in ("classes", "absent_classes"):
        if not isinstance(evaluation.get(names, []), list):
            problems.append(f"{name} is damaged: {names} is not a list and is left out.")
            del evaluation[names]
    return evaluation


def _is_row(row: dict[str, Any]) -> bool:
    numbers = [value for key, value in row.items() if key != "class" and value is not None]
    return isinstance(row.get("class", ""), str) and all(
        is_number(value) and abs(value) < LARGEST_NUMBER for value in numbers
    )


def _data(folder: Path, config: dict[str, Any], problems: list[str]) -> tuple["Manifest | None", "Fold | None", str]:
    try:
        manifest = manifests.load(folder)
    except FileNotFoundError:
        problems.append(f"There is no {manifests.FILE_NAME}, so the data cannot be summarised.")
        return None, None, ""
    except (OSError, ValueError) as error:
        problems.append(f"The manifest cannot be used: {error}.")
        return None, None, ""
    try:
        split = splits.load(folder, manifest)
    except FileNotFoundError:
        problems.append(f"There is no {splits.FILE_NAME}, so images cannot be counted per split.")
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
