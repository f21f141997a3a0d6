"""Metrics between sets of features of real and generated images, with bootstrap intervals and a real-real baseline.

The features may be of any network, so the names KID and FID are not used: `kernel_distance` is the estimator of KID
and `frechet_distance` the formula of FID, each in the feature space that the caller names. Every value of `compare`
has a bootstrap interval, and as a baseline the same metric between two halves of the real images, because with a few
dozen images even two halves of one class are far apart.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dim_jax.gan.feature_sets import DENSITY_NEIGHBOURS, PRECISION_NEIGHBOURS, FeatureSets, weighted_frechet
from dim_jax.gan.resampling import (
    LEAST_IMAGES,
    RESAMPLES,
    TAILS,
    check_features,
    group_numbers,
    halvings,
    interval,
    resample,
)

FRECHET_RESAMPLES = 50  # fewer: each takes the singular values of a matrix of the size of the smaller set

# Metric -> lower and upper bound.
BOUNDS = {
    "kernel_distance": (-np.inf, np.inf),
    "frechet_distance": (0.0, np.inf),
    "precision": (0.0, 1.0),
    "recall": (0.0, 1.0),
    "density": (0.0, np.inf),
    "coverage": (0.0, 1.0),
}
METRICS = tuple(BOUNDS)


def kernel_distance(
    real: np.ndarray, generated: np.ndarray, groups: Sequence[Any] | None = None
) -> tuple[float, float | None]:
    """Unbiased squared maximum mean discrepancy with the kernel k(x, y) = (x . y / F + 1)^3; it may be negative.

    It is the mean of k over pairs of real images, plus that over pairs of generated ones, minus twice that over mixed
    pairs. No image is paired with itself or with one of its own group: images of one case are not independent.

    Args:
      real: (N, F), N >= 2.
      generated: (M, F), M >= 2.
      groups: case of every real image, (N,), at least two different ones; None if each image is its own case.

    Returns:
      The distance and its standard error by the two-sample jackknife (leaving out each group of real and each
      generated image in turn), which is None with fewer than three groups or images and too large where the two
      distributions are equal.

    Raises:
      ValueError: too few images, or features that do not fit or are not finite.

    Reference: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4; Efron & Stein, "The jackknife estimate
    of variance", Annals of Statistics 9 (1981).
    """
    real, generated = check_features(real, generated, 2)
    sets = FeatureSets(real, generated, group_numbers(groups, len(real)), np.arange(len(generated)))
    value = sets.kernel_distance(np.ones(len(real)), np.ones(len(generated)))
    return value, sets.kernel_standard_error()


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Squared Frechet distance of the normal distributions with the moments of two sets of features.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). With the centred features A1, A2 divided by sqrt(number - 1), so
    that S = A'A, the last trace is the sum of the singular values of A1 A2': no matrix square root is needed, and fewer
    images than features are no special case. The estimate is biased upward for few images, so only values for equal
    numbers of images are comparable.

    Args:
      real: (N, F), N >= 2.
      generated: (M, F), M >= 2.

    Raises:
      ValueError: too few images, or features that do not fit or are not finite.

    Reference: Dowson & Landau, "The Frechet distance between multivariate normal distributions", Journal of
    Multivariate Analysis 12 (1982), eq. 4; Heusel et al., "GANs trained by a two time-scale update rule converge to a
    local Nash equilibrium", NeurIPS 2017, for its use.
    """
    real, generated = check_features(real, generated, 2)
    return weighted_frechet(real, generated, np.ones(len(real)), np.ones(len(generated)))


def precision_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = PRECISION_NEIGHBOURS
) -> tuple[float, float]:
    """Improved precision and recall.

    Precision is the share of generated images inside the ball of at least one real image, whose radius is the distance
    to its `neighbours`-th nearest other real image; recall is the same with the roles exchanged.

    Args:
      real: (N, F), N > neighbours.
      generated: (M, F), M > neighbours.
      neighbours: k of the k-nearest-neighbour balls.

    Returns:
      Precision and recall, in [0, 1].

    Raises:
      ValueError: too few images, or features that do not fit or are not finite.

    Reference: Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models", NeurIPS
    2019, eqs. 1 and 2.
    """
    real, generated = check_features(real, generated, neighbours + 1)
    sets = FeatureSets(real, generated, np.arange(len(real)), np.arange(len(generated)))
    values = sets.neighbourhoods(np.ones(len(real)), np.ones(len(generated)), neighbours, neighbours)
    return values["precision"], values["recall"]


def density_coverage(
    real: np.ndarray, generated: np.ndarray, neighbours: int = DENSITY_NEIGHBOURS
) -> tuple[float, float]:
    """Density and coverage.

    Density is the mean number of real balls (see `precision_recall`) that contain a generated image divided by
    `neighbours`, about 1 for equal distributions; coverage is the share of real balls with a generated image in them.

    Args:
      real: (N, F), N > neighbours.
      generated: (M, F), M > neighbours.
      neighbours: k of the k-nearest-neighbour balls.

    Returns:
      Density, at least 0, and coverage, in [0, 1].

    Raises:
      ValueError: too few images, or features that do not fit or are not finite.

    Reference: Naeem et al., "Reliable fidelity and diversity metrics for generative models", ICML 2020, eqs. 3 and 4.
    """
    real, generated = check_features(real, generated, neighbours + 1)
    sets = FeatureSets(real, generated, np.arange(len(real)), np.arange(len(generated)))
    values = sets.neighbourhoods(np.ones(len(real)), np.ones(len(generated)), neighbours, neighbours)
    return values["density"], values["coverage"]


def compare(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
    space: str = "",
) -> dict[str, Any]:
    """All metrics with bootstrap intervals, and the same metrics between halves of the real images.

    The bootstrap resamples whole groups of real images, and generated images. Duplicates in a resample bias distances
    and neighbourhoods, so the interval is the spread of the resamples centred on the value. Copies of an image count by
    weight, never as neighbours of each other.

    All metrics but the kernel distance depend on the number of images. `same_size` therefore holds, for one number of
    images, the means over random halvings of the real images (by whole groups) of the metric between the two halves,
    and between one half and as many generated images. Compare these two.

    Args:
      real: features of real images, (N, F).
      generated: features of generated images, (M, F).
      groups: case of every real image, (N,); None if each image is its own case.
      seed: seed of the resampling.
      space: description of the features and their preprocessing, copied to the result.

    Returns:
      A JSON-ready dict: space, num_real, num_groups, num_generated, dimensions, same_size_images (images per half),
      notes (list of caveats), and metrics, from name to {"value", "interval": [low, high], "same_size": {"generated",
      "real_vs_real", "real_interval"}}; `same_size` is None if the real images cannot be halved. kernel_distance has
      its "standard_error" too.

    Raises:
      ValueError: fewer than 10 images on a side, or features that do not fit or are not finite.
    """
    real, generated = check_features(real, generated, LEAST_IMAGES)
    numbers = group_numbers(groups, len(real))
    sets = FeatureSets(real, generated, numbers, np.arange(len(generated)))
    values = sets.all_metrics(np.ones(len(real)), np.ones(len(generated)))
    intervals = _bootstrap(sets, values, np.random.default_rng([seed, 0]))
    halves = halvings(numbers, len(generated), np.random.default_rng([seed, 1]))
    same_size = _at_same_size(real, generated, numbers, halves)
    metrics = {
        name: {"value": values[name], "interval": intervals[name], "same_size": same_size.get(name)} for name in METRICS
    }
    metrics["kernel_distance"]["standard_error"] = sets.kernel_standard_error()
    return {
        "space": space,
        "num_real": len(real),
        "num_groups": int(numbers.max()) + 1,
        "num_generated": len(generated),
        "dimensions": real.shape[1],
        "same_size_images": len(halves[0][0]) if halves else None,
        "metrics": metrics,
        "notes": _notes(real, generated, numbers, halves),
    }


def at_equal_sizes(
    real: np.ndarray, generated: np.ndarray, *, groups: Sequence[Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """The metrics of `compare` at the size of half of the real images, without the Frechet distance and intervals.

    Args:
      real, generated, groups, seed: as in `compare`.

    Returns:
      "images" (per side) and, from metric to {"generated", "real_vs_real", "real_interval"}, the means over halvings;
      also of "spread" and "offset" (see `spread_and_offset`).

    Raises:
      ValueError: as in `compare`, or the real images cannot be halved.
    """
    real, generated = check_features(real, generated, LEAST_IMAGES)
    numbers = group_numbers(groups, len(real))
    halves = halvings(numbers, len(generated), np.random.default_rng([seed, 1]))
    if not halves:
        raise ValueError(_not_halved(numbers))
    metrics = _at_same_size(real, generated, numbers, halves, with_frechet=False)
    moments = {
        "generated": np.array([spread_and_offset(real[first], generated[subset]) for first, _, subset in halves]),
        "real_vs_real": np.array([spread_and_offset(real[first], real[second]) for first, second, _ in halves]),
    }
    for column, name in enumerate(("spread", "offset")):
        metrics[name] = {kind: float(values[:, column].mean()) for kind, values in moments.items()}
        metrics[name]["real_interval"] = np.quantile(moments["real_vs_real"][:, column], TAILS).tolist()
    return {"images": len(halves[0][0]), **metrics}


def spread_and_offset(real: np.ndarray, generated: np.ndarray) -> tuple[float, float]:
    """Spread of generated images and distance of their mean from that of real ones, in units of the real spread.

    The spread is the root mean square distance from the mean.

    Args:
      real: features of real images, (N, F), not all equal.
      generated: features of generated images, (M, F).

    Returns:
      Ratio of the spreads, 1 for equal distributions, and offset of the means, about sqrt(1 / N + 1 / M) for them.
    """
    spreads = [np.sqrt(((features - features.mean(0)) ** 2).sum(1).mean()) for features in (real, generated)]
    if not spreads[0]:
        raise ValueError("the features of the real images are all equal")
    offset = np.linalg.norm(generated.mean(0) - real.mean(0))
    return float(spreads[1] / spreads[0]), float(offset / spreads[0])


def _not_halved(numbers: np.ndarray) -> str:
    return (
        f"real against real is missing: {len(numbers)} real images of {int(numbers.max()) + 1} cases do not give two "
        f"halves of at least {LEAST_IMAGES} images"
    )


def _notes(real: np.ndarray, generated: np.ndarray, numbers: np.ndarray, halves: list) -> list[str]:
    """Returns caveats of a comparison."""
    notes = []
    if min(len(real), len(generated)) <= real.shape[1]:
        notes.append(
            f"frechet_distance is not reliable: fewer images than the {real.shape[1]} features do not determine their "
            "covariance; read it only beside real against real at the same size"
        )
    if not halves:
        notes.append(_not_halved(numbers))
    return notes


def _bootstrap(sets: FeatureSets, values: dict[str, float], rng: np.random.Generator) -> dict[str, list[float]]:
    """Returns the interval of each metric: the spread of its resamples around its value."""
    resampled: dict[str, list[float]] = {name: [] for name in METRICS}
    for number in range(RESAMPLES):
        real, generated = (resample(groups, rng) for groups in (sets.groups, sets.generated_groups))
        for name, value in sets.all_metrics(real, generated, number < FRECHET_RESAMPLES).items():
            resampled[name].append(value)
    return {name: interval(values[name], np.array(resampled[name]), *BOUNDS[name]) for name in METRICS}


def _at_same_size(
    real: np.ndarray,
    generated: np.ndarray,
    groups: np.ndarray,
    halves: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    with_frechet: bool = True,
) -> dict[str, dict[str, Any]]:
    """Returns the metrics between halves of the real images, and between a half and as many generated images."""
    by_kind: dict[str, dict[str, list[float]]] = {name: {"generated": [], "real": []} for name in METRICS}
    for first, second, subset in halves:
        ones = np.ones(len(first))
        first_groups, second_groups = (group_numbers(groups[half], len(half)) for half in (first, second))
        for kind, others, other_groups in (
            ("real", real[second], second_groups),
            ("generated", generated[subset], np.arange(len(subset))),
        ):
            values = FeatureSets(real[first], others, first_groups, other_groups).all_metrics(ones, ones, with_frechet)
            for name, value in values.items():
                by_kind[name][kind].append(value)
    return {
        name: {
            "generated": float(np.mean(values["generated"])),
            "real_vs_real": float(np.mean(values["real"])),
            "real_interval": np.quantile(values["real"], TAILS).tolist(),
        }
        for name, values in by_kind.items()
        if values["real"]
    }
