"""Two sets of features in which images count as often as they were drawn, and every metric of such a draw.

Distances and kernels are computed once, so that hundreds of draws from the same images cost little. What the metrics
are is said in `generative_metrics`.
"""

import math

import numpy as np

PRECISION_NEIGHBOURS = 3  # as Kynkäänniemi et al. have it
DENSITY_NEIGHBOURS = 5  # as Naeem et al. have it


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distances of (N, F) and (M, F) as (N, M), float64."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0))


class Samples:
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
            found["frechet_distance"] = weighted_frechet(self.real, self.generated, real, generated)
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


def weighted_frechet(
    real: np.ndarray, generated: np.ndarray, real_weights: np.ndarray, generated_weights: np.ndarray
) -> float:
    """The squared Frechet distance of features (N, F) and (M, F) with weights (N,) and (M,)."""
    (mean, root), (other_mean, other_root) = _moments(real, real_weights), _moments(generated, generated_weights)
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
