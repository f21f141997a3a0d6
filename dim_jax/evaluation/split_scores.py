"""Scores of the predictions on one split: per image and by case, without and with the post-hoc adjustment."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data.dataset import Dataset
from dim_jax.evaluation import cases, validation
from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.costs import Costs
from dim_jax.evaluation.metrics import classification_metrics


def score_split(
    index: np.ndarray,
    logits: np.ndarray,
    dataset: Dataset,
    folder: str | Path,
    adjustment: dict[str, Any] | None,
    severity: Sequence[str] = (),
) -> tuple[dict[str, Any], list[dict[str, Any]] | None]:
    """Scores predictions against the labels of the dataset.

    Args:
      index: rows of the manifest, (N,).
      logits: (N, C), finite.
      dataset: the images, with their labels and cases.
      folder: where `prepare`'s report may be, which lists near-duplicates.
      adjustment: content of an adjustment.json, or None.
      severity: class names from the least to the most severe, to answer by the worst image too; () for not.

    Returns:
      Part of metrics.json: metrics.classification_metrics of the logits; "adjusted", the same of the adjusted ones with
      the adjustment; "intervals", scores with intervals over cases; "by_case", cases.score_by_case; and "cost", if the
      adjustment was chosen by costs. "intervals" and "by_case" hold "plain" and "adjusted"; what is not known is None.
      And the answers by case, None if no case is known.

    Raises:
      ValueError: logits are not finite, or `severity` does not list the classes.
    """
    labels, classes = dataset.labels[index], dataset.classes
    variants: dict[str, np.ndarray | None] = {"plain": logits, "adjusted": None}
    adjusted_metrics = None
    metrics = classification_metrics(labels, logits, classes)
    costs = validation.costs_of(adjustment) if adjustment else None
    order = cases.read_severity(severity, classes) if severity else None
    if adjustment:
        variants["adjusted"] = adjusted = validation.adjusted(logits, adjustment)
        adjusted_metrics = {"adjustment": adjustment, **classification_metrics(labels, adjusted, classes)}

    def of_variants(score: Callable[[np.ndarray], Any]) -> dict[str, Any]:
        return {name: None if values is None else score(probabilities(values)) for name, values in variants.items()}

    units = cases.units_of_resampling(dataset, cases.near_duplicates(folder))[index]
    names = cases.case_names(dataset, index)
    metrics |= {
        "adjusted": adjusted_metrics,
        "intervals": {
            "unit": "case" if names else "image",
            "num_units": len(np.unique(units)),
            **of_variants(lambda shares: cases.interval_scores(labels, shares.argmax(-1), units, len(classes))),
        },
        "by_case": None,
        "cost": None,
    }
    if costs is not None:
        metrics["cost"] = _cost(costs, labels, logits, variants["adjusted"], units)
    if names is None:
        return metrics, None
    case_list, numbers = np.unique(names, return_inverse=True)
    scores = of_variants(lambda shares: cases.score_by_case(labels, shares, numbers, order))
    answers = of_variants(lambda shares: cases.answers(shares, numbers, order))
    metrics["by_case"] = {"severity": list(severity) or None, **scores}
    counts = np.zeros((len(case_list), len(classes)), int)
    np.add.at(counts, (numbers, labels), 1)
    return metrics, [
        {
            "case": str(name),
            "images": {classes[label]: int(counts[number, label]) for label in np.flatnonzero(counts[number])},
            **{variant: of_case and _named(of_case[number], classes) for variant, of_case in answers.items()},
        }
        for number, name in enumerate(case_list)
    ]


def _cost(
    costs: Costs, labels: np.ndarray, plain: np.ndarray, adjusted: np.ndarray, units: np.ndarray
) -> dict[str, Any]:
    """Returns the mean cost of the most probable classes without adjustment, and of the answers of least expected cost.

    Args:
      costs: the costs by which the adjustment was chosen.
      labels: (N,).
      plain, adjusted: logits, (N, C).
      units: what the intervals resample, (N,).
    """
    num_classes = plain.shape[-1]
    answers = costs.answers(probabilities(adjusted))
    confusion = np.zeros((num_classes, num_classes + 1), int)
    np.add.at(confusion, (labels, answers), 1)
    return {
        "matrix": costs.matrix,
        "plain": cases.interval_mean(costs.of(labels, plain.argmax(-1)), labels, units, num_classes),
        "least_expected": {
            **cases.interval_mean(costs.of(labels, answers), labels, units, num_classes),
            "abstained": float((answers == num_classes).mean()),
            "confusion_matrix": confusion.tolist(),
        },
    }


def _named(answer: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Returns the answer for one case with names of classes."""
    named = {rule: classes[answer[rule]] for rule in (cases.MEAN, cases.WORST) if rule in answer}
    return {**named, "probabilities": dict(zip(classes, answer["probabilities"].tolist(), strict=True))}
