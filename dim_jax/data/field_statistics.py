"""How far the colours and the detail of a field of view are from those of the images that a network was trained on.

A network answers for any picture. Fields of another stain, scanner or magnification are not what it was made for, and
the probabilities do not tell; colours and the scale of detail do, in part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NAMES = (
    "density of red", "density of green", "density of blue",
    "contrast of red", "contrast of green", "contrast of blue",
    "detail of 1 px", "detail of 2 px", "detail of 4 px",
)  # fmt: skip
COLOURS, DETAILS = slice(0, 6), slice(6, None)
QUANTILE = 0.99  # of the images that the statistics are of lie within the limit
MANY = 0.1  # a larger share of unusual images says that the set as a whole is of another kind


@dataclass(frozen=True)
class FieldStatistics:
    """Mean and covariance of the descriptors of a set of images, K of each.

    Attributes:
      mean: (K,).
      covariance: (K, K), positive definite.
      limit: distances up to this are usual.
    """

    mean: np.ndarray
    covariance: np.ndarray
    limit: float

    def distances(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns the Mahalanobis distance of each image from the mean.

        Args:
          descriptors: (N, K), from `describe`.

        Returns:
          (N,), at least 0.
        """
        return np.sqrt(_squared_distances(descriptors - self.mean, self.covariance))

    def explain(self, descriptor: np.ndarray) -> str:
        """Returns what is unusual about an image beyond the limit, with its distance; "" within it.

        Args:
          descriptor: (K,), from `describe`.
        """
        distance = float(self.distances(descriptor[None])[0])
        if distance <= self.limit:
            return ""
        colours, details = (self._distance_of_part(descriptor, part) for part in (COLOURS, DETAILS))
        what = "colours" if colours >= details else "detail (another magnification or focus)"
        return f"{what} unlike the training images: distance {distance:.1f}, usual up to {self.limit:.1f}"

    def _distance_of_part(self, descriptor: np.ndarray, part: slice) -> float:
        """Returns the distance by some of the descriptors alone, divided by the root of their number."""
        difference = (descriptor - self.mean)[part]
        return float(np.sqrt(_squared_distances(difference[None], self.covariance[part, part])[0] / len(difference)))

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object that `from_json` takes."""
        return {
            "names": list(NAMES),
            "mean": self.mean.tolist(),
            "covariance": self.covariance.tolist(),
            "limit": self.limit,
        }


def describe(images: np.ndarray) -> np.ndarray:
    """Returns descriptors of images: of their colours, which the stains and the scanner give, and of their detail.

    Colours: mean and standard deviation of the optical density -log10((I + 1) / 256) of each channel. Detail: base-10
    logarithm of the standard deviation of what averaging blocks of 2, 4 and 8 px takes away from the mean density of
    the channels averaged over blocks of 1, 2 and 4 px.

    Args:
      images: uint8 (N, S, S, 3), S at least 8.

    Returns:
      float64 (N, 9), in the order of NAMES.
    """
    rows = []
    for image in images:
        density = -np.log10((image.astype(np.float64) + 1) / 256)
        grey = density.mean(-1)
        details = []
        for _ in range(3):
            height, width = (side // 2 * 2 for side in grey.shape)
            coarse = grey[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
            difference = grey[:height, :width] - coarse.repeat(2, 0).repeat(2, 1)
            details.append(np.log10(difference.std() + 1e-4))
            grey = coarse
        rows.append([*density.mean((0, 1)), *density.std((0, 1)), *details])
    return np.array(rows, np.float64).reshape(len(images), len(NAMES))


def fit(descriptors: np.ndarray) -> FieldStatistics:
    """Returns the statistics of a set of images.

    The covariance is shrunk (Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    J. Multivariate Analysis 2004) after scaling each descriptor by its standard deviation.

    Args:
      descriptors: (N, K), N at least 2.

    Raises:
      ValueError: there are fewer than two images.
    """
    from sklearn.covariance import ledoit_wolf

    if len(descriptors) < 2:
        raise ValueError(f"{len(descriptors)} image(s) have no covariance; give at least 2")
    mean, scale = descriptors.mean(0), descriptors.std(0) + 1e-6
    covariance = ledoit_wolf((descriptors - mean) / scale)[0] * np.outer(scale, scale)
    distances = np.sqrt(_squared_distances(descriptors - mean, covariance))
    return FieldStatistics(mean, covariance, float(np.quantile(distances, QUANTILE)))


def from_json(values: Any) -> FieldStatistics | None:
    """Returns the statistics in a JSON object; None if it holds none, or those of other descriptors."""
    if not isinstance(values, Mapping) or values.get("names") != list(NAMES):
        return None
    try:
        mean, covariance = (np.array(values[name], np.float64) for name in ("mean", "covariance"))
        limit = float(values["limit"])
        np.linalg.cholesky(covariance)
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError):
        return None
    is_valid = mean.shape == (len(NAMES),) and covariance.shape == (len(NAMES),) * 2 and limit > 0
    return FieldStatistics(mean, covariance, limit) if is_valid and np.isfinite(mean).all() else None


def summary(distances: Sequence[float], limit: float) -> str:
    """Returns a sentence about images of which some are unusual, or "" if none is."""
    unusual = sum(distance > limit for distance in distances)
    if not unusual:
        return ""
    text = (
        f"{unusual} of {len(distances)} images are unlike those that the model was trained on (distances: median "
        f"{np.median(distances):.1f}, largest {max(distances):.1f}, usual up to {limit:.1f})"
    )
    return f"{text}: do not trust the answers" if unusual > MANY * len(distances) else text


def _squared_distances(differences: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    return np.einsum("nk,nk->n", differences, np.linalg.solve(covariance, differences.T).T)
