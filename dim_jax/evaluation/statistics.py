"""How far scores of classifiers, and differences between them, can be trusted where images of one case are alike.

The unit is the case. Everything follows from one confusion matrix per seed and case: a resample of cases is a weight
per case, so that the pooled matrices of thousands of resamples are one matrix product. The predictions should be the
out-of-fold ones of a grouped k-fold, so that each seed predicts every image once; a single test split has too few cases
of the rare classes. Scores are those of `metrics`, computed per seed over all images and then averaged over the seeds.

Intervals and tests say what other cases would change, with the models as they were trained; the standard deviation over
seeds says what training again would change.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_RESAMPLES = 10_000
NUM_FLIPS = 10_000
CHUNK = 1_000  # resamples whose pooled matrices are in memory at once
ROUNDING = 1e-12  # two differences this close are equal


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of two, with its bootstrap interval.

    Attributes:
      value: the mean over the seeds.
      low, high: the interval.
      confidence: of the interval, in (0, 1).
      num_seeds: how many there are.
      seed_sd: the standard deviation over them; None with a single one.
      num_resamples: resamples of the cases behind the interval.
      num_redrawn: resamples drawn besides and not used, because they lacked a class.
    """

    value: float
    low: float
    high: float
    confidence: float
    num_seeds: int
    seed_sd: float | None
    num_resamples: int
    num_redrawn: int


@dataclass(frozen=True)
class SignFlipTest:
    """The test of one difference.

    Attributes:
      difference: of the arm less the baseline, the mean over the seeds.
      p_value: two-sided, in (0, 1].
      num_flips: exchanges of the two arms behind it.
      is_exact: whether these are all that there are.
      num_differing: cases on which the arms differ.
    """

    difference: float
    p_value: float
    num_flips: int
    is_exact: bool
    num_differing: int


def case_confusions(labels: np.ndarray, predictions: np.ndarray, cases: Sequence[Any], num_classes: int) -> np.ndarray:
    """Counts one confusion matrix per seed and case.

    Args:
      labels: (N,) int.
      predictions: of S seeds, (S, N) int.
      cases: case of every image, (N,); near-duplicates across cases make them one case (see `data.splits.units_of`).
      num_classes: C.

    Returns:
      (S, K, C, C) int64: K cases in sorted order, rows are the truth. It does not depend on the order of the images.

    Raises:
      ValueError: no images, shapes that do not fit, an image without a case, or a label or prediction without a class.
    """
    labels, predictions, cases = np.asarray(labels), np.asarray(predictions), np.asarray(cases)
    if predictions.ndim != 2 or not predictions.size or not labels.shape == cases.shape == predictions.shape[1:]:
        raise ValueError(
            f"labels {labels.shape}, predictions {predictions.shape} and cases {cases.shape} do not fit; "
            "(N,), (S, N) and (N,) do"
        )
    for row, case in enumerate(cases):
        if case is None or case == "":
            raise ValueError(f"image {row} has no case; an image of unknown case is a case of its own")
    for name, values in (("label", labels), ("prediction", predictions)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"a {name} must be the number of a class, not {values.dtype}")
        for value in values[(values < 0) | (values >= num_classes)]:
            raise ValueError(f"{name} {value} has no class; there are {num_classes} classes, from 0 on")
    numbers = np.unique(cases, return_inverse=True)[1].reshape(-1)
    shape = (int(numbers.max()) + 1, num_classes, num_classes)
    return np.stack(
        [
            np.bincount(np.ravel_multi_index((numbers, labels, predicted), shape), minlength=np.prod(shape))
            for predicted in predictions
        ]
    ).reshape(-1, *shape)


def scores(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the scores of confusion matrices as `metrics.classification_metrics` defines them.

    Args:
      confusions: (..., C, C), numbers or weights of images, rows are the truth.

    Returns:
      Name -> (...): accuracy, balanced_accuracy, macro_precision, macro_f1, g_mean, mcc, and recall_0, f1_0, recall_1
      and so on of every class; the latter are NaN where the class is absent. Of a matrix without images all are NaN
      but mcc, which is 0 wherever it is undefined.
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
        found = {
            "accuracy": num_hits / total,
            "balanced_accuracy": recalls,
            "macro_precision": precisions,
            "macro_f1": f1s,
            "g_mean": np.exp(logarithms),
            "mcc": np.where(variances > 0, covariance / np.sqrt(variances), 0),
        }
    for label in range(confusions.shape[-1]):
        found |= {f"recall_{label}": recall[..., label], f"f1_{label}": f1[..., label]}
    return found


def rarest_classes(counts: np.ndarray) -> np.ndarray:
    """Returns the class of each case that has the fewest images in all cases, (K,), from class counts (K, C)."""
    rare_first = np.argsort(counts.sum(0), kind="stable")
    return rare_first[(counts[:, rare_first] > 0).argmax(1)]


def bootstrap_weights(counts: np.ndarray, num_resamples: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draws cases with replacement within strata: the cases with the same rarest class.

    Of n cases of a stratum n - 1 are drawn, and each counts n / (n - 1) times: n draws would have only (n - 1) / n of
    the variance, which matters where a rare class has few cases. A stratum's only case is always there. A resample that
    lacks a class has no average over all classes; it is drawn again.

    Args:
      counts: images of every class in every case, (K, C).
      num_resamples: B.
      rng: source of the draws.

    Returns:
      How often every resample counts every case, (B, K) float64, and how many were drawn besides and not used.

    Raises:
      ValueError: a class of fewer than two cases, of whose variation between cases nothing is known.

    Reference: Rao & Wu, "Resampling inference with complex survey data", Journal of the American Statistical
    Association 83 (1988).
    """
    counts = np.asarray(counts)
    for label in np.flatnonzero((counts > 0).sum(0) < 2):
        raise ValueError(f"class {label} has {(counts[:, label] > 0).sum()} case(s); a bootstrap of cases needs two")
    strata = rarest_classes(counts)
    weights, to_draw, num_drawn = np.empty((num_resamples, len(counts))), np.arange(num_resamples), 0
    while len(to_draw):
        for stratum in np.unique(strata):
            members = np.flatnonzero(strata == stratum)
            size, draws = len(members), max(len(members) - 1, 1)
            drawn = rng.multinomial(draws, np.full(size, 1 / size), len(to_draw))
            weights[np.ix_(to_draw, members)] = drawn * (size / draws)
        num_drawn += len(to_draw)
        to_draw = to_draw[(weights[to_draw] @ counts == 0).any(1)]
    return weights, num_drawn - num_resamples


def estimates(
    confusions: np.ndarray, *, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Estimates every score of one arm, with the percentile interval of a bootstrap of whole cases.

    Where a class has some fifteen cases or fewer, intervals of 95% hold the truth in 92 to 93% of data sets.

    Args:
      confusions: of `case_confusions`, (S, K, C, C).
      confidence: of the interval, in (0, 1).
      num_resamples: of the cases, the same in all seeds.
      seed: of the resamples.

    Returns:
      Name of `scores` -> estimate.

    Raises:
      ValueError: confusion matrices that do not fit, a class of fewer than two cases, or an option out of range.
    """
    return _estimates(_checked(confusions), confidence, num_resamples, seed)


def differences(
    arm: np.ndarray,
    baseline: np.ndarray,
    *,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimates how much higher every score of an arm is than that of the baseline, both on the same resamples.

    Args:
      arm, baseline: of `case_confusions` with the same images and seeds, (S, K, C, C); otherwise as in `estimates`.

    Returns:
      Name of `scores` -> estimate of the difference; its seed_sd is that of the differences seed by seed.

    Raises:
      ValueError: as in `estimates`, or arms that were not scored on the same images.
    """
    return _estimates(_checked(arm, baseline), confidence, num_resamples, seed)


def sign_flip_test(
    arm: np.ndarray, baseline: np.ndarray, *, num_flips: int = NUM_FLIPS, seed: int = 0
) -> dict[str, SignFlipTest]:
    """Tests for every score whether an arm and the baseline differ by more than chance puts between two equal arms.

    If they do not differ, it is arbitrary which prediction of a case is called whose. So each case's predictions, of
    all seeds together, are exchanged at random, and the difference is computed anew from all images. Were a score a sum
    over cases, that would flip the sign of each case's term; macro-F1, G-mean and MCC are no such sums, and have no
    terms to flip. Cases on which the arms agree change nothing. Where the others allow no more than `num_flips`
    exchanges, all are made; otherwise the observed one is counted among the random ones, so that p is never 0.

    Args:
      arm, baseline: of `case_confusions` with the same images and seeds, (S, K, C, C).
      num_flips: number of exchanges, the same for all scores.
      seed: of the exchanges.

    Returns:
      Name of `scores` -> test. The p-values are not corrected for their number: see `holm`.

    Raises:
      ValueError: arms that were not scored on the same images, or an option out of range.

    Reference: Ernst, "Permutation methods: a basis for exact inference", Statistical Science 19 (2004); Phipson &
    Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9
    (2010), for the count.
    """
    arm, baseline = _checked(arm, baseline)
    if num_flips < 1:
        raise ValueError(f"num_flips={num_flips} must be at least 1")
    differs = (arm != baseline).any((0, 2, 3))
    num_differing = int(differs.sum())
    is_exact = 2**num_differing <= num_flips
    if is_exact:
        num_flips = 2**num_differing
        flips = np.arange(num_flips)[:, None] >> np.arange(num_differing) & 1
    else:
        flips = np.random.default_rng(seed).integers(2, size=(num_flips, num_differing))
    own, both, lead = arm.sum(1)[:, None], (arm + baseline).sum(1)[:, None], (arm - baseline)[:, differs]
    exchanged = (own - _pooled(chunk, lead) for chunk in _chunks(flips))
    flipped = _seed_means((pooled, both - pooled) for pooled in exchanged)
    tests = {}
    for name, (difference,) in _seed_means([(own, both - own)]).items():
        as_far = int((np.abs(flipped[name]) >= abs(difference) - ROUNDING).sum())
        p_value = as_far / num_flips if is_exact else (as_far + 1) / (num_flips + 1)
        tests[name] = SignFlipTest(float(difference), p_value, num_flips, is_exact, num_differing)
    return tests


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjusts p-values for their number: rejecting those up to alpha errs at all with a probability of at most alpha.

    Sorted, the k-th smallest of m is multiplied by m - k + 1, and none is less than one before it nor above 1.

    Args:
      p_values: (M,), in [0, 1], of all the comparisons that might have been reported.

    Returns:
      (M,), in the order given.

    Raises:
      ValueError: a value that is no probability.

    Reference: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979).
    """
    p_values = np.asarray(p_values, np.float64)
    for value in p_values[~((p_values >= 0) & (p_values <= 1))]:
        raise ValueError(f"p-value {value} is not in [0, 1]")
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


def _estimates(arms: Sequence[np.ndarray], confidence: float, num_resamples: int, seed: int) -> dict[str, Estimate]:
    """Estimates the scores of one arm, or of the first less the second."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1")
    if num_resamples < 1:
        raise ValueError(f"num_resamples={num_resamples} must be at least 1")
    weights, num_redrawn = bootstrap_weights(arms[0][0].sum(-1), num_resamples, np.random.default_rng(seed))
    resampled = _seed_means([_pooled(chunk, arm) for arm in arms] for chunk in _chunks(weights))
    found = {}
    for name, of_seeds in _contrast([arm.sum(1) for arm in arms]).items():
        low, high = np.quantile(resampled[name], ((1 - confidence) / 2, (1 + confidence) / 2))
        found[name] = Estimate(
            value=float(of_seeds.mean()),
            low=float(low),
            high=float(high),
            confidence=confidence,
            num_seeds=len(of_seeds),
            seed_sd=float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else None,
            num_resamples=num_resamples,
            num_redrawn=num_redrawn,
        )
    return found


def _contrast(pooled: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The scores of the one array of confusion matrices, or those of the first less those of the second."""
    first, *others = map(scores, pooled)
    return {name: values - sum(other[name] for other in others) for name, values in first.items()}


def _seed_means(chunks: Iterable[Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Contrasts of pooled matrices (S, B, C, C), averaged over the seeds and joined over the chunks."""
    found = [{name: values.mean(0) for name, values in _contrast(pooled).items()} for pooled in chunks]
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))


def _pooled(weights: np.ndarray, confusions: np.ndarray) -> np.ndarray:
    """Sums matrices (S, K, C, C) over the cases with weights (B, K) to (S, B, C, C)."""
    num_seeds, num_cases, num_classes, _ = confusions.shape
    sums = weights.astype(np.float64) @ confusions.reshape(num_seeds, num_cases, num_classes**2)
    return sums.reshape(num_seeds, len(weights), num_classes, num_classes)


def _checked(*arms: np.ndarray) -> list[np.ndarray]:
    arms = [np.asarray(arm, np.float64) for arm in arms]
    for arm in arms:
        if arm.ndim != 4 or not arm.size or arm.shape[2] != arm.shape[3] or arm.shape != arms[0].shape:
            shapes = " and ".join(str(arm.shape) for arm in arms)
            raise ValueError(f"confusion matrices of shape {shapes} do not fit; they must be (S, K, C, C), and alike")
        if (arm.sum(-1) != arms[0][0].sum(-1)).any():
            raise ValueError("all seeds and arms must be scored on the same images of the same cases")
    for label in np.flatnonzero(arms[0][0].sum((0, 2)) == 0):
        raise ValueError(f"class {label} has no images; scores averaged over all classes need some")
    return arms
