"""Results of one run per evaluated split: metrics, confusion matrix, results per class and reliability."""

from typing import Any

import numpy as np

from dim_jax.reporting import figures, interval_scores, wording
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table

SCORES = ("precision", "recall", "f1", "auroc")
BIN = ("lower", "upper", "count", "confidence", "accuracy")


def metric_table(run: RunRecords) -> dict[str, Any]:
    """Template data of the summary metrics of all evaluated splits, with and without the post-hoc adjustment."""
    columns: dict[str, dict[str, Any]] = {}
    titles = []
    for split, evaluation in run.evaluations.items():
        columns[split] = evaluation
        titles.append(wording.split_name(split))
        if isinstance(evaluation.get("adjusted"), dict):
            columns[f"{split} adjusted"] = evaluation["adjusted"]
            titles.append(f"{wording.split_name(split)}, adjusted")
    keys = [*wording.metric_names([run]), "num_images"]
    rows = [
        (
            "Images" if key == "num_images" else wording.label(key),
            [wording.number(values.get(key)) for values in columns.values()],
        )
        for key in keys
    ]
    numbers = [(key, *(values.get(key) for values in columns.values())) for key in keys]
    return {
        "splits": titles,
        "rows": rows if columns else [],
        "csv": Table("summary_metrics", "summary metrics", ("metric", *columns), numbers) if columns else None,
        "note": _adjustment_note(run),
    }


def _adjustment_note(run: RunRecords) -> str:
    """Returns how the adjustment was chosen; "" if there is none."""
    for evaluation in run.evaluations.values():
        adjusted = evaluation.get("adjusted")
        adjustment = adjusted.get("adjustment") if isinstance(adjusted, dict) else None
        if isinstance(adjustment, dict):
            return (
                f"Adjusted: logits minus {wording.number(adjustment.get('tau'), 1)} times the logarithm of the class "
                f"frequencies{' and a further offset per class' if adjustment.get('shifts') else ''}, divided by "
                f"{wording.number(adjustment.get('temperature'))}; chosen by {adjustment.get('criterion')} of "
                f"{adjustment.get('num_images')} validation images, so adjusted validation scores are optimistic."
            )
    return ""


def view(run: RunRecords, split: str, prefix: str) -> dict[str, Any]:
    """Template data of the results on one split.

    Args:
      run: the run.
      split: one of `run.evaluations`.
      prefix: start of the ids in the figure, unique on the page.
    """
    import markupsafe

    evaluation, name = run.evaluations[split], wording.split_name(split)
    classes = [str(name) for name in evaluation.get("classes") or []]
    training = {}
    if run.manifest is not None and run.fold is not None:
        counts = np.bincount(run.manifest.labels[run.rows_of("train")], minlength=len(run.manifest.classes))
        training = dict(zip(run.manifest.classes, counts.tolist(), strict=True))
    class_rows = wording.dicts(evaluation.get("per_class"))
    per_class = [
        {
            "class": row.get("class"),
            "training": wording.number(training.get(row.get("class"))),
            "counts": [wording.number(row.get(key)) for key in ("support", "predicted")],
            "scores": [
                {
                    "text": wording.number(value),
                    "share": float(value) if wording.number(value) != wording.MISSING else 0.0,
                }
                for value in (row.get(key) for key in SCORES)
            ],
        }
        for row in class_rows
    ]
    bins = wording.dicts(evaluation.get("reliability"))
    error = wording.number(evaluation.get("expected_calibration_error"))
    alternative = f"Reliability diagram of the {name} images; expected calibration error {error}."
    confusion_table = confusion(evaluation.get("confusion_matrix"), classes)
    keys = ("support", "predicted", *SCORES)
    return {
        "split": name,
        "intervals": interval_scores.view(run, classes, split),
        "cost": interval_scores.cost_view(evaluation, classes, split),
        "confusion": confusion_table,
        "per_class": per_class,
        "absent": [str(name) for name in evaluation.get("absent_classes") or []],
        "reliability": markupsafe.Markup(figures.reliability(bins, prefix, alternative)) if bins else None,
        "error": error,
        "csv": {
            "confusion": Table(
                f"confusion_matrix_{split}",
                f"confusion matrix of the {name} split",
                ("true class", *classes),
                [(row["class"], *(cell["count"] for cell in row["cells"])) for row in confusion_table["rows"]],
            )
            if confusion_table
            else None,
            "per_class": Table(
                f"per_class_{split}",
                f"results per class of the {name} split",
                ("class", "training images", *keys),
                [(row.get("class"), training.get(row.get("class")), *map(row.get, keys)) for row in class_rows],
            ),
            "reliability": Table(
                f"reliability_{split}",
                f"reliability of the {name} split",
                BIN,
                [tuple(map(item.get, BIN)) for item in bins],
            ),
        },
    }


def confusion(matrix: Any, classes: list[str]) -> dict[str, Any] | None:
    """Rows of a confusion matrix, with counts and shares of the true class.

    Args:
      matrix: counts, (C, C), rows are true classes; read from a file, so it can be anything.
      classes: names of the C classes.

    Returns:
      Template data, or None if `matrix` is not a matrix of integers of shape (C, C).
    """
    try:
        counts = np.array(matrix, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    if counts.shape != (len(classes), len(classes)) or not classes:
        return None
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    rows = [
        {
            "class": name,
            "cells": [
                {"count": int(counts[at, to]), "share": float(shares[at, to]), "right": at == to}
                for to in range(len(classes))
            ],
            "total": int(totals[at]),
        }
        for at, name in enumerate(classes)
    ]
    return {"classes": classes, "rows": rows, "predicted": counts.sum(axis=0).tolist(), "total": int(counts.sum())}
