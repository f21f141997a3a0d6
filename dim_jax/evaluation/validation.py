"""Validation predictions of a run, and the post-hoc adjustment that is chosen on them: eval/val/adjustment.json."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.evaluation import costs
from dim_jax.evaluation.adjustment import CRITERIA, OFFSETS, Adjustment, fit_adjustment
from dim_jax.evaluation.costs import Costs
from dim_jax.runs import files
from dim_jax.runs.metrics_file import is_number

FILE_NAME, COST = "adjustment.json", "cost"


def folder(workdir: str | Path) -> Path:
    """Returns the folder of the validation predictions of a run."""
    return Path(workdir, "eval", "val")


def read_predictions(
    workdir: str | Path, step: int, num_classes: int, num_views: int, needed_by: str
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the validation predictions of a checkpoint.

    Args:
      workdir: run directory.
      step: step of the checkpoint.
      num_classes: number of classes C.
      num_views: views of an image over which predictions are averaged.
      needed_by: what they are read for, in an error message.

    Returns:
      Logits (N, C) and labels (N,).

    Raises:
      FileNotFoundError: the validation images have not been evaluated.
      ValueError: they were evaluated with another checkpoint or other views, or the file is damaged.
    """
    path = folder(workdir) / "predictions.npz"
    remedy = f"run python -m dim_jax.evaluate --workdir={workdir} --split=val"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {needed_by}, so {remedy}")
    metrics = files.read_object(folder(workdir) / "metrics.json")
    evaluated, views = metrics.get("checkpoint_step"), metrics.get("views", 1)
    if evaluated != step:
        raise ValueError(f"{folder(workdir)} is of step {evaluated}, the best checkpoint of step {step}; {remedy}")
    if views != num_views:
        raise ValueError(
            f"{folder(workdir)} is of {views} view(s) per image, and {num_views} are asked for; {remedy} with the same "
            "--views or --no-views"
        )
    try:
        arrays = files.read_arrays(path, ("logits", "label"))
    except ValueError as error:
        raise ValueError(f"{error}; {remedy}") from None
    logits, labels = arrays.get("logits", np.zeros(0)), arrays.get("label", np.zeros(0))
    is_valid = logits.dtype.kind == "f" and logits.shape == (len(labels), num_classes) and np.isfinite(logits).all()
    if not is_valid or not len(labels) or not np.isin(labels, np.arange(num_classes)).all():
        raise ValueError(f"{path} does not contain predictions of {num_classes} classes; {remedy}")
    return logits, labels


def choose_adjustment(
    step: int,
    num_views: int,
    logits: np.ndarray,
    labels: np.ndarray,
    class_counts: Sequence[int] | np.ndarray,
    criterion: str | Costs = "macro_f1",
    offsets: str = "prior",
) -> dict[str, Any]:
    """Chooses the adjustment of a checkpoint on its validation predictions.

    Args:
      step: step of the checkpoint.
      num_views: views of an image over which predictions are averaged.
      logits, labels: validation predictions, (N, C) and (N,).
      class_counts: real training images of each class, (C,).
      criterion, offsets: as for `fit_adjustment`.

    Returns:
      The record that adjustment.json holds.
    """
    adjustment = fit_adjustment(logits, labels, np.asarray(class_counts), criterion, offsets)
    record = {
        "checkpoint_step": step,
        "views": num_views,
        "num_images": len(labels),
        "criterion": criterion if isinstance(criterion, str) else COST,
        "costs": None if isinstance(criterion, str) else criterion.matrix,
        "offsets": offsets,
        "class_counts": np.asarray(class_counts),
        **vars(adjustment),
    }
    return files.to_json(record)


def write_adjustment(workdir: str | Path, adjustment: dict[str, Any]) -> None:
    """Writes eval/val/adjustment.json, unless it holds just that."""
    path, current = folder(workdir) / FILE_NAME, None
    with contextlib.suppress(FileNotFoundError, ValueError):  # a damaged one is replaced
        current = files.read_json(path)
    if current != adjustment:
        files.write_json(path, adjustment)


def read_adjustment(workdir: str | Path, step: int, num_classes: int, num_views: int) -> dict[str, Any] | None:
    """Reads the stored adjustment of a checkpoint; None if there is none, or it is of another step or other views.

    Raises:
      ValueError: the file is damaged.
    """
    path = folder(workdir) / FILE_NAME
    if not path.is_file():
        return None
    record = files.read_object(path)
    counts, shifts = record.get("class_counts"), record.get("shifts")
    is_valid = (
        all(is_number(record.get(name)) and record[name] >= 0 for name in ("tau", "temperature"))
        and record["temperature"] > 0
        and isinstance(counts, list)
        and len(counts) == num_classes
        and all(is_number(count) and count >= 0 for count in counts)
        and isinstance(shifts, list)
        and len(shifts) in (0, num_classes)
        and all(map(is_number, shifts))
        and (record.get("criterion") == COST) == (costs_of(record) is not None)
    )
    if not is_valid:
        raise ValueError(
            f"{path} is no adjustment of {num_classes} classes; run python -m dim_jax.evaluate --workdir={workdir} "
            "--split=val again"
        )
    return record if (record.get("checkpoint_step"), record.get("views")) == (step, num_views) else None


def stored_choice(workdir: str | Path) -> dict[str, Any]:
    """Returns the `criterion` and `offsets` of an adjustment that was chosen before; {} if there is no valid one."""
    path = folder(workdir) / FILE_NAME
    try:
        record = files.read_object(path) if path.is_file() else {}
    except ValueError:
        return {}
    criterion = costs_of(record) if record.get("criterion") == COST else record.get("criterion")
    if record.get("offsets") not in OFFSETS or not (isinstance(criterion, Costs) or criterion in CRITERIA):
        return {}
    return {"criterion": criterion, "offsets": record["offsets"]}


def costs_of(adjustment: dict[str, Any]) -> Costs | None:
    """Returns the costs by which an adjustment was chosen, if it was."""
    counts = adjustment.get("class_counts")
    return costs.from_json(adjustment.get("costs"), len(counts) if isinstance(counts, list) else 0)


def adjusted(logits: np.ndarray, record: dict[str, Any]) -> np.ndarray:
    """Returns logits (..., C) adjusted by the record of an adjustment.json, float64."""
    adjustment = Adjustment(record["tau"], tuple(record["shifts"]), record["temperature"])
    return adjustment(logits, np.array(record["class_counts"]))
