"""The choice of one arm among several by validation predictions, for each fold without its test images.

In a k-fold split the validation images of one fold are the test images of another. For fold f, only the folds whose
validation images include no test image of f are pooled. Nothing here has access to predictions of test images.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dim_jax.evaluation.adjustment import FoldValidation, fit_pooled, is_allowed, score_of


def choose(validations: Mapping[str, Sequence[FoldValidation]], test_rows: np.ndarray, metric: str) -> str:
    """Returns the arm with the best score of its pooled validation predictions, adjusted for imbalance.

    All arms are adjusted in the same way, so that none is preferred for a shift of the logits that any can have.

    Args:
      validations: for each arm, its validation predictions in all folds.
      test_rows: rows of the test images of the fold to choose for; folds that validate on any of them are left out.
      metric: one of adjustment.CRITERIA.

    Returns:
      Its name; the first of equal ones.

    Raises:
      ValueError: no fold is left, or the arms have other validation images.
    """
    allowed = {name: [run for run in runs if is_allowed(run.rows, test_rows)] for name, runs in validations.items()}
    images = {tuple(sorted(row for run in runs for row in run.rows.tolist())) for runs in allowed.values()}
    if len(images) != 1:
        raise ValueError(f"{', '.join(validations)} have predictions of other validation images")
    if images == {()}:
        raise ValueError("every fold validates on images of this test part, so there is nothing to choose on")

    def score(name: str) -> float:
        adjustment = fit_pooled(allowed[name], metric)
        adjusted = [adjustment(run.logits, run.class_counts) for run in allowed[name]]
        return score_of(np.concatenate(adjusted), np.concatenate([run.labels for run in allowed[name]]), metric)

    return max(allowed, key=score)
