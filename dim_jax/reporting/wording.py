"""How the report writes numbers, metrics, splits and configurations."""

import json
import math
from collections.abc import Sequence
from typing import Any

from dim_jax.reporting.run_directory import Run

MISSING = "–"
LABELS = {
    "macro_f1": "Macro F1",
    "g_mean": "G-mean",
    "balanced_accuracy": "Balanced accuracy",
    "mcc": "MCC",
    "macro_auroc": "Macro AUROC",
    "accuracy": "Accuracy",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "expected_calibration_error": "Calibration error (ECE)",
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "training_seconds_per_100_images": "Training, s per 100 images",
    "test_seconds_per_image": "Prediction, s per image",
}
TIMES = ("training_seconds_per_100_images", "test_seconds_per_image")
NOT_METRICS = ("num_images", "checkpoint_step", "seed", *TIMES)
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def label(metric: str) -> str:
    """Returns a metric's name in words."""
    return LABELS.get(metric, metric.replace("_", " "))


def number(value: Any, digits: int = 3) -> str:
    """Returns a number with `digits` decimals, whole numbers as they are, and a dash for what is undefined."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return MISSING
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def split_name(split: str) -> str:
    """Returns a split's name in words."""
    return SPLIT_NAMES.get(split, split)


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns a nested dict as dotted names and texts."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
    return flat


def metric_names(runs: Sequence[Run]) -> list[str]:
    """Returns all single numbers in the metrics files of the runs, the known ones in a fixed order first."""
    found = [
        key
        for run in runs
        for content in run.evaluations.values()
        for key, value in content.items()
        if (value is None or isinstance(value, (int, float))) and not isinstance(value, bool) and key not in NOT_METRICS
    ]
    return [key for key in LABELS if key in found] + sorted(set(found) - set(LABELS))
