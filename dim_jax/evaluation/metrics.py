"""Classification metrics for imbalanced classes, from labels and logits on the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics as sk

RELIABILITY_BINS = 10


def classification_metrics(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Computes all metrics of one split.

    Macro averages run over the classes that the split holds, and an undefined precision counts 0, as in the published
    code. A class without images is listed in `absent_classes` and its own figures are None; it is never silently left
    out.

    Args:
      labels: (N,) int.
      logits: (N, C).
      classes: C names.

    Returns:
      A JSON-ready dict with accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1, g_mean, mcc,
      macro_auroc, expected_calibration_error, cross_entropy, num_images, classes, absent_classes, confusion_matrix
      (rows are the truth), per_class and reliability. Undefined values are None.

    Raises:
      ValueError: no images, shapes that do not fit, a label without a class, or logits that are not finite.
    """
    labels, logits = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
    if not len(labels) or logits.shape != (len(labels), len(classes)):
        raise ValueError(f"cannot score {len(labels)} labels against logits of shape {logits.shape}")
    for label in labels[(labels < 0) | (labels >= len(classes))]:
        raise ValueError(f"label {label} has no class; there are {len(classes)} classes, from 0 on")
    if not np.isfinite(logits).all():
        raise ValueError("the logits are not all finite; the checkpoint has diverged")
    log_probabilities = logits - _logsumexp(logits)
    probabilities = np.exp(log_probabilities)
    predictions = logits.argmax(-1)
    every_class = np.arange(len(classes))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predictions, labels=every_class, zero_division=0
    )
    present = support > 0
    auroc = [_auroc(labels == label, probabilities[:, label]) for label in every_class]
    defined_auroc = [value for value in auroc if value is not None]
    reliability = reliability_bins(probabilities, labels)
    return {
        "num_images": len(labels),
        "accuracy": float((predictions == labels).mean()),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_precision": float(precision[present].mean()),
        "macro_recall": float(recall[present].mean()),
        "macro_f1": float(f1[present].mean()),
        "g_mean": geometric_mean(recall[present]),
        "mcc": float(sk.matthews_corrcoef(labels, predictions)),
        "macro_auroc": float(np.mean(defined_auroc)) if defined_auroc else None,
        "expected_calibration_error": expected_calibration_error(reliability),
        "cross_entropy": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "classes": list(classes),
        "absent_classes": [name for name, here in zip(classes, present, strict=True) if not here],
        "confusion_matrix": sk.confusion_matrix(labels, predictions, labels=every_class).tolist(),
        "per_class": [
            {
                "class": name,
                "support": int(support[label]),
                "predicted": int((predictions == label).sum()),
                "precision": float(precision[label]) if present[label] else None,
                "recall": float(recall[label]) if present[label] else None,
                "f1": float(f1[label]) if present[label] else None,
                "auroc": auroc[label],
            }
            for label, name in enumerate(classes)
        ],
        "reliability": reliability,
    }


def scalars(metrics: dict[str, Any]) -> dict[str, float]:
    """Returns the single numbers among the metrics, for curves."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def geometric_mean(recalls: np.ndarray) -> float:
    """Returns the n-th root of the product of n recalls; 0 if any is 0.

    Reference: Kubat & Matwin, "Addressing the curse of imbalanced training sets", ICML 1997.
    """
    recalls = np.asarray(recalls, np.float64)
    return 0.0 if (recalls == 0).any() else float(np.exp(np.log(recalls).mean()))


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Groups predictions by confidence, the largest probability, in equal bins.

    Returns:
      One dict per bin: lower, upper, count, and mean confidence and accuracy (None for an empty bin).
    """
    confidence, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    bin_of = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, RELIABILITY_BINS - 1)
    bins = []
    for number in range(RELIABILITY_BINS):
        here = bin_of == number
        bins.append(
            {
                "lower": float(edges[number]),
                "upper": float(edges[number + 1]),
                "count": int(here.sum()),
                "confidence": float(confidence[here].mean()) if here.any() else None,
                "accuracy": float(correct[here].mean()) if here.any() else None,
            }
        )
    return bins


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Returns the mean distance of confidence and accuracy over the bins, weighted by their counts.

    Reference: Guo et al., "On calibration of modern neural networks", ICML 2017, eq. 5.
    """
    total = sum(entry["count"] for entry in bins)
    filled = [entry for entry in bins if entry["count"]]
    return float(sum(entry["count"] * abs(entry["confidence"] - entry["accuracy"]) for entry in filled) / total)


def _auroc(is_class: np.ndarray, scores: np.ndarray) -> float | None:
    """Returns the share of pairs, one image of the class and one of another, that scores put in order; ties are half.

    By ranks, because checks of its arguments make scikit-learn's take most of the time of a small evaluation.
    """
    if is_class.all() or not is_class.any():
        return None
    ranks, of_class = stats.rankdata(scores), int(is_class.sum())
    pairs = of_class * (len(scores) - of_class)
    return float((ranks[is_class].sum() - of_class * (of_class + 1) / 2) / pairs)


def _logsumexp(logits: np.ndarray) -> np.ndarray:
    top = logits.max(-1, keepdims=True)
    return top + np.log(np.exp(logits - top).sum(-1, keepdims=True))
