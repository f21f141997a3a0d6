"""Scores of the images of a pool, thresholds from real images, and the decision with one reason per rejected image.

Thresholds are quantiles over real images, not constants of a feature space: a generated image may not be farther from
its class than nearly all real images are, nor closer to a training image than nearly all real images of other cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from dim_jax.gan.feature_sets import distances
from dim_jax.gan.review_votes import NOT_REVIEWED, OBJECTED
from dim_jax.gan.selection_rules import Rules

COPY, WRONG_CLASS, FAR, DUPLICATE, SPARE = (
    "copy_of_training_image", "wrong_class", "far_from_class", "duplicate_in_pool", "not_needed",
)  # fmt: skip
REASONS = (COPY, WRONG_CLASS, FAR, NOT_REVIEWED, OBJECTED, DUPLICATE, SPARE)  # in the order in which they are tested
PASSED = (NOT_REVIEWED, SPARE)  # no test was failed
NEIGHBOURS = 5  # of the class distance
COPY_FLOOR = 0.25  # share of the median


@dataclass(frozen=True)
class Reference:
    """Distances and probabilities of real images of one class.

    Attributes:
      class_distance: mean distance of each training image to its NEIGHBOURS nearest training images of the same class
        and of other cases, (N,).
      train_feature, train_pixel: distance of each training image to the nearest training image of another case, by
        features and by thumbnails, (N,).
      held_out_feature, held_out_pixel: the same for validation images, (V,); V may be 0.
      held_out_probability: probability of their class by the classifier, (V,).
    """

    class_distance: np.ndarray
    train_feature: np.ndarray
    train_pixel: np.ndarray
    held_out_feature: np.ndarray
    held_out_pixel: np.ndarray
    held_out_probability: np.ndarray


@dataclass(frozen=True)
class Limits:
    """The thresholds of one class.

    Attributes:
      probability: minimum probability of the class, in [0, 1].
      class_distance: maximum class distance.
      feature, pixel: distances to any training image and to any other selected image must be larger than this.
    """

    probability: float
    class_distance: float
    feature: float
    pixel: float


@dataclass(frozen=True)
class Scores:
    """Scores of the N images of one class of a pool.

    Attributes:
      seed: unique int seeds, (N,); they break ties, so that the result does not depend on the order of the pool.
      probability: probability of their class by the classifier, (N,).
      class_distance: mean distance to the NEIGHBOURS nearest training images of the class, (N,).
      feature_distance, feature_row: distance in feature space to the nearest training image of any class, and the
        index of that image among the training images, (N,).
      pixel_distance, pixel_row: the same for thumbnails, in [0, 1], (N,).
      feature_between, pixel_between: pairwise distances of the images, (N, N).
    """

    seed: np.ndarray
    probability: np.ndarray
    class_distance: np.ndarray
    feature_distance: np.ndarray
    feature_row: np.ndarray
    pixel_distance: np.ndarray
    pixel_row: np.ndarray
    feature_between: np.ndarray
    pixel_between: np.ndarray

    def __len__(self) -> int:
        return len(self.seed)

    def take(self, indices: np.ndarray) -> "Scores":
        """Returns the scores of the images at `indices`, in that order."""
        values = {field.name: getattr(self, field.name)[indices] for field in fields(self)}
        for name in ("feature_between", "pixel_between"):
            values[name] = values[name][:, indices]
        return Scores(**values)


@dataclass(frozen=True)
class Decision:
    """Selected and rejected images among N.

    Attributes:
      selected: indices of the selected images, in the order of their selection (`decide`).
      reasons: reason of the rejection, one of REASONS, or None for a selected image, (N,).
      duplicate_of: index of the image that a DUPLICATE repeats, else -1, (N,).
    """

    selected: tuple[int, ...]
    reasons: tuple[str | None, ...]
    duplicate_of: tuple[int, ...]


def thumbnail_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Root mean square differences of thumbnails, minimised over the eight rotations and reflections of the square.

    Args:
      one: uint8 (N, S, S, 3).
      other: uint8 (M, S, S, 3).

    Returns:
      (N, M) in [0, 1].
    """
    flat = np.asarray(other, np.float64).reshape(len(other), -1) / 255
    nearest = np.full((len(one), len(other)), np.inf)
    for mirrored in (one, np.swapaxes(one, 1, 2)):
        for quarter_turns in range(4):
            rotated = np.rot90(mirrored, quarter_turns, (1, 2)).reshape(len(one), flat.shape[1]) / 255
            np.minimum(nearest, distances(rotated, flat), out=nearest)
    return nearest / np.sqrt(flat.shape[1])


def reference(
    features: np.ndarray,
    thumbnails: np.ndarray,
    groups: Sequence[str],
    is_class: np.ndarray,
    held_out_features: np.ndarray,
    held_out_thumbnails: np.ndarray,
    held_out_probability: np.ndarray,
) -> Reference:
    """Measures the real images of one class.

    Args:
      features, thumbnails: features (N, F) and uint8 thumbnails (N, S, S, 3) of all training images.
      groups: case of each training image, (N,).
      is_class: whether each training image is of the class, bool (N,).
      held_out_features, held_out_thumbnails, held_out_probability: features, thumbnails and probabilities of the
        validation images of the class, (V, F), (V, S, S, 3) and (V,).

    Raises:
      ValueError: fewer than two training images of the class.
    """
    groups, members = np.asarray(groups), np.flatnonzero(is_class)
    if len(members) < 2:
        raise ValueError(
            f"{len(members)} training images of the class are too few to measure distances between real images; at "
            "least 2 are needed"
        )
    between = distances(features[members], features)
    between_pixels = thumbnail_distances(thumbnails[members], thumbnails)
    for row, index in enumerate(members):
        # Images of the same case are excluded: their distances do not represent new cases.
        excluded = groups == groups[index]
        if excluded.all() or (excluded[members]).all():
            excluded = np.arange(len(groups)) == index
        between[row, excluded] = between_pixels[row, excluded] = np.inf
    return Reference(
        class_distance=_mean_of_nearest(between[:, members]),
        train_feature=between.min(1),
        train_pixel=between_pixels.min(1),
        held_out_feature=distances(held_out_features, features).min(1),
        held_out_pixel=thumbnail_distances(held_out_thumbnails, thumbnails).min(1),
        held_out_probability=held_out_probability,
    )


def score(
    seeds: np.ndarray,
    probability: np.ndarray,
    features: np.ndarray,
    thumbnails: np.ndarray,
    train_features: np.ndarray,
    train_thumbnails: np.ndarray,
    is_class: np.ndarray,
) -> Scores:
    """Scores the images of one class of a pool.

    Args:
      seeds, probability: see Scores.
      features, thumbnails: features (N, F) and uint8 thumbnails (N, S, S, 3) of the images.
      train_features, train_thumbnails: features and thumbnails of all training images, (M, F) and (M, S, S, 3).
      is_class: whether each training image is of the class, bool (M,).
    """
    to_train, to_train_pixels = distances(features, train_features), thumbnail_distances(thumbnails, train_thumbnails)
    rows, every = (to_train.argmin(1), to_train_pixels.argmin(1)), np.arange(len(seeds))
    return Scores(
        seed=np.asarray(seeds),
        probability=np.asarray(probability, np.float64),
        class_distance=_mean_of_nearest(to_train[:, is_class]),
        feature_distance=to_train[every, rows[0]],
        feature_row=rows[0],
        pixel_distance=to_train_pixels[every, rows[1]],
        pixel_row=rows[1],
        feature_between=distances(features, features),
        pixel_between=thumbnail_distances(thumbnails, thumbnails),
    )


def _mean_of_nearest(between: np.ndarray) -> np.ndarray:
    """Mean of the finite ones among the NEIGHBOURS smallest values of each row."""
    nearest = np.sort(between, axis=1)[:, :NEIGHBOURS]
    finite = np.isfinite(nearest)
    return np.where(finite, nearest, 0).sum(1) / finite.sum(1)


def limits(rules: Rules, real: Reference) -> Limits:
    """Thresholds of one class from the rules and its real images.

    The copy threshold is the quantile over real images, but at least COPY_FLOOR times their median: if the data contain
    an image twice, the quantile alone would be zero.
    """

    def copy_threshold(train: np.ndarray, held_out: np.ndarray) -> float:
        both = np.concatenate([train, held_out])
        return float(max(np.quantile(both, rules.copy_quantile), COPY_FLOOR * np.median(both)))

    median_probability = float(np.median(real.held_out_probability)) if len(real.held_out_probability) else 1.0
    return Limits(
        probability=min(rules.least_probability, median_probability),
        class_distance=rules.distance_slack * float(np.quantile(real.class_distance, rules.distance_quantile)),
        feature=copy_threshold(real.train_feature, real.held_out_feature),
        pixel=copy_threshold(real.train_pixel, real.held_out_pixel),
    )


def decide(scores: Scores, keep: int, limits: Limits, by_readers: Sequence[str | None] = ()) -> Decision:
    """Selects images of one class by farthest-point sampling among those that pass all thresholds.

    Copies of training images are rejected first, then images of another class by the classifier, then those far from
    the class, then those that the readers of a review reject or did not judge. Of the rest, the image closest to the
    class is selected first, and then repeatedly the one farthest from all selected so far. Near-copies of a selected
    image are rejected as duplicates, and those after the first `keep` as not needed. Permuting the images permutes the
    decision.

    Args:
      scores: scores of the images.
      keep: maximum number of images, at least 0.
      limits: thresholds of the class.
      by_readers: reason of the readers against each image or None (review_votes.Votes.reason), (N,); () without a
        review.

    Reference: Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38
    (1985).
    """
    is_copy = (scores.feature_distance <= limits.feature) | (scores.pixel_distance <= limits.pixel)
    tests = (
        (COPY, is_copy),
        (WRONG_CLASS, ~(scores.probability >= limits.probability)),
        (FAR, ~(scores.class_distance <= limits.class_distance)),
    )
    reasons: list[str | None] = [
        next((name for name, failed in tests if failed[index]), by_readers[index] if by_readers else None)
        for index in range(len(scores))
    ]
    duplicate_of = [-1] * len(scores)
    selected: list[int] = []
    nearest = np.full(len(scores), np.inf)
    # Ordered by class distance: argmax takes the first of equals, as all are before the first selection.
    by_class_distance = np.lexsort((scores.seed, scores.class_distance))
    remaining = np.array([index for index in by_class_distance if reasons[index] is None], int)
    while len(remaining):
        index = int(remaining[nearest[remaining].argmax()])
        remaining = remaining[remaining != index]
        near_copies = [
            other
            for other in selected
            if scores.feature_between[index, other] <= limits.feature
            or scores.pixel_between[index, other] <= limits.pixel
        ]
        if near_copies:
            reasons[index] = DUPLICATE
            duplicate_of[index] = min(
                near_copies, key=lambda other: (scores.feature_between[index, other], scores.seed[other])
            )
        else:
            selected.append(index)
            nearest = np.minimum(nearest, scores.feature_between[index])
    for index in selected[keep:]:
        reasons[index] = SPARE
    return Decision(tuple(selected[:keep]), tuple(reasons), tuple(duplicate_of))
