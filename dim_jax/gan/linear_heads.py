"""Linear heads on frozen features: how well generated images are told from real ones, and what can be learned of them.

Both are multinomial logistic regressions on features standardised by the head's own training images.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dim_jax.gan.resampling import LEAST_IMAGES, TAILS, check_features, group_numbers, halvings, resample

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

PENALTY = 0.1  # C of scikit-learn's LogisticRegression: the inverse of the strength of the L2 penalty
FOLDS = 5
TRIALS = 4  # halvings of the real images, and draws of equally many images
INTERVAL_RESAMPLES = 1000


def _fitted(features: np.ndarray, labels: np.ndarray) -> "Pipeline":
    """Returns a head trained on features (N, F) and labels (N,)."""
    import threadpoolctl
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    head = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, class_weight="balanced", max_iter=300))
    # Sums over several threads differ in their last bits, and for so few images threads cost more than they save.
    with threadpoolctl.threadpool_limits(1):
        return head.fit(features, labels)


def separability(
    real: np.ndarray, generated: np.ndarray, *, groups: Sequence[Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Accuracy at which a linear head tells generated from real images, beside one half of the real from the other.

    Classifier two-sample test: cross-validated over folds without a common case, at equal numbers, so that chance is
    0.5. Real halves are of different cases, too, which a head may tell apart by chance.

    Args:
      real: features of real images, (N, F).
      generated: features of generated images, (M, F).
      groups: case of every real image, (N,); None if each image is its own case.
      seed: seed of the halves and folds.

    Returns:
      A JSON-ready dict: "images" of each side, and the accuracies "generated" and "real_vs_real", means over halvings.

    Raises:
      ValueError: fewer than 10 images on a side or in half of the real images, or features that do not fit or are not
        finite.

    Reference: Lopez-Paz & Oquab, "Revisiting classifier two-sample tests", ICLR 2017.
    """
    real, generated = check_features(real, generated, LEAST_IMAGES)
    numbers, halves = _halves(groups, len(real), len(generated), seed)
    # A generated image is its own case; numbers of real cases end below len(real).
    accuracy = [
        _accuracy(real[first], generated[subset], numbers[first], len(real) + np.arange(len(subset)), seed)
        for first, _, subset in halves
    ]
    between_real = [
        _accuracy(real[first], real[second], numbers[first], numbers[second], seed) for first, second, _ in halves
    ]
    return {
        "images": len(halves[0][0]),
        "generated": float(np.mean(accuracy)),
        "real_vs_real": float(np.mean(between_real)),
    }


def separability_of_versions(
    one: np.ndarray, other: np.ndarray, *, groups: Sequence[Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Accuracy at which a linear head tells two versions of the same images apart, such as sharp and blurred ones.

    One version of the images of one half of the cases is told from the other version of the other half.

    Args:
      one, other: features of the two versions, (N, F) each.
      groups, seed: as in `separability`.

    Returns:
      A JSON-ready dict: "images" of each side, and "accuracy", the mean over halvings.

    Raises:
      ValueError: as in `separability`.
    """
    one, other = check_features(one, other, LEAST_IMAGES)
    numbers, halves = _halves(groups, len(one), len(one), seed)
    accuracy = [
        _accuracy(one[first], other[second], numbers[first], numbers[second], seed) for first, second, _ in halves
    ]
    return {"images": len(halves[0][0]), "accuracy": float(np.mean(accuracy))}


def _halves(
    groups: Sequence[Any] | None, count: int, generated: int, seed: int
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Returns the case numbers of `count` real images, and a few halvings of them."""
    numbers = group_numbers(groups, count)
    halves = halvings(numbers, generated, np.random.default_rng([seed, 1]))[:TRIALS]
    if not halves:
        raise ValueError(f"{count} real images do not give two halves of at least {LEAST_IMAGES} images")
    return numbers, halves


def _accuracy(one: np.ndarray, other: np.ndarray, one_groups: np.ndarray, other_groups: np.ndarray, seed: int) -> float:
    """Cross-validated accuracy of telling two sets apart, the mean of both sides' accuracies."""
    from sklearn.model_selection import StratifiedGroupKFold

    features, labels = np.concatenate([one, other]), np.repeat([0, 1], [len(one), len(other)])
    groups = np.concatenate([one_groups, other_groups])
    folds = min(FOLDS, len(np.unique(one_groups)), len(np.unique(other_groups)))
    if folds < 2:
        raise ValueError("the images of one side are all of one case; two cases are needed for cross-validation")
    is_right, is_tested = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(features, labels, groups):
        if len(np.unique(labels[train])) < 2:
            continue  # one side's cases are too few for every fold to train on both
        is_right[test] = _fitted(features[train], labels[train]).predict(features[test]) == labels[test]
        is_tested[test] = True
    return float(np.mean([is_right[is_tested & (labels == side)].mean() for side in (0, 1)]))


def generated_to_real(
    train: np.ndarray,
    train_labels: np.ndarray,
    generated: np.ndarray,
    generated_labels: np.ndarray,
    held_out: np.ndarray,
    held_out_labels: np.ndarray,
    *,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train on generated, test on real: scores of linear heads on real held-out images, and the gap between them.

    One head learns from real images of all classes. In the other, the images of every generated class are generated
    ones. Both have equally many images of these classes: as many as there are real or generated ones, whichever are
    fewer.

    Args:
      train, train_labels: features (N, F) and labels (N,) of real training images.
      generated, generated_labels: those of generated images, (M, F) and (M,).
      held_out, held_out_labels: those of real validation images, (V, F) and (V,).
      groups: case of every validation image, (V,); None if each image is its own case.
      seed: seed of the draws of equally many images, and of the interval.

    Returns:
      A JSON-ready dict: "images" (per generated class, from label to number), "balanced_accuracy" {"real", "generated",
      "gap", "gap_interval"} and "recall" (from label to {"real", "generated", "images"}), means over TRIALS draws. The
      gap is real minus generated; its 95 % interval resamples the validation cases.

    Raises:
      ValueError: a generated class has fewer than 10 real or generated images, there are fewer than two classes of real
        training images, or no validation image is of a generated class.

    Reference: Ravuri & Vinyals, "Classification accuracy score for conditional generative models", NeurIPS 2019.
    """
    classes = np.unique(generated_labels).tolist()
    counts = {
        label: min(int((train_labels == label).sum()), int((generated_labels == label).sum())) for label in classes
    }
    for label, count in counts.items():
        if count < LEAST_IMAGES:
            raise ValueError(f"class {label} has {count} real or generated images, too few; {LEAST_IMAGES} are needed")
    if len(np.unique(train_labels)) < 2:
        raise ValueError("a head needs training images of at least two classes")
    if not np.isin(held_out_labels, classes).any():
        raise ValueError("there are no validation images of the generated classes")
    rng = np.random.default_rng([seed, 2])
    is_right: dict[str, list[np.ndarray]] = {"real": [], "generated": []}
    others = np.flatnonzero(~np.isin(train_labels, classes))
    for _ in range(TRIALS):
        for name, features, labels in (("real", train, train_labels), ("generated", generated, generated_labels)):
            rows = np.concatenate([
                rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in counts.items()
            ])  # fmt: skip
            fitted = _fitted(
                np.concatenate([train[others], features[rows]]), np.concatenate([train_labels[others], labels[rows]])
            )
            is_right[name].append(fitted.predict(held_out) == held_out_labels)
    share = {name: np.mean(trials, axis=0) for name, trials in is_right.items()}  # of the draws, (V,)
    scores = {name: _balanced(values, held_out_labels) for name, values in share.items()}
    numbers = group_numbers(groups, len(held_out))
    gaps = [
        _balanced(share["real"] - share["generated"], held_out_labels, resample(numbers, rng))
        for _ in range(INTERVAL_RESAMPLES if numbers.max() else 0)
    ]
    gap = {
        "gap": scores["real"] - scores["generated"],
        "gap_interval": np.quantile(gaps, TAILS).tolist() if gaps else None,
    }
    recall = {
        label: {name: float(values[held_out_labels == label].mean()) for name, values in share.items()}
        | {"images": int((held_out_labels == label).sum())}
        for label in classes
        if (held_out_labels == label).any()
    }
    return {"images": counts, "balanced_accuracy": scores | gap, "recall": recall}


def _balanced(values: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean over classes of the weighted means of `values`; classes without weight are left out."""
    weights = np.ones(len(labels)) if weights is None else weights
    totals: Mapping[Any, float] = {label: weights[labels == label].sum() for label in np.unique(labels)}
    means = [(weights * values)[labels == label].sum() / total for label, total in totals.items() if total > 0]
    return float(np.mean(means))
