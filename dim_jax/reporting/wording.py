"""How the report writes numbers, metrics, splits and configurations."""

import json
from collections.abc import Sequence
from typing import Any

from dim_jax.reporting.run_directory import RunRecords
from dim_jax.runs.metrics_file import is_number

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
    "cross_entropy": "Cross-entropy",
    "loss": "Loss",
    "learning_rate": "Learning rate",
    "discriminator_loss": "Discriminator loss",
    "generator_loss": "Generator loss",
    "hinge_real": "Hinge loss, real",
    "hinge_fake": "Hinge loss, generated",
    "logit_real": "Mean logit, real",
    "logit_fake": "Mean logit, generated",
    "logit_real_sign": "Mean sign of real logits",
    "reconstruction_whole": "Reconstruction, from the large branch",
    "reconstruction_small": "Reconstruction, from the small branch",
    "reconstruction_part": "Reconstruction of a quarter",
    "discriminator_gradient_norm": "Gradient norm, discriminator",
    "generator_gradient_norm": "Gradient norm, generator",
    "augment_probability": "Augmentation probability",
    "label_strength": "Strength of labels",
    "diversity": "Diversity (real: 1)",
    "training_seconds_per_100_images": "Training, s per 100 images",
    "test_seconds_per_image": "Prediction, s per image",
}
TIMES = ("training_seconds_per_100_images", "test_seconds_per_image")
NOT_METRICS = ("num_images", "checkpoint_step", "seed", "evaluation_seconds", *TIMES)
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def label(metric: str) -> str:
    """Returns a metric's name in words."""
    return LABELS.get(metric, metric.replace("_", " "))


def is_better_when_small(metric: str) -> bool:
    """Returns whether a smaller value of a metric is the better one."""
    return any(word in metric for word in ("loss", "error", "entropy"))


def number(value: Any, digits: int = 3) -> str:
    """Returns a number with `digits` decimals, whole numbers as they are, and a dash for what is undefined."""
    if not is_number(value):
        return MISSING
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Returns a time in the unit that suits it, and a dash for one that is not known."""
    if number(seconds) == MISSING:
        return MISSING
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def split_name(split: str) -> str:
    """Returns a split's name in words."""
    return SPLIT_NAMES.get(split, split)


def setting_texts(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns a nested dict as dotted names and texts."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat |= setting_texts(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
    return flat


def dicts(value: Any) -> list[dict[str, Any]]:
    """Returns the objects in a list read from a file, and none when it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def metric_names(runs: Sequence[RunRecords]) -> list[str]:
    """Returns all single numbers in the metrics files of the runs, the known ones in a fixed order first."""
    found = [
        key
        for run in runs
        for content in run.evaluations.values()
        for key, value in content.items()
        if (value is None or isinstance(value, (int, float))) and not isinstance(value, bool) and key not in NOT_METRICS
    ]
    return [key for key in LABELS if key in found] + sorted(set(found) - set(LABELS))
