"""How close generated images are to real ones, by their features: numbers, their uncertainty, and what real is worth.

The features may be any network's, so the names of the Inception network's metrics are not used: `kernel_distance` is
the estimator of KID and `frechet_distance` the formula of FID, each in the space that the caller names. Every number
of `compare` comes with a bootstrap interval and with the same number between two halves of the real images, because
with a few dozen images two halves of the very same class lie far apart. `inception_scores` does the same for the
inception score, which looks at generated images alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dim_jax.gan.feature_sets import DENSITY_NEIGHBOURS, PRECISION_NEIGHBOURS, Samples, weighted_frechet

LEAST_IMAGES = 10
RESAMPLES = 200
FRECHET_RESAMPLES = 50  # each needs the singular values of a matrix as large as the smaller set
HALVINGS = 20
LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2)

# Metric -> least and greatest value.
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
    """Squared maximum mean discrepancy with the kernel k(x, y) = (x . y / F + 1)^3, unbiased: it may be below zero.

    It is the mean of k over pairs of real images, plus that over pairs of generated ones, minus twice that over mixed
    pairs. No image is paired with itself, nor with one of its own group: images of one case are no independent draws.

    Args:
      real: (N, F), N >= 2.
      generated: (M, F), M >= 2.
      groups: case of every real image, (N,), of at least two cases; None where each image is its own.

    Returns:
      The distance and its standard error, by the two-sample jackknife (leaving out each group of real and each
      generated image in turn), None with fewer than three groups or images; it errs upward where the two distributions
      are equal.

    Reference: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4; Efron & Stein, "The jackknife estimate
    of variance", Annals of Statistics 9 (1981).
    """
    real, generated = _checked(real, generated, 2)
    samples = Samples(real, generated, _group_numbers(groups, len(real)), np.arange(len(generated)))
    value = samples.kernel_distance(np.ones(len(real)), np.ones(len(generated)))
    return value, samples.kernel_standard_error()


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Squared Frechet distance of the normal distributions with the moments of two sets of features.

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). With the centred features A1, A2 divided by the root of their
    number less one, so that S = A'A, the last trace is the sum of the singular values of A1 A2': no root of a matrix is
    taken, and fewer images than features are no special case. The value then still is far too large, as always with
    few images, so that only values of equal numbers of images compare.

    Args:
      real: (N, F), N >= 2.
      generated: (M, F), M >= 2.

    Reference: Dowson & Landau, "The Frechet distance between multivariate normal distributions", Journal of
    Multivariate Analysis 12 (1982), eq. 4; Heusel et al., NeurIPS 2017, for its use.
    """
    real, generated = _checked(real, generated, 2)
    return weighted_frechet(real, generated, np.ones(len(real)), np.ones(len(generated)))


def precision_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = PRECISION_NEIGHBOURS
) -> tuple[float, float]:
    """Improved precision and recall.

    Precision is the share of generated images that lie within the ball of some real image, whose radius is the distance
    to its `neighbours`-th nearest other real image; recall is the same with the roles exchanged.

    Args:
      real: (N, F), N > neighbours.
      generated: (M, F), M > neighbours.

    Reference: Kynkäänniemi et al., "Improved precision and recall metric for assessing generative models", NeurIPS
    2019, eqs. 1 and 2.
    """
    real, generated = _checked(real, generated, neighbours + 1)
    samples = Samples(real, generated, np.arange(len(real)), np.arange(len(generated)))
    found = samples.neighbourhoods(np.ones(len(real)), np.ones(len(generated)), neighbours, neighbours)
    return found["precision"], found["recall"]


def density_coverage(
    real: np.ndarray, generated: np.ndarray, neighbours: int = DENSITY_NEIGHBOURS
) -> tuple[float, float]:
    """Density and coverage.

    Density is the mean number of real balls (see `precision_recall`) around a generated image divided by `neighbours`,
    about 1 for equal distributions; coverage is the share of real balls with a generated image in them.

    Args:
      real: (N, F), N > neighbours.
      generated: (M, F), M >= 1.

    Reference: Naeem et al., "Reliable fidelity and diversity metrics for generative models", ICML 2020, eqs. 3 and 4.
    """
    real, generated = _checked(real, generated, neighbours + 1)
    samples = Samples(real, generated, np.arange(len(real)), np.arange(len(generated)))
    found = samples.neighbourhoods(np.ones(len(real)), np.ones(len(generated)), neighbours, neighbours)
    return found["density"], found["coverage"]


def inception_score(logits: np.ndarray) -> float:
    """exp of the mean over images of KL(p(y | x) || p(y)), where p(y) is the mean of p(y | x) over the same images.

    1 where all images give the same probabilities, at most the number of classes or of images. Few images give too
    small a value. The mean is over all images; the authors' code averages the scores of ten tenths.

    Args:
      logits: of every image, (N, C), N >= 1; for the published score those of `feature_nets.inception_features`.

    Reference: Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, section 4.
    """
    return _Probabilities(logits).inception_score(np.ones(len(logits)))


def inception_scores(
    real: np.ndarray, generated: np.ndarray, *, groups: Sequence[Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Computes the inception score of generated images, and that of real ones beside it.

    Args:
      real, generated: logits, (N, C) and (M, C); otherwise as for `compare`, whose intervals and halves these are.

    Returns:
      A JSON-ready dict: "generated" and "real", each {"value", "interval": [low, high]}, and "same_size", the mean
      scores of halves of the real images and of as many generated ones: {"generated", "real", "real_interval"}, or
      None where the real images cannot be halved.

    Raises:
      ValueError: fewer than 10 images on a side, or logits that do not fit or are not finite.
    """
    real, generated = _checked(real, generated, LEAST_IMAGES)
    groups_of = {"real": _group_numbers(groups, len(real)), "generated": np.arange(len(generated))}
    sets = {"real": _Probabilities(real), "generated": _Probabilities(generated)}
    rng, found = np.random.default_rng([seed, 0]), {}
    for name, images in sets.items():
        value = images.inception_score(np.ones(len(groups_of[name])))
        drawn = [images.inception_score(_draw(groups_of[name], rng)) for _ in range(RESAMPLES)]
        found[name] = {"value": value, "interval": _around(value, np.array(drawn), 1.0, np.inf)}
    halves = _halvings(groups_of["real"], len(generated), np.random.default_rng([seed, 1]))
    found["same_size"] = None
    if halves:
        of_real = [inception_score(real[half]) for half, _, _ in halves]
        found["same_size"] = {
            "generated": float(np.mean([inception_score(generated[some]) for _, _, some in halves])),
            "real": float(np.mean(of_real)),
            "real_interval": np.quantile(of_real, TAILS).tolist(),
        }
    return found


def compare(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
    space: str = "",
) -> dict[str, Any]:
    """Computes all metrics with intervals, and what they are between halves of the real images.

    Intervals are those of the bootstrap: whole groups of real images, and generated images, drawn with replacement.
    Drawing an image twice moves distances and neighbourhoods by itself, so the interval has the bootstrap's spread
    around the value instead of its own centre. Copies of an image count as weight, never as each other's neighbour.

    All metrics but the kernel distance depend on the number of images. `same_size` therefore holds, at one number of
    images, the mean over random halvings of the real images (whole groups) of: half against half, and half against as
    many generated images. Compare these two.

    Args:
      real: features of real images, (N, F).
      generated: features of generated images, (M, F).
      groups: case of every real image, (N,); None where each is its own.
      seed: of the resampling.
      space: name of the features and their preprocessing, passed through.

    Returns:
      A JSON-ready dict: space, num_real, num_groups, num_generated, dimensions, notes (list of caveats), and metrics,
      from name to {"value", "interval": [low, high], "same_size": {"generated", "real_vs_real", "real_interval"}};
      `same_size` is None where the real images cannot be halved, and "same_size_images" says how many there are in a
      half. kernel_distance has its "standard_error" too.

    Raises:
      ValueError: fewer than 10 images on a side, or features that do not fit or are not finite.
    """
    real, generated = _checked(real, generated, LEAST_IMAGES)
    numbers = _group_numbers(groups, len(real))
    samples = Samples(real, generated, numbers, np.arange(len(generated)))
    everything = samples.all_metrics(np.ones(len(real)), np.ones(len(generated)))
    intervals = _bootstrap(samples, everything, np.random.default_rng([seed, 0]))
    halves = _halvings(numbers, len(generated), np.random.default_rng([seed, 1]))
    same_size = _at_same_size(real, generated, numbers, halves)
    metrics = {
        name: {"value": everything[name], "interval": intervals[name], "same_size": same_size.get(name)}
        for name in METRICS
    }
    metrics["kernel_distance"]["standard_error"] = samples.kernel_standard_error()
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


def _notes(real: np.ndarray, generated: np.ndarray, numbers: np.ndarray, halves: list) -> list[str]:
    notes = []
    if min(len(real), len(generated)) <= real.shape[1]:
        notes.append(
            f"frechet_distance is not reliable: fewer images than the {real.shape[1]} features cannot tell their "
            "covariance; read it only beside real against real at the same size"
        )
    if not halves:
        notes.append(
            f"real against real is missing: {len(real)} real images of {int(numbers.max()) + 1} cases do not give two "
            f"halves of at least {LEAST_IMAGES} images"
        )
    return notes


class _Probabilities:
    """What the inception score needs of logits (N, C); weights (N,) say how often an image was drawn."""

    def __init__(self, logits: np.ndarray):
        logits = np.asarray(logits, np.float64)
        shifted = logits - logits.max(1, keepdims=True)
        log_sums = np.log(np.exp(shifted).sum(1, keepdims=True))
        self._values = np.exp(shifted - log_sums)
        self._entropies = -(self._values * (shifted - log_sums)).sum(1)

    def inception_score(self, weights: np.ndarray) -> float:
        shares = weights / weights.sum()
        mean = shares @ self._values
        mean = mean[mean > 0]
        # The mean divergence is the entropy of the mean less the mean entropy: no logarithm of 0 is needed.
        divergence = -(mean * np.log(mean)).sum() - shares @ self._entropies
        return float(np.exp(max(divergence, 0.0)))


def _bootstrap(samples: Samples, values: dict[str, float], rng: np.random.Generator) -> dict[str, list[float]]:
    """Returns the interval of each metric: the spread of its resamples around its value."""
    drawn: dict[str, list[float]] = {name: [] for name in METRICS}
    for number in range(RESAMPLES):
        real, generated = (_draw(groups, rng) for groups in (samples.groups, samples.generated_groups))
        for name, value in samples.all_metrics(real, generated, number < FRECHET_RESAMPLES).items():
            drawn[name].append(value)
    return {name: _around(values[name], np.array(drawn[name]), *BOUNDS[name]) for name in METRICS}


def _draw(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws whole groups with replacement, two different ones at least; returns how often each image came, (N,)."""
    number = int(groups.max()) + 1
    while True:
        times = rng.multinomial(number, np.full(number, 1 / number))
        if np.count_nonzero(times) > 1:
            return times[groups].astype(np.float64)


def _around(value: float, resampled: np.ndarray, least: float, most: float) -> list[float]:
    low, high = value + np.quantile(resampled, TAILS) - resampled.mean()
    return [float(max(low, least)), float(min(high, most))]


def _halvings(
    groups: np.ndarray, generated: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Draws pairs of real halves without a common group, and generated images, all of one number; [] if impossible."""
    sizes = np.bincount(groups)
    halves = []
    for _ in range(HALVINGS):
        order = rng.permutation(len(sizes))
        cut = 1 + int(np.abs(2 * np.cumsum(sizes[order]) - len(groups)).argmin())
        is_first = np.isin(groups, order[:cut])
        halves.append((rng.permutation(np.flatnonzero(is_first)), rng.permutation(np.flatnonzero(~is_first))))
    # Large groups may make some halves small; the number of images is that of most draws.
    smaller = np.array([min(len(first), len(second)) for first, second in halves])
    size = min(int(np.median(smaller)), generated)
    if size < LEAST_IMAGES:
        return []
    return [
        (first[:size], second[:size], rng.permutation(generated)[:size])
        for (first, second), small in zip(halves, smaller, strict=True)
        if small >= size
    ]


def _at_same_size(
    real: np.ndarray, generated: np.ndarray, groups: np.ndarray, halves: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> dict[str, dict[str, Any]]:
    drawn: dict[str, dict[str, list[float]]] = {name: {"generated": [], "real": []} for name in METRICS}
    for first, second, some in halves:
        ones = np.ones(len(first))
        own, their = (_group_numbers(groups[half], len(half)) for half in (first, second))
        for kind, others, of in (("real", real[second], their), ("generated", generated[some], np.arange(len(some)))):
            found = Samples(real[first], others, own, of).all_metrics(ones, ones)
            for name, value in found.items():
                drawn[name][kind].append(value)
    return {
        name: {
            "generated": float(np.mean(values["generated"])),
            "real_vs_real": float(np.mean(values["real"])),
            "real_interval": np.quantile(values["real"], TAILS).tolist(),
        }
        for name, values in drawn.items()
        if values["real"]
    }


def _group_numbers(groups: Sequence[Any] | None, count: int) -> np.ndarray:
    """Returns groups as numbers from 0 on, (N,); images of one single group count as groups of their own."""
    if groups is None or len(set(groups)) == 1:
        return np.arange(count)
    if len(groups) != count:
        raise ValueError(f"{len(groups)} groups do not fit {count} real images")
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)


def _checked(real: np.ndarray, generated: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features of shape {real.shape} and {generated.shape} do not fit; (N, F) and (M, F) do")
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < least:
            raise ValueError(f"{len(features)} {name} images are too few to compare distributions; {least} are needed")
        if not np.isfinite(features).all():
            raise ValueError(f"the features of the {name} images are not all finite")
    return real, generated
