"""Which images of a pool are worth training on: scores of every image, and the decision with one reason each.

A threshold is never a number of some feature space but what real images do: a generated image may not lie farther from
its class than nearly all real ones do, nor nearer to a training image than real ones of other cases hardly ever come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from dim_jax.gan.feature_sets import distances
from dim_jax.gan.selection_rules import Rules

COPY, WRONG_CLASS, FAR, DUPLICATE, SPARE = (
    "copy_of_training_image", "wrong_class", "far_from_class", "duplicate_in_pool", "not_needed",
)  # fmt: skip
REASONS = (COPY, WRONG_CLASS, FAR, DUPLICATE, SPARE)  # in the order in which they are tested
NEIGHBOURS = 5
COPY_FLOOR = 0.25


@dataclass(frozen=True)
class Reference:
    """What real images of one class do.

    Attributes:
      class_distance: mean distance of training images to the nearest NEIGHBOURS training images of their class that
        are of other cases, (N,).
      train_feature, train_pixel: distances of training images to the nearest training image of another case, (N,).
      held_out_feature, held_out_pixel: the same for validation images, (V,), which may be none.
      held_out_probability: of their class, by the classifier, (V,).
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
      probability: the least of a kept image.
      class_distance: the largest of a kept image.
      feature, pixel: a kept image is farther than this from every training image, and from every other kept one.
    """

    probability: float
    class_distance: float
    feature: float
    pixel: float


@dataclass(frozen=True)
class Scores:
    """The numbers of the images of one class of a pool, N of them.

    Attributes:
      seed: (N,) int, different; decides between equals, so that the order of the pool does not.
      probability: of their class by the classifier, (N,).
      class_distance: mean distance to the nearest NEIGHBOURS real training images of the class, (N,).
      feature_distance, feature_row: distance in feature space to the nearest training image of any class, and its
        place among them, (N,).
      pixel_distance, pixel_row: the same for thumbnails, in [0, 1], (N,).
      feature_between, pixel_between: distances of the images to each other, (N, N).
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

    def take(self, places: np.ndarray) -> "Scores":
        """Returns the scores of the images at `places`, in that order."""
        values = {field.name: getattr(self, field.name)[places] for field in fields(self)}
        for name in ("feature_between", "pixel_between"):
            values[name] = values[name][:, places]
        return Scores(**values)


@dataclass(frozen=True)
class Decision:
    """What becomes of N images.

    Attributes:
      kept: places of the kept images; each is the farthest from all before it.
      reasons: why an image is rejected, one of REASONS, or None for a kept one, (N,).
      duplicate_of: the image before it that a DUPLICATE repeats, else -1, (N,).
    """

    kept: tuple[int, ...]
    reasons: tuple[str | None, ...]
    duplicate_of: tuple[int, ...]


def thumbnail_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Root mean square differences of thumbnails, the least over the eight right-angle turns and mirrorings.

    Args:
      one: uint8 (N, S, S, 3).
      other: uint8 (M, S, S, 3).

    Returns:
      (N, M) in [0, 1].
    """
    flat = np.asarray(other, np.float64).reshape(len(other), -1) / 255
    nearest = np.full((len(one), len(other)), np.inf)
    for mirrored in (one, np.swapaxes(one, 1, 2)):
        for turns in range(4):
            turned = np.rot90(mirrored, turns, (1, 2)).reshape(len(one), flat.shape[1]) / 255
            np.minimum(nearest, distances(turned, flat), out=nearest)
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
    """Measures what real images of one class do.

    Args:
      features, thumbnails: of all training images, (N, F) and (N, S, S, 3).
      groups: case of each, (N,).
      is_class: which are of the class, bool (N,).
      held_out_features, held_out_thumbnails, held_out_probability: of the class's validation images, (V, F),
        (V, S, S, 3) and (V,).

    Raises:
      ValueError: fewer than two training images of the class.
    """
    groups, own = np.asarray(groups), np.flatnonzero(is_class)
    if len(own) < 2:
        raise ValueError(f"{len(own)} training images of the class cannot say how far real images are from each other")
    between = distances(features[own], features)
    between_pixels = thumbnail_distances(thumbnails[own], thumbnails)
    for row, place in enumerate(own):
        # A field beside another of its case says nothing of what an unseen case would do.
        excluded = groups == groups[place]
        if excluded.all() or (excluded[own]).all():
            excluded = np.arange(len(groups)) == place
        between[row, excluded] = between_pixels[row, excluded] = np.inf
    return Reference(
        class_distance=_mean_of_nearest(between[:, own]),
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
      features, thumbnails: of the images, (N, F) and (N, S, S, 3).
      train_features, train_thumbnails: of all training images, (M, F) and (M, S, S, 3).
      is_class: which of those are of the class, bool (M,).
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
    """Means of the NEIGHBOURS smallest values of each row, of fewer where the rest is infinite."""
    nearest = np.sort(between, axis=1)[:, :NEIGHBOURS]
    finite = np.isfinite(nearest)
    return np.where(finite, nearest, 0).sum(1) / finite.sum(1)


def limits(rules: Rules, real: Reference) -> Limits:
    """Turns rules into thresholds of one class.

    A copy is what comes nearer than the quantile of real images, or than COPY_FLOOR of their median: where the data
    hold the same picture twice, the quantile would be zero.
    """

    def least(train: np.ndarray, held_out: np.ndarray) -> float:
        both = np.concatenate([train, held_out])
        return float(max(np.quantile(both, rules.copy_quantile), COPY_FLOOR * np.median(both)))

    typical = float(np.median(real.held_out_probability)) if len(real.held_out_probability) else 1.0
    return Limits(
        probability=min(rules.least_probability, typical),
        class_distance=rules.distance_slack * float(np.quantile(real.class_distance, rules.distance_quantile)),
        feature=least(real.train_feature, real.held_out_feature),
        pixel=least(real.train_pixel, real.held_out_pixel),
    )


def decide(scores: Scores, keep: int, limits: Limits) -> Decision:
    """Decides on every image of one class.

    Copies of training images go first, then images the classifier takes for another class, then those far from the
    class. Of the others, the one nearest to its class comes first and then always the one farthest from all before it
    (Gonzalez, Theoretical Computer Science 38 (1985)); near-copies of one before are duplicates, and what comes after
    the first `keep` is not needed. Permuting the images permutes the decision.

    Args:
      keep: the most images to keep, at least 0.
    """
    is_copy = (scores.feature_distance <= limits.feature) | (scores.pixel_distance <= limits.pixel)
    tests = (
        (COPY, is_copy),
        (WRONG_CLASS, ~(scores.probability >= limits.probability)),
        (FAR, ~(scores.class_distance <= limits.class_distance)),
    )
    reasons: list[str | None] = [
        next((name for name, failed in tests if failed[place]), None) for place in range(len(scores))
    ]
    duplicate_of = [-1] * len(scores)
    chosen: list[int] = []
    nearest = np.full(len(scores), np.inf)
    # The most typical first, so that it is taken while all are equally far.
    typical = np.lexsort((scores.seed, scores.class_distance))
    waiting = np.array([place for place in typical if reasons[place] is None], int)
    while len(waiting):
        place = int(waiting[nearest[waiting].argmax()])
        waiting = waiting[waiting != place]
        alike = [
            other
            for other in chosen
            if scores.feature_between[place, other] <= limits.feature
            or scores.pixel_between[place, other] <= limits.pixel
        ]
        if alike:
            reasons[place] = DUPLICATE
            duplicate_of[place] = min(
                alike, key=lambda other: (scores.feature_between[place, other], scores.seed[other])
            )
        else:
            chosen.append(place)
            nearest = np.minimum(nearest, scores.feature_between[place])
    for place in chosen[keep:]:
        reasons[place] = SPARE
    return Decision(tuple(chosen[:keep]), tuple(reasons), tuple(duplicate_of))
