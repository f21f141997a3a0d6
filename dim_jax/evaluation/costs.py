"""Costs of wrong answers, and answers of least expected cost, with abstention where it is the cheapest."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data import csv_files
from dim_jax.data.spellings import composed
from dim_jax.evaluation.calibration import probabilities
from dim_jax.runs.metrics_file import is_number

ABSTAIN = "abstain"


@dataclass(frozen=True)
class Costs:
    """Cost of every answer for every true class.

    Attributes:
      matrix: C rows of costs, one per true class, >= 0: of answering each of the C classes and, if it has a column
        more, of abstaining. Any unit; only ratios matter for the answers.

    Reference: Elkan, "The foundations of cost-sensitive learning", IJCAI 2001, section 1; Chow, "On optimum recognition
    error and reject tradeoff", IEEE Transactions on Information Theory 16 (1970), for abstention.
    """

    matrix: tuple[tuple[float, ...], ...]

    def expected(self, probability: np.ndarray) -> np.ndarray:
        """Returns the expected cost of every answer, (..., C) or (..., C + 1).

        Args:
          probability: of the true class, (..., C).
        """
        return np.asarray(probability, np.float64) @ np.array(self.matrix)

    def answers(self, probability: np.ndarray) -> np.ndarray:
        """Returns the answers of least expected cost, (...) int, the first of equal ones; C is to abstain."""
        return self.expected(probability).argmin(-1)

    def of(self, labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Returns the costs of answers to images of known classes, (N,)."""
        return np.array(self.matrix)[labels, answers]

    def mean_of_logits(self, logits: np.ndarray, labels: np.ndarray) -> float:
        """Returns the mean cost of the answers of least expected cost."""
        return float(self.of(labels, self.answers(probabilities(logits))).mean())


def read_costs(path: str | Path, classes: Sequence[str]) -> Costs:
    """Reads a CSV of costs.

    The header names the answers, all classes and optionally "abstain", after a first cell of any text; every row begins
    with a true class. The order of rows and columns is free.

    Args:
      path: the file, as for `csv_files.rows`; numbers may have a decimal comma.
      classes: names of the classes in label order.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a class is missing, unknown or listed twice, or a cost is not a number from 0 on.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--cost={path}: no such file")
    known = {*classes, ABSTAIN}
    rows_of_file = csv_files.rows(path, lambda cell: composed(cell.strip()) in known)
    table = [[composed(cell.strip()) for cell in row] for _, row in rows_of_file]
    answers, truths = (table[0][1:], [row[0] for row in table[1:]]) if table else ([], [])
    for what, names, expected in (
        ("columns", [name for name in answers if name != ABSTAIN or ABSTAIN in classes], classes),
        ("rows", truths, classes),
    ):
        if sorted(names) != sorted(expected):
            raise ValueError(
                f"--cost={path}: the {what} are {', '.join(names) or 'missing'}; list every class once: "
                f"{', '.join(expected)}{' (and optionally abstain)' if what == 'columns' else ''}"
            )
    if len(set(answers)) < len(answers):
        raise ValueError(f"--cost={path}: a column is listed twice")
    order = [*classes, *(name for name in answers if name not in classes)]
    rows = []
    for name in classes:
        row = table[1 + truths.index(name)][1:]
        if len(row) != len(answers):
            raise ValueError(f"--cost={path}: the row of {name} has {len(row)} costs for {len(answers)} answers")
        rows.append(tuple(_number(row[answers.index(answer)], path, name, answer) for answer in order))
    return Costs(tuple(rows))


def _number(text: str, path: Path, truth: str, answer: str) -> float:
    # Spreadsheets write 0,5 in many languages; 1,000 could be a thousand.
    number = text.replace(",", ".") if re.fullmatch("[0-9]+,[0-9]{1,2}", text) else text
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"--cost={path}: the cost {text!r} of answering {answer} for {truth} is no number from 0 on")
    return value


def from_json(value: Any, num_classes: int) -> Costs | None:
    """Returns the costs in a JSON value, or None if it is not a matrix of costs of C classes."""
    if not isinstance(value, list) or len(value) != num_classes:
        return None
    widths = {len(row) if isinstance(row, list) else 0 for row in value}
    if len(widths) != 1 or widths.pop() not in (num_classes, num_classes + 1):
        return None
    if not all(is_number(cost) and cost >= 0 for row in value for cost in row):
        return None
    return Costs(tuple(tuple(map(float, row)) for row in value))
