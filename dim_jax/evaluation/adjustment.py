"""Post-hoc adjustment of logits: an offset per class and a temperature, chosen on validation images.

Training on imbalanced classes favours the frequent ones. Subtracting tau log(prior) from the logits, or a free offset
per class, moves the decisions towards the rare classes without training again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dim_jax.evaluation import confusion_matrices
from dim_jax.evaluation.calibration import fit_temperature
from dim_jax.evaluation.costs import Costs

CRITERIA = ("macro_f1", "g_mean", "balanced_accuracy", "mcc", "accuracy")
OFFSETS = ("prior", "class")
TAUS = np.round(np.arange(0, 2.05, 0.1), 1)
SHIFTS = np.arange(-2, 2.1, 0.25)  # of one class, in logits
MOST_ROUNDS = 10  # of the search over classes; it ends earlier if a round changes nothing


@dataclass(frozen=True)
class Adjustment:
    """Adjusted logits are (z - tau log(prior) + shifts) / temperature; the default changes nothing.

    Attributes:
      tau: strength of the logit adjustment, >= 0.
      shifts: further offset of each class, in logits; () for none.
      temperature: > 0.

    Reference: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 9; Guo et al., "On calibration of
    modern neural networks", ICML 2017, section 4.2.
    """

    tau: float = 0.0
    shifts: tuple[float, ...] = ()
    temperature: float = 1.0

    def __call__(self, logits: np.ndarray, class_counts: np.ndarray) -> np.ndarray:
        """Returns adjusted logits.

        Args:
          logits: (..., C).
          class_counts: training images of each class, (C,), or (..., C) if examples are of models with different
            training splits.

        Returns:
          (..., C) float64.
        """
        logits = np.asarray(logits, np.float64)
        if self.tau:
            logits = logits - self.tau * log_prior(class_counts)
        if self.shifts:
            logits = logits + np.array(self.shifts)
        return logits / self.temperature


@dataclass(frozen=True)
class FoldValidation:
    """Predictions of the model of one fold for its validation images.

    Attributes:
      rows: rows of the manifest, (N,).
      logits: (N, C).
      labels: true classes, (N,) int.
      class_counts: training images of each class in this fold, (C,).
    """

    rows: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    class_counts: np.ndarray


def log_prior(class_counts: np.ndarray) -> np.ndarray:
    """Logarithm of the class frequencies, as in `losses.margins.adjust_logits` up to a constant.

    Args:
      class_counts: training images of each class, (..., C).

    Returns:
      (..., C) float64. A class without images counts as half an image, since log 0 would exclude all others.
    """
    counts = np.maximum(np.asarray(class_counts, np.float64), 0.5)
    return np.log(counts / counts.sum(-1, keepdims=True))


def fit_adjustment(
    logits: np.ndarray,
    labels: np.ndarray,
    class_counts: np.ndarray,
    criterion: str | Costs = "macro_f1",
    offsets: str = "prior",
) -> Adjustment:
    """Chooses tau, or an offset per class, by a score of the predicted classes, and then fits the temperature.

    With costs, what is minimised is the mean cost of the answers of least expected cost, calibrated for each candidate.
    Of equal scores the smallest tau is chosen. Offsets per class are searched from the chosen tau on, one class at a
    time; they have as many degrees of freedom as there are classes and need more validation images.

    Args:
      logits: of validation images, (N, C), finite.
      labels: true classes, (N,) int.
      class_counts: training images of each class, (C,), or (N, C) as for `Adjustment`.
      criterion: one of CRITERIA, to be maximised, or costs.
      offsets: "prior" for tau alone, or "class".

    Returns:
      The adjustment. Its temperature minimises the cross-entropy of the adjusted logits, within calibration.BOUNDS.

    Raises:
      ValueError: `criterion` or `offsets` is unknown.

    Reference: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, section 4.2; Lipton et al., "Optimal
    thresholding of classifiers to maximize F1 measure", ECML PKDD 2014, for thresholds of macro-F1.
    """
    if isinstance(criterion, str) and criterion not in CRITERIA:
        raise ValueError(f"the criterion {criterion!r} is unknown; choose one of {', '.join(CRITERIA)}")
    if offsets not in OFFSETS:
        raise ValueError(f"offsets of kind {offsets!r} are unknown; choose one of {', '.join(OFFSETS)}")

    def score(candidate: Adjustment) -> float:
        adjusted = candidate(logits, class_counts)
        if isinstance(criterion, str):
            return score_of(adjusted, labels, criterion)
        return -criterion.mean_of_logits(adjusted / fit_temperature(adjusted, labels), labels)

    chosen = max((Adjustment(tau=float(tau)) for tau in TAUS), key=score)
    if offsets == "class":
        chosen = _with_shifts(chosen, logits.shape[-1], score)
    temperature = fit_temperature(chosen(logits, class_counts), labels)
    return Adjustment(chosen.tau, chosen.shifts, temperature)


def is_allowed(validation_rows: np.ndarray, test_rows: np.ndarray) -> bool:
    """Returns whether the validation images of a fold may take part in a choice for a fold with these test images."""
    return not np.isin(validation_rows, test_rows).any()


def fit_pooled(validations: Sequence[FoldValidation], criterion: str | Costs = "macro_f1") -> Adjustment:
    """Chooses one adjustment on the validation images of several folds: one fold has few images of rare classes.

    Args:
      validations: validation predictions of the folds, at least one, of the same kind of model.
      criterion: as for `fit_adjustment`.
    """
    return fit_adjustment(
        np.concatenate([part.logits for part in validations]),
        np.concatenate([part.labels for part in validations]),
        np.concatenate([np.broadcast_to(part.class_counts, part.logits.shape) for part in validations]),
        criterion,
    )


def score_of(logits: np.ndarray, labels: np.ndarray, criterion: str) -> float:
    """Returns one of CRITERIA of the predicted classes, as in `metrics.classification_metrics`.

    Args:
      logits: (N, C).
      labels: true classes, (N,) int.
      criterion: its name.
    """
    confusion = np.zeros((logits.shape[-1],) * 2)
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
    return float(confusion_matrices.scores(confusion)[criterion])


def _with_shifts(start: Adjustment, num_classes: int, score: Callable[[Adjustment], float]) -> Adjustment:
    """Improves the shift of one class after another until none helps; the first of equal candidates is kept."""
    best, best_score = Adjustment(start.tau, (0.0,) * num_classes), score(start)
    for _ in range(MOST_ROUNDS):
        before = best
        for label in range(num_classes):
            for shift in sorted(SHIFTS, key=abs):
                shifts = (*best.shifts[:label], float(shift), *best.shifts[label + 1 :])
                candidate = Adjustment(start.tau, shifts)
                if (candidate_score := score(candidate)) > best_score:
                    best, best_score = candidate, candidate_score
        if best == before:
            break
    return best
