"""Answers and scores by case (patient): the mean of the images' probabilities, or the most severe of their classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data import splits
from dim_jax.data.dataset import REPORT_FILE, Dataset
from dim_jax.evaluation import confusion_matrices, statistics
from dim_jax.runs import files

NUM_RESAMPLES = 2_000
MEAN, WORST = "mean", "worst"


def units_of_resampling(dataset: Dataset, near_duplicates: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the unit of every image of the manifest, int32 (N,): its case, merged with those of near-duplicates.

    Args:
      dataset: the images.
      near_duplicates: pairs of paths of the manifest; others are ignored.
    """
    place = {row.path: number for number, row in enumerate(dataset.manifest.rows)}
    pairs = [[place[path] for path in pair] for pair in near_duplicates if all(path in place for path in pair)]
    return splits.units_of([row.group for row in dataset.manifest.rows], np.array(pairs, np.int64).reshape(-1, 2))


def near_duplicates(folder: str | Path) -> list[list[str]]:
    """Returns the pairs of paths of exact and near-duplicates that `prepare` found; none without its report."""
    path = Path(folder) / REPORT_FILE
    pairs = files.read_object(path).get("duplicates") if path.is_file() else None
    return [*pairs.get("exact", []), *pairs.get("near", [])] if isinstance(pairs, dict) else []


def case_names(dataset: Dataset, rows: np.ndarray) -> list[str] | None:
    """Returns the case of each row; an image of unknown case is a case of its own, named by its path.

    None if no case is known.
    """
    listed = [dataset.manifest.rows[row] for row in rows]
    return [row.group or row.path for row in listed] if any(row.group for row in listed) else None


def mean_probabilities(probability: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """Returns the mean probabilities of the images of each case.

    Args:
      probability: of N images, (N, C).
      cases: number of the case of each image, (N,) int in [0, K), each at least once.

    Returns:
      (K, C) float64.
    """
    sums = np.zeros((int(cases.max()) + 1, probability.shape[-1]))
    np.add.at(sums, cases, probability)
    return sums / np.bincount(cases)[:, None]


def most_frequent(labels: np.ndarray, cases: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the class of most images of each case, (K,) int; of equally many the rarer class over all images.

    Args:
      labels: (N,) int in [0, C).
      cases: as for `mean_probabilities`.
      num_classes: C.
    """
    counts = _counts(labels, cases, num_classes)
    rare_first = np.argsort(counts.sum(0), kind="stable")
    return rare_first[counts[:, rare_first].argmax(1)]


def most_severe(labels: np.ndarray, cases: np.ndarray, severity: np.ndarray) -> np.ndarray:
    """Returns the most severe class among the images of each case, (K,) int.

    Args:
      labels: (N,) int in [0, C).
      cases: as for `mean_probabilities`.
      severity: all classes from the least to the most severe, (C,) int.
    """
    present = _counts(labels, cases, len(severity)) > 0
    severe_first = severity[::-1]
    return severe_first[present[:, severe_first].argmax(1)]


def read_severity(names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Returns the classes from the least to the most severe as integers, (C,).

    Raises:
      ValueError: `names` does not list every class once.
    """
    if sorted(names) != sorted(classes):
        raise ValueError(
            f"--severity={','.join(names)} must list every class once, from the least to the most severe; the classes "
            f"are {', '.join(classes)}"
        )
    return np.array([list(classes).index(name) for name in names])


def answers(probability: np.ndarray, cases: np.ndarray, severity: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Returns the answer for each case, in order: the "mean" and, with `severity`, "worst" class, and probabilities.

    Args:
      probability: of N images, (N, C).
      cases: as for `mean_probabilities`.
      severity: as for `most_severe`, or None.

    Returns:
      K dicts: "mean" and "worst" are classes as integers, "probabilities" the means, (C,).
    """
    means = mean_probabilities(probability, cases)
    listed: list[dict[str, Any]] = [{MEAN: int(mean.argmax()), "probabilities": mean} for mean in means]
    if severity is not None:
        for answer, worst in zip(listed, most_severe(probability.argmax(-1), cases, severity), strict=True):
            answer[WORST] = int(worst)
    return listed


def score_by_case(
    labels: np.ndarray,
    probability: np.ndarray,
    cases: np.ndarray,
    severity: np.ndarray | None = None,
) -> dict[str, Any]:
    """Scores of the answers by case, with intervals over cases.

    "mean": the class with the largest mean probability, against the class of most of the case's images. "worst", if
    `severity` is given: the most severe of the images' answers, against the most severe of their classes. Cases with
    images of several classes are counted in `num_mixed`; which class is theirs depends on the rule.

    Args:
      labels: true classes of the images, (N,) int.
      probability: of the images, (N, C).
      cases: as for `mean_probabilities`.
      severity: as for `most_severe`, or None.

    Returns:
      JSON-ready: num_cases, num_mixed, and for each rule the result of `interval_scores` and a confusion_matrix.
    """
    num_classes = probability.shape[-1]
    counts = _counts(labels, cases, num_classes)
    truths = {MEAN: most_frequent(labels, cases, num_classes)}
    if severity is not None:
        truths[WORST] = most_severe(labels, cases, severity)
    predictions = answers(probability, cases, severity)
    results: dict[str, Any] = {"num_cases": len(counts), "num_mixed": int(((counts > 0).sum(1) > 1).sum())}
    for rule, truth in truths.items():
        predicted = np.array([answer[rule] for answer in predictions])
        confusion = np.zeros((num_classes, num_classes), int)
        np.add.at(confusion, (truth, predicted), 1)
        scores = interval_scores(truth, predicted, np.arange(len(truth)), num_classes)
        results[rule] = {**scores, "confusion_matrix": confusion.tolist()}
    return results


def interval_scores(labels: np.ndarray, predicted: np.ndarray, units: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Scores as in `confusion_matrices.scores`, each with a 95 % bootstrap interval over units.

    Args:
      labels, predicted: classes, (N,) int.
      units: what is resampled, such as cases, (N,).
      num_classes: number of classes.

    Returns:
      JSON-ready: "scores", name -> value, low and high; and "no_interval", None or why low and high are None.
    """
    confusions = confusion_matrices.case_confusions(labels, predicted[None], units.tolist(), num_classes)
    try:
        estimates = statistics.estimates(confusions, num_resamples=NUM_RESAMPLES)
    except ValueError as error:
        values = {name: float(value[0]) for name, value in confusion_matrices.scores(confusions.sum(1)).items()}
        bare = {name: {"value": value, "low": None, "high": None} for name, value in values.items()}
        return {"scores": bare, "no_interval": str(error)}
    scores = {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in estimates.items()}
    return {"scores": scores, "no_interval": None}


def interval_mean(values: np.ndarray, labels: np.ndarray, units: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Mean over images with a 95 % bootstrap interval over units, strata as in `statistics.bootstrap_weights`.

    Args:
      values: of the images, (N,).
      labels: true classes, (N,) int.
      units: what is resampled, such as cases, (N,).
      num_classes: number of classes.

    Returns:
      JSON-ready: value, low and high; the last two are None where a class has fewer than two units.
    """
    numbers = np.unique(units, return_inverse=True)[1].reshape(-1)
    counts, sums = _counts(labels, numbers, num_classes), np.bincount(numbers, values)
    value = {"value": float(values.mean())}
    try:
        weights, _ = statistics.bootstrap_weights(counts, NUM_RESAMPLES, np.random.default_rng(0))
    except ValueError:
        return {**value, "low": None, "high": None}
    low, high = np.quantile(weights @ sums / (weights @ counts.sum(1)), (0.025, 0.975))
    return {**value, "low": float(low), "high": float(high)}


def _counts(labels: np.ndarray, cases: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the images of each class in each case, (K, C) int."""
    counts = np.zeros((int(cases.max()) + 1, num_classes), int)
    np.add.at(counts, (cases, labels), 1)
    return counts
