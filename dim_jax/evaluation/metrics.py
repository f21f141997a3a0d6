"""Classification metrics for imbalanced classes, computed with NumPy from labels and logits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics as sk

RELIABILITY_BINS = 10


def classification_metrics(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro averages, G-mean, MCC, AUROC, calibration and confusion matrix of one split.

    Macro averages are over the classes present in the split, and an undefined precision counts as 0, as in the
    published code. A class without images is listed in `absent_classes`, and its own metrics are None.

    Args:
      labels: true classes, (N,) int in [0, C).
      logits: (N, C), finite.
      classes: names of the C classes.

    Returns:
      A JSON-ready dict with accuracy, balanced_accuracy, macro_precision, macro_recall, macro_f1, g_mean, mcc (in
      [-1, 1]), macro_auroc, expected_calibration_error, cross_entropy (nats), num_images, classes, absent_classes,
      confusion_matrix (rows: true classes), per_class and reliability. Undefined values are None.

    Raises:
      ValueError: there are no images, the shapes do not match, a label is out of range, or logits are not finite.
    """
    labels, logits = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
    if not len(labels) or logits.shape != (len(labels), len(classes)):
        raise ValueError(f"cannot score {len(labels)} labels against logits of shape {logits.shape}")
    for label in labels[(labels < 0) | (labels >= len(classes))]:
        raise ValueError(f"label {label} is out of range; labels of {len(classes)} classes are 0 to {len(classes) - 1}")
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
        "absent_classes": [name for name, is_present in zip(classes, present, strict=True) if not is_present],
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
    """Returns the float-valued metrics, which are logged as learning curves."""
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def geometric_mean(recalls: np.ndarray) -> float:
    """G-mean: the n-th root of the product of n recalls; 0 if any recall is 0.

    Args:
      recalls: recall of each class, (n,) in [0, 1].

    Reference: Kubat & Matwin, "Addressing the curse of imbalanced training sets", ICML 1997.
    """
    recalls = np.asarray(recalls, np.float64)
    return 0.0 if (recalls == 0).any() else float(np.exp(np.log(recalls).mean()))


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Bins of a reliability diagram: predictions by confidence (largest probability), in bins of equal width.

    Args:
      probabilities: (N, C).
      labels: true classes, (N,) int.

    Returns:
      One dict per bin: lower, upper, count, and mean confidence and accuracy (None for an empty bin).

    Reference: Guo et al., "On calibration of modern neural networks", ICML 2017, section 2.
    """
    confidence, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    bin_of = np.clip(np.digitize(confidence, edges[1:-1], right=True), 0, RELIABILITY_BINS - 1)
    bins = []
    for number in range(RELIABILITY_BINS):
        in_bin = bin_of == number
        bins.append(
            {
                "lower": float(edges[number]),
                "upper": float(edges[number + 1]),
                "count": int(in_bin.sum()),
                "confidence": float(confidence[in_bin].mean()) if in_bin.any() else None,
                "accuracy": float(correct[in_bin].mean()) if in_bin.any() else None,
            }
        )
    return bins


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Expected calibration error: mean of |accuracy - confidence| over the bins, weighted by their counts.

    Args:
      bins: the result of `reliability_bins`; at least one bin is not empty.

    Reference: Guo et al., "On calibration of modern neural networks", ICML 2017, eq. 3.
    """
    total = sum(entry["count"] for entry in bins)
    filled = [entry for entry in bins if entry["count"]]
    return float(sum(entry["count"] * abs(entry["confidence"] - entry["accuracy"]) for entry in filled) / total)


def _auroc(is_class: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve of one class against the rest, by ranks (Mann-Whitney U); ties count half.

    Argument checks make scikit-learn's function take most of the time of a small evaluation.
    """
    if is_class.all() or not is_class.any():
        return None
    ranks, num_positive = stats.rankdata(scores), int(is_class.sum())
    num_pairs = num_positive * (len(scores) - num_positive)
    return float((ranks[is_class].sum() - num_positive * (num_positive + 1) / 2) / num_pairs)


def _logsumexp(logits: np.ndarray) -> np.ndarray:
    top = logits.max(-1, keepdims=True)
    return top + np.log(np.exp(logits - top).sum(-1, keepdims=True))
