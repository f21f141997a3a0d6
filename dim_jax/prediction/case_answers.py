"""Answers by case for new images, whose cases are found in their paths."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data import groups
from dim_jax.data.listing import ListedImage
from dim_jax.evaluation.cases import MEAN, WORST, answers
from dim_jax.prediction.output_files import UNREADABLE, path_text


def cases_of_paths(paths: Sequence[Path], pattern: str) -> list[str]:
    """Returns the case of each path as it is listed.

    Args:
      paths: the images.
      pattern: regular expression, as for `data.groups.from_paths`.

    Raises:
      ValueError: the pattern is invalid, or a path does not match it.
    """
    texts = [path_text(path) for path in paths]
    listed = groups.from_paths([ListedImage(text, "", "", where=text) for text in texts], pattern)
    return [item.group for item in listed]


def answer_cases(
    predictions: dict[str, Any], cases: Sequence[str], severity: np.ndarray | None
) -> list[dict[str, Any]]:
    """Returns one entry for each case, in the order of their first images.

    Args:
      predictions: content of predictions.json without the cases; the probabilities of its images are averaged.
      cases: case of each image.
      severity: classes from the least to the most severe, as for `evaluation.cases.most_severe`, or None.

    Returns:
      JSON-ready: case, images, unreadable, predicted (None if no image is readable), confidence, probabilities, and
      with `severity` worst.
    """
    classes = predictions["classes"]
    numbers: dict[str, int] = {}
    readable_cases = [
        case for case, image in zip(cases, predictions["images"], strict=True) if image["status"] != UNREADABLE
    ]
    rows = np.array([numbers.setdefault(case, len(numbers)) for case in readable_cases])
    shares = [list(image["probabilities"].values()) for image in predictions["images"] if "probabilities" in image]
    of_readable = answers(np.array(shares), rows, severity)
    entries = []
    num_readable = Counter(readable_cases)
    for case, count in Counter(cases).items():
        entry: dict[str, Any] = {"case": case, "images": count, "unreadable": count - num_readable[case]}
        answer = of_readable[numbers[case]] if case in numbers else None
        entry["predicted"] = classes[answer[MEAN]] if answer else None
        entry["confidence"] = float(answer["probabilities"].max()) if answer else None
        if severity is not None:
            entry["worst"] = classes[answer[WORST]] if answer else None
        mean = answer["probabilities"].tolist() if answer else [None] * len(classes)
        entries.append({**entry, "probabilities": dict(zip(classes, mean, strict=True))})
    return entries
