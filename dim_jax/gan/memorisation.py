"""Test of data copying: whether generated images are closer to the training images than images of other cases are."""

from typing import Any

import numpy as np

from dim_jax.gan.feature_sets import distances

LEAST_HELD_OUT = 5
IMAGES_PER_CELL = 20  # validation images per cell, about
MOST_CELLS = 10
LEAST_IN_CELL = 5  # generated images


def data_copying(
    train: np.ndarray, held_out: np.ndarray, generated: np.ndarray, *, cells: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """The statistic C_T of data copying.

    In every cell of a k-means partition of the training features, the distances of generated and of held-out images to
    their nearest training image in the cell are compared by the z-score of a Mann-Whitney test; C_T is the mean over
    cells weighted by the number of held-out images. Well below 0 (-3, say), generated images copy training images; well
    above 0, they are farther from them than real images are.

    Args:
      train: features of the training images of the class, (N, F), N >= 2.
      held_out: features of held-out images of other cases, (V, F), V >= 5.
      generated: features of generated images, (M, F), M >= 5.
      cells: number of cells; None for one per 20 held-out images, from 1 to 10.
      seed: seed of the partition.

    Returns:
      A JSON-ready dict: "c_t"; "all_copies", its value if every generated image were a copy, the lowest that these
      numbers of images allow; "cells", those that count (with generated and held-out images); "closer", the share of
      pairs of a generated and a held-out image in which the generated one is closer to the training images.

    Raises:
      ValueError: too few images, or no cell has both generated and held-out images.

    Reference: Meehan, Chaudhuri & Dasgupta, "A non-parametric test to detect data-copying in generative models",
    AISTATS 2020, section 4; generated and held-out images are in the roles of Q and P.
    """
    for name, features, least in (
        ("training", train, 2),
        ("validation", held_out, LEAST_HELD_OUT),
        ("generated", generated, LEAST_IN_CELL),
    ):
        if len(features) < least:
            raise ValueError(f"{len(features)} {name} images are too few for the test of data copying; {least} needed")
    if cells is None:
        cells = int(np.clip(len(held_out) // IMAGES_PER_CELL, 1, MOST_CELLS))
    of_train, of_held_out, of_generated = _cells(train, held_out, generated, cells, seed)
    scores, copies, weights = [], [], []
    for cell in range(cells):
        real = train[of_train == cell]
        held, fake = held_out[of_held_out == cell], generated[of_generated == cell]
        if len(held) and len(fake) >= LEAST_IN_CELL:
            to_held, to_fake = _nearest(held, real), _nearest(fake, real)
            scores.append(_z_score(to_held, to_fake))
            copies.append(_z_score(to_held, np.full(len(to_fake), -1.0)))
            weights.append(len(held))
    if not scores:
        raise ValueError("no cell of the training images has both validation and generated images")
    held, fake = _nearest(held_out, train), _nearest(generated, train)
    return {
        "c_t": float(np.average(scores, weights=weights)),
        "all_copies": float(np.average(copies, weights=weights)),
        "cells": len(scores),
        "closer": float((fake[:, None] < held).mean() + 0.5 * (fake[:, None] == held).mean()),
    }


def _cells(
    train: np.ndarray, held_out: np.ndarray, generated: np.ndarray, cells: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the cell of every image of each set."""
    if cells == 1:
        return np.zeros(len(train), int), np.zeros(len(held_out), int), np.zeros(len(generated), int)
    from sklearn.cluster import KMeans

    partition = KMeans(min(cells, len(train)), n_init=4, random_state=seed).fit(np.asarray(train, np.float64))
    first, second = (partition.predict(np.asarray(features, np.float64)) for features in (held_out, generated))
    return partition.labels_, first, second


def _nearest(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    return distances(features, train).min(1)


def _z_score(held_out: np.ndarray, generated: np.ndarray) -> float:
    """z-score of Mann-Whitney's U, the number of pairs with the generated image farther away; ties count half."""
    from scipy.stats import rankdata

    n, m = len(held_out), len(generated)
    ranks = rankdata(np.concatenate([held_out, generated]))[n:]
    u = ranks.sum() - m * (m + 1) / 2
    return float((u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12))
