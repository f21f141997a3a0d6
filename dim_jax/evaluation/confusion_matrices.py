"""Confusion matrices per seed and case, and the scores of confusion matrices."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def case_confusions(labels: np.ndarray, predictions: np.ndarray, cases: Sequence[Any], num_classes: int) -> np.ndarray:
    """Confusion matrices of each seed and case.

    Args:
      labels: true classes, (N,) int in [0, C).
      predictions: predicted classes of S seeds, (S, N) int in [0, C).
      cases: case of each image, (N,); cases that share near-duplicates count as one (see `data.splits.units_of`).
      num_classes: number of classes C.

    Returns:
      Counts, (S, K, C, C) int64: K cases in sorted order, rows are true classes. They do not depend on the order of the
      images.

    Raises:
      ValueError: there are no images, the shapes do not match, an image has no case, or a label or prediction is no
        class.
    """
    labels, predictions, cases = np.asarray(labels), np.asarray(predictions), np.asarray(cases)
    if predictions.ndim != 2 or not predictions.size or not labels.shape == cases.shape == predictions.shape[1:]:
        raise ValueError(
            f"shapes of labels {labels.shape}, predictions {predictions.shape} and cases {cases.shape} do not match; "
            "expected (N,), (S, N) and (N,)"
        )
    for row, case in enumerate(cases):
        if case is None or case == "":
            raise ValueError(f"image {row} has no case; give every image of unknown case a case of its own")
    for name, values in (("label", labels), ("prediction", predictions)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"a {name} must be an integer class, not {values.dtype}")
        for value in values[(values < 0) | (values >= num_classes)]:
            raise ValueError(f"{name} {value} is out of range; with {num_classes} classes it is 0 to {num_classes - 1}")
    numbers = np.unique(cases, return_inverse=True)[1].reshape(-1)
    shape = (int(numbers.max()) + 1, num_classes, num_classes)
    return np.stack(
        [
            np.bincount(np.ravel_multi_index((numbers, labels, predicted), shape), minlength=np.prod(shape))
            for predicted in predictions
        ]
    ).reshape(-1, *shape)


def scores(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of confusion matrices, defined as in `metrics.classification_metrics`.

    Args:
      confusions: counts or weights of images, (..., C, C); rows are true classes.

    Returns:
      Name -> values of shape (...): accuracy, balanced_accuracy, macro_precision, macro_f1, g_mean, mcc, and for each
      class c recall_c and f1_c, which are NaN where the class is absent. For a matrix without images all are NaN except
      mcc, which is 0 wherever it is undefined.

    Reference: Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", Computational
    Biology and Chemistry 28 (2004), for mcc; Kubat & Matwin, "Addressing the curse of imbalanced training sets", ICML
    1997, for g_mean.
    """
    confusions = np.asarray(confusions, np.float64)
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    support, predicted = confusions.sum(-1), confusions.sum(-2)
    total, num_hits = support.sum(-1), hits.sum(-1)
    present = support > 0
    covariance = total * num_hits - (support * predicted).sum(-1)
    variances = (total**2 - (predicted**2).sum(-1)) * (total**2 - (support**2).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = hits / support
        f1 = np.where(present, 2 * hits / (support + predicted), np.nan)
        precision = np.where(predicted > 0, hits / predicted, 0)
        recalls, precisions, f1s, logarithms = (
            np.where(present, values, 0).sum(-1) / present.sum(-1) for values in (recall, precision, f1, np.log(recall))
        )
        score_values = {
            "accuracy": num_hits / total,
            "balanced_accuracy": recalls,
            "macro_precision": precisions,
            "macro_f1": f1s,
            "g_mean": np.exp(logarithms),
            "mcc": np.where(variances > 0, covariance / np.sqrt(variances), 0),
        }
    for label in range(confusions.shape[-1]):
        score_values |= {f"recall_{label}": recall[..., label], f"f1_{label}": f1[..., label]}
    return score_values
