"""How close generated images are to real ones, by their features: numbers, their uncertainty, and what real is worth.

The features may be any network's, so the names of the Inception network's metrics are not used: `kernel_distance` is
the estimator of KID and `frechet_distance` the formula of FID, each in the space that the caller names. Every number
of `compare` comes with a bootstrap interval and with the same number between two halves of the real images, because
with a few dozen images two halves of the very same class lie far apart.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_IMAGES = 10
PRECISION_NEIGHBOURS = 3  # as Kynkäänniemi et al. have it
DENSITY_NEIGHBOURS = 5  # as Naeem et al. have it
RESAMPLES = 200
FRECHET_RESAMPLES = 50  # each needs the singular values of a matrix as large as the smaller set
HALVINGS = 20
LEVEL = 0.95

METRICS = ("kernel_distance", "frechet_distance", "precision", "recall", "density", "coverage")
SHARES = ("precision", "recall", "coverage")  # never above 1


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
    samples = _Samples(real, generated, _group_numbers(groups, len(real)), np.arange(len(generated)))
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
    return _frechet(real, generated, np.ones(len(real)), np.ones(len(generated)))


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
    samples = _Samples(real, generated, np.arange(len(real)), np.arange(len(generated)))
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
    samples = _Samples(real, generated, np.arange(len(real)), np.arange(len(generated)))
    found = samples.neighbourhoods(np.ones(len(real)), np.ones(len(generated)), neighbours, neighbours)
    return found["density"], found["coverage"]


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances of (N, F) and (M, F) as (N, M), float64."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0))


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
    samples = _Samples(real, generated, numbers, np.arange(len(generated)))
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


class _Samples:
    """Two sets of features and what all metrics need of them; weights say how often an image was drawn."""

    def __init__(self, real: np.ndarray, generated: np.ndarray, groups: np.ndarray, generated_groups: np.ndarray):
        self.real, self.generated = real, generated
        self.groups, self.generated_groups = groups, generated_groups
        self._kernel_real = _kernel(real, real) * (groups[:, None] != groups)
        self._kernel_generated = _kernel(generated, generated) * (generated_groups[:, None] != generated_groups)
        self._kernel_mixed = _kernel(real, generated)
        self._real, self._generated = distances(real, real), distances(generated, generated)
        # Rounding leaves an image a little away from itself.
        np.fill_diagonal(self._real, 0)
        np.fill_diagonal(self._generated, 0)
        self._mixed = distances(real, generated)

    def all_metrics(self, real: np.ndarray, generated: np.ndarray, with_frechet: bool = True) -> dict[str, float]:
        """All metrics, of images with weights (N,) and (M,)."""
        found = {
            "kernel_distance": self.kernel_distance(real, generated),
            **self.neighbourhoods(real, generated, PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS),
        }
        if with_frechet:
            found["frechet_distance"] = _frechet(self.real, self.generated, real, generated)
        return found

    def kernel_distance(self, real: np.ndarray, generated: np.ndarray) -> float:
        within_real = real @ self._kernel_real @ real / _pairs(real, self.groups)
        within_generated = generated @ self._kernel_generated @ generated / _pairs(generated, self.generated_groups)
        mixed = real @ self._kernel_mixed @ generated / (real.sum() * generated.sum())
        return float(within_real + within_generated - 2 * mixed)

    def kernel_standard_error(self) -> float | None:
        """The jackknife's standard error; None with fewer than three groups on a side."""
        variance = 0.0
        for kernel, mixed, groups in (
            (self._kernel_real, self._kernel_mixed.mean(1), self.groups),
            (self._kernel_generated, self._kernel_mixed.mean(0), self.generated_groups),
        ):
            sizes = np.bincount(groups)
            if len(sizes) < 3:
                return None
            pairs = _pairs(np.ones(len(groups)), groups) - 2 * sizes * (len(groups) - sizes)
            within = (kernel.sum() - 2 * np.bincount(groups, kernel.sum(1))) / pairs
            between = (mixed.sum() - np.bincount(groups, mixed)) / (len(groups) - sizes)
            # The other side's own mean is the same whatever is left out here.
            left = within - 2 * between
            variance += (len(left) - 1) / len(left) * float(((left - left.mean()) ** 2).sum())
        return math.sqrt(variance)

    def neighbourhoods(
        self, real: np.ndarray, generated: np.ndarray, for_precision: int, for_density: int
    ) -> dict[str, float]:
        """Precision, recall, density and coverage of images with weights (N,) and (M,)."""
        rows, columns = np.flatnonzero(real), np.flatnonzero(generated)
        real, generated = real[rows], generated[columns]
        mixed = self._mixed[np.ix_(rows, columns)]
        real_radii = _radii(self._real[np.ix_(rows, rows)], (for_precision, for_density))
        generated_radii = _radii(self._generated[np.ix_(columns, columns)], (for_precision,))
        in_density_ball = mixed <= real_radii[1][:, None]
        # Sums of whole numbers are exact, so that all of the images are a share of exactly 1.
        return {
            "precision": float((mixed <= real_radii[0][:, None]).any(0) @ generated / generated.sum()),
            "recall": float((mixed <= generated_radii[0]).any(1) @ real / real.sum()),
            "density": float(in_density_ball.sum(0) @ generated / generated.sum() / for_density),
            "coverage": float(in_density_ball.any(1) @ real / real.sum()),
        }


def _pairs(weights: np.ndarray, groups: np.ndarray) -> float:
    """The number of ordered pairs of different groups."""
    return float(weights.sum() ** 2 - (np.bincount(groups, weights) ** 2).sum())


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one @ other.T / one.shape[1] + 1) ** 3


def _radii(between: np.ndarray, neighbours: tuple[int, ...]) -> list[np.ndarray]:
    """Distances to the k-th nearest other point for each k, from distances (N, N) with a diagonal of zeros."""
    most = len(between) - 1
    places = [min(number, most) for number in neighbours]
    ordered = np.partition(between, places, axis=1)
    return [ordered[:, place] for place in places]


def _frechet(real: np.ndarray, generated: np.ndarray, real_weights: np.ndarray, weights: np.ndarray) -> float:
    (mean, root), (other_mean, other_root) = _moments(real, real_weights), _moments(generated, weights)
    # Both roots may be turned freely; the triangular ones are the smaller where there are more images than features.
    root, other_root = _small(root), _small(other_root)
    shared = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    value = ((mean - other_mean) ** 2).sum() + (root**2).sum() + (other_root**2).sum() - 2 * shared
    return float(max(value, 0.0))


def _moments(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (F,) and a matrix A with A'A the unbiased covariance, of rows drawn `weights` times each."""
    drawn = weights > 0
    features, weights = features[drawn], weights[drawn]
    mean = weights @ features / weights.sum()
    return mean, np.sqrt(weights / (weights.sum() - 1))[:, None] * (features - mean)


def _small(root: np.ndarray) -> np.ndarray:
    return np.linalg.qr(root, mode="r") if len(root) > root.shape[1] else root


def _bootstrap(samples: _Samples, values: dict[str, float], rng: np.random.Generator) -> dict[str, list[float]]:
    """Returns the interval of each metric: the spread of its resamples around its value."""
    drawn: dict[str, list[float]] = {name: [] for name in METRICS}
    for number in range(RESAMPLES):
        real, generated = (_draw(groups, rng) for groups in (samples.groups, samples.generated_groups))
        for name, value in samples.all_metrics(real, generated, number < FRECHET_RESAMPLES).items():
            drawn[name].append(value)
    return {name: _around(values[name], np.array(drawn[name]), name) for name in METRICS}


def _draw(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws whole groups with replacement, two different ones at least; returns how often each image came, (N,)."""
    number = int(groups.max()) + 1
    while True:
        times = rng.multinomial(number, np.full(number, 1 / number))
        if np.count_nonzero(times) > 1:
            return times[groups].astype(np.float64)


def _around(value: float, resampled: np.ndarray, name: str) -> list[float]:
    tail = (1 - LEVEL) / 2
    low, high = value + np.quantile(resampled, [tail, 1 - tail]) - resampled.mean()
    if name != "kernel_distance":
        low = max(low, 0.0)
    if name in SHARES:
        high = min(high, 1.0)
    return [float(low), float(high)]


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
            found = _Samples(real[first], others, own, of).all_metrics(ones, ones)
            for name, value in found.items():
                drawn[name][kind].append(value)
    tail = (1 - LEVEL) / 2
    return {
        name: {
            "generated": float(np.mean(values["generated"])),
            "real_vs_real": float(np.mean(values["real"])),
            "real_interval": np.quantile(values["real"], [tail, 1 - tail]).tolist(),
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
