"""Metrics of two weighted sets of features, with distances and kernels computed once for many resamples.

Weights are the multiplicities of a bootstrap resample. The metrics are documented in `generative_metrics`.
"""

import math

import numpy as np

PRECISION_NEIGHBOURS = 3  # Kynkäänniemi et al., NeurIPS 2019
DENSITY_NEIGHBOURS = 5  # Naeem et al., ICML 2020


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pairwise Euclidean distances.

    Args:
      one: (N, F).
      other: (M, F).

    Returns:
      (N, M), float64.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0))


class FeatureSets:
    """Features of real and of generated images, with their pairwise distances and kernel values.

    Attributes:
      real, generated: features, (N, F) and (M, F), float64.
      groups, generated_groups: group of every image as a number from 0 on, (N,) and (M,).
    """

    def __init__(self, real: np.ndarray, generated: np.ndarray, groups: np.ndarray, generated_groups: np.ndarray):
        """Computes the distances; for the arguments see the attributes."""
        self.real, self.generated = real, generated
        self.groups, self.generated_groups = groups, generated_groups
        self._kernel_real = _kernel(real, real) * (groups[:, None] != groups)
        self._kernel_generated = _kernel(generated, generated) * (generated_groups[:, None] != generated_groups)
        self._kernel_mixed = _kernel(real, generated)
        self._real, self._generated = distances(real, real), distances(generated, generated)
        # Rounding makes the distance of an image to itself slightly positive.
        np.fill_diagonal(self._real, 0)
        np.fill_diagonal(self._generated, 0)
        self._mixed = distances(real, generated)

    def all_metrics(self, real: np.ndarray, generated: np.ndarray, with_frechet: bool = True) -> dict[str, float]:
        """All metrics of a weighted sample.

        Args:
          real, generated: weights, (N,) and (M,).
          with_frechet: compute the Frechet distance, the most expensive one, too.
        """
        values = {
            "kernel_distance": self.kernel_distance(real, generated),
            **self.neighbourhoods(real, generated, PRECISION_NEIGHBOURS, DENSITY_NEIGHBOURS),
        }
        if with_frechet:
            values["frechet_distance"] = weighted_frechet(self.real, self.generated, real, generated)
        return values

    def kernel_distance(self, real: np.ndarray, generated: np.ndarray) -> float:
        """Kernel distance of a weighted sample; weights (N,) and (M,)."""
        within_real = real @ self._kernel_real @ real / _pairs(real, self.groups)
        within_generated = generated @ self._kernel_generated @ generated / _pairs(generated, self.generated_groups)
        mixed = real @ self._kernel_mixed @ generated / (real.sum() * generated.sum())
        return float(within_real + within_generated - 2 * mixed)

    def kernel_standard_error(self) -> float | None:
        """Jackknife standard error of the kernel distance; None if either side has fewer than three groups."""
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
            # The term within the other side does not depend on the group left out.
            replicates = within - 2 * between
            count = len(replicates)
            variance += (count - 1) / count * float(((replicates - replicates.mean()) ** 2).sum())
        return math.sqrt(variance)

    def neighbourhoods(
        self, real: np.ndarray, generated: np.ndarray, for_precision: int, for_density: int
    ) -> dict[str, float]:
        """Precision, recall, density and coverage of a weighted sample.

        Args:
          real, generated: weights, (N,) and (M,).
          for_precision: k of the k-nearest-neighbour balls of precision and recall.
          for_density: k of those of density and coverage.
        """
        rows, columns = np.flatnonzero(real), np.flatnonzero(generated)
        real, generated = real[rows], generated[columns]
        mixed = self._mixed[np.ix_(rows, columns)]
        real_radii = _radii(self._real[np.ix_(rows, rows)], (for_precision, for_density))
        generated_radii = _radii(self._generated[np.ix_(columns, columns)], (for_precision,))
        in_density_ball = mixed <= real_radii[1][:, None]
        # Sums of integer weights are exact, so the share of all images is exactly 1.
        return {
            "precision": float((mixed <= real_radii[0][:, None]).any(0) @ generated / generated.sum()),
            "recall": float((mixed <= generated_radii[0]).any(1) @ real / real.sum()),
            "density": float(in_density_ball.sum(0) @ generated / generated.sum() / for_density),
            "coverage": float(in_density_ball.any(1) @ real / real.sum()),
        }


def _pairs(weights: np.ndarray, groups: np.ndarray) -> float:
    """Weighted number of ordered pairs of images of different groups."""
    return float(weights.sum() ** 2 - (np.bincount(groups, weights) ** 2).sum())


def _kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cubic polynomial kernel (x . y / F + 1)^3 of all pairs, (N, M)."""
    return (one @ other.T / one.shape[1] + 1) ** 3


def _radii(between: np.ndarray, neighbours: tuple[int, ...]) -> list[np.ndarray]:
    """Distances to the k-th nearest other point for each k, from distances (N, N) with a diagonal of zeros."""
    ranks = [min(number, len(between) - 1) for number in neighbours]
    ordered = np.partition(between, ranks, axis=1)
    return [ordered[:, rank] for rank in ranks]


def weighted_frechet(
    real: np.ndarray, generated: np.ndarray, real_weights: np.ndarray, generated_weights: np.ndarray
) -> float:
    """Squared Frechet distance of weighted features (generative_metrics.frechet_distance).

    Args:
      real, generated: features, (N, F) and (M, F).
      real_weights, generated_weights: (N,) and (M,), at least 0, with a sum above 1.
    """
    (mean, root), (other_mean, other_root) = _moments(real, real_weights), _moments(generated, generated_weights)
    # Any matrix A with A'A = S serves; with more images than features the triangular one is smaller.
    root, other_root = _triangular(root), _triangular(other_root)
    trace_of_product = np.linalg.svd(root @ other_root.T, compute_uv=False).sum()
    value = ((mean - other_mean) ** 2).sum() + (root**2).sum() + (other_root**2).sum() - 2 * trace_of_product
    return float(max(value, 0.0))


def _moments(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean (F,) and a matrix A with A'A the unbiased weighted covariance."""
    is_positive = weights > 0
    features, weights = features[is_positive], weights[is_positive]
    mean = weights @ features / weights.sum()
    return mean, np.sqrt(weights / (weights.sum() - 1))[:, None] * (features - mean)


def _triangular(root: np.ndarray) -> np.ndarray:
    """Returns the R factor of `root` where that is smaller, otherwise `root`."""
    return np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root
