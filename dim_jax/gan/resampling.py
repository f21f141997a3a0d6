"""Resampling of images by whole groups (cases): bootstrap weights, intervals, and random halves of equal sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_IMAGES = 10
RESAMPLES = 200
HALVINGS = 20
LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2)


def resample(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Resamples whole groups with replacement, at least two different ones; returns the weight of each image, (N,)."""
    number = int(groups.max()) + 1
    while True:
        times = rng.multinomial(number, np.full(number, 1 / number))
        if np.count_nonzero(times) > 1:
            return times[groups].astype(np.float64)


def interval(value: float, resampled: np.ndarray, least: float, most: float) -> list[float]:
    """Returns the quantiles of the resamples, centred on `value` and clipped to the metric's bounds."""
    bounds = value + np.quantile(resampled, TAILS) - resampled.mean()
    return np.clip(bounds, least, most).tolist()


def halvings(
    groups: np.ndarray, generated: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Random halves of the real images by whole groups, with as many generated images.

    Args:
      groups: group of every real image as a number from 0 on, (N,).
      generated: number of generated images.
      rng: source of the random numbers.

    Returns:
      Up to HALVINGS triples of rows: two real halves without a common group, and generated images, all of one size; []
      if that size would be below LEAST_IMAGES.
    """
    sizes = np.bincount(groups)
    halves = []
    for _ in range(HALVINGS):
        order = rng.permutation(len(sizes))
        cut = 1 + int(np.abs(2 * np.cumsum(sizes[order]) - len(groups)).argmin())
        is_first = np.isin(groups, order[:cut])
        halves.append((rng.permutation(np.flatnonzero(is_first)), rng.permutation(np.flatnonzero(~is_first))))
    # Large groups may make some halves small; the common size is the median.
    smaller = np.array([min(len(first), len(second)) for first, second in halves])
    size = min(int(np.median(smaller)), generated)
    if size < LEAST_IMAGES:
        return []
    return [
        (first[:size], second[:size], rng.permutation(generated)[:size])
        for (first, second), small in zip(halves, smaller, strict=True)
        if small >= size
    ]


def group_numbers(groups: Sequence[Any] | None, count: int) -> np.ndarray:
    """Returns groups as numbers from 0 on, (N,); if all images are of one group, each is its own."""
    if groups is None or len(set(groups)) == 1:
        return np.arange(count)
    if len(groups) != count:
        raise ValueError(f"{len(groups)} groups do not fit {count} real images")
    return np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)


def check_features(real: np.ndarray, generated: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns both sets as float64; raises ValueError for wrong shapes, too few images or non-finite features."""
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise ValueError(f"features of shape {real.shape} and {generated.shape} do not fit; (N, F) and (M, F) do")
    for name, features in (("real", real), ("generated", generated)):
        if len(features) < least:
            raise ValueError(f"{len(features)} {name} images are too few to compare distributions; {least} are needed")
        if not np.isfinite(features).all():
            raise ValueError(f"the features of the {name} images are not all finite")
    return real, generated
