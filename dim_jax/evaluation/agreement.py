"""Agreement of readers (kappa), and exact intervals of proportions."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Proportion:
    """A proportion with its exact interval.

    Attributes:
      count, total: number of successes and of trials.
      value: count / total; None without trials.
      low, high: bounds of the 95 % interval of Clopper and Pearson; 0 and 1 without trials.
    """

    count: int
    total: int
    value: float | None
    low: float
    high: float


def proportion(count: int, total: int) -> Proportion:
    """A proportion with its exact 95 % interval, which assumes independent trials.

    Args:
      count: number of successes, 0 to `total`.
      total: number of trials.

    Reference: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26 (1934).
    """
    from scipy.stats import binomtest

    if not total:
        return Proportion(0, 0, None, 0.0, 1.0)
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="exact")
    return Proportion(count, total, count / total, float(interval.low), float(interval.high))


def cohen_kappa(one: Sequence[Hashable], other: Sequence[Hashable], *, is_ordinal: bool = False) -> float | None:
    """Cohen's kappa of two readers; None if it is undefined, since both gave one and the same answer throughout.

    Args:
      one, other: answers of the two readers to the same N questions.
      is_ordinal: weighs a disagreement between numbers by its square.

    Reference: Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20
    (1960).
    """
    from sklearn.metrics import cohen_kappa_score

    if len({*one, *other}) < 2:
        return None
    return float(cohen_kappa_score(list(one), list(other), weights="quadratic" if is_ordinal else None))


def fleiss_kappa(answers: Sequence[Sequence[Hashable]]) -> float | None:
    """Fleiss' kappa of two or more readers; None if it is undefined, since all gave one and the same answer.

    With n_ij of the R readers giving answer j to question i: P_i = (sum_j n_ij^2 - R) / (R (R - 1)), P_e = sum_j p_j^2
    with p_j the share of answer j, and kappa = (mean_i P_i - P_e) / (1 - P_e).

    Args:
      answers: N questions x R readers.

    Reference: Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76 (1971).
    """
    values = sorted({answer for row in answers for answer in row}, key=repr)
    if len(values) < 2:
        return None
    counts = np.array([[list(row).count(value) for value in values] for row in answers], np.float64)
    num_readers = counts[0].sum()
    agreement = ((counts**2).sum(1) - num_readers) / (num_readers * (num_readers - 1))
    chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return (float(agreement.mean()) - chance) / (1 - chance)
