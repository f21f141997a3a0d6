"""Text of numbers, durations, metrics, splits and configurations in the reports."""

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
    "label_strength": "Label strength",
    "diversity": "Diversity (real: 1)",
    "c_t": "C_T (copies: below -3)",
    "audited_step": "Step, if it passes the audit",
    "training_seconds_per_100_images": "Training, s per 100 images",
    "test_seconds_per_image": "Prediction, s per image",
}
TIMES = ("training_seconds_per_100_images", "test_seconds_per_image")
NOT_METRICS = (
    "num_images", "checkpoint_step", "seed", "evaluation_seconds", "views", "adjusted", "by_case", "cost",
    "grad_cam_check", *TIMES,
)  # fmt: skip
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def label(metric: str) -> str:
    """Name of a metric in words."""
    return LABELS.get(metric, metric.replace("_", " "))


def is_better_when_small(metric: str) -> bool:
    """Whether smaller values of a metric are better."""
    return any(word in metric for word in ("loss", "error", "entropy"))


def number(value: Any, digits: int = 3) -> str:
    """Text of a number: floats with `digits` decimals, integers unchanged, a dash for anything that is not finite."""
    if not is_number(value):
        return MISSING
    return str(value) if isinstance(value, int) else f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Text of a duration in seconds, minutes or hours; a dash if it is unknown."""
    if number(seconds) == MISSING:
        return MISSING
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def split_name(split: str) -> str:
    """Name of a split in words."""
    return SPLIT_NAMES.get(split, split)


def setting_texts(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested dict as dotted name -> text; values that are not text are encoded as JSON."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat |= setting_texts(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
    return flat


def dicts(value: Any) -> list[dict[str, Any]]:
    """The dicts in a list read from a file; empty if `value` is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def metric_names(runs: Sequence[RunRecords]) -> list[str]:
    """Names of the scalar metrics in the evaluations of the runs: those in LABELS first, then the others by name."""
    names = [
        key
        for run in runs
        for evaluation in run.evaluations.values()
        for key, value in evaluation.items()
        if (value is None or isinstance(value, (int, float))) and not isinstance(value, bool) and key not in NOT_METRICS
    ]
    return [key for key in LABELS if key in names] + sorted(set(names) - set(LABELS))
