"""Stratified division of images into parts with given shares of each class: image by image, or by whole units.

scikit-learn's StratifiedGroupKFold makes equal parts only and never revises an assignment, which leaves rare classes
further from their share than the local search here.
"""

import numpy as np

# Weights of the objective, in units of squared shares of a class.
UNIT_WEIGHT = 0.5  # of the shares of units, beside the shares of images
PRESENCE = 100.0  # of a part that lacks a class it could have: outweighs any possible gain in balance
MOST_EXCHANGED = 1000  # units; more are not exchanged, because all pairs are compared


def divide_images(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffles each class and cuts it by `shares`, rounded by largest remainder.

    Args:
      labels: integer labels, shape (N,).
      shares: target share of each part, shape (S,), summing to 1.
      rng: random generator of the shuffles.

    Returns:
      Part of each image, int64 of shape (N,).
    """
    part = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        counts = largest_remainder(shares * len(rows), len(rows))
        part[rows] = np.repeat(np.arange(len(shares)), counts)
    return part


def largest_remainder(exact: np.ndarray, total: int) -> np.ndarray:
    """Rounds numbers whose sum is about `total` to integers whose sum is `total`; ties go to the first.

    Args:
      exact: numbers >= 0, shape (S,).
      total: sum of the result.
    """
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def divide_units(
    labels: np.ndarray, units: np.ndarray, shares: np.ndarray, rng: np.random.Generator, ranked: bool
) -> np.ndarray:
    """Divides units into parts so that each part has about its target share of the images and units of each class.

    Randomised greedy starts place the units one by one, largest first, in the part with the largest deficit; local
    search then moves and exchanges single units. The result is that of the start with the smallest worst deviation of
    a class share.

    Args:
      labels: integer labels, shape (N,).
      units: unit of each image, 0 to U - 1, shape (N,).
      shares: target share of each part, shape (S,), summing to 1.
      rng: random generator of the starts.
      ranked: whether a class with fewer units than parts goes to the first part, then the last, then those between
        (training, test, validation); otherwise no part is preferred.

    Returns:
      Part of each unit, int64 of shape (U,).
    """
    classes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    counts = np.zeros((units.max() + 1, classes.max() + 1))
    np.add.at(counts, (units, classes), 1)
    has = (counts > 0).astype(np.float64)
    # The term for units avoids that a class in a small part is a single large case.
    weights = np.concatenate([counts / counts.sum(0), UNIT_WEIGHT * has / has.sum(0)], axis=1)
    target = np.repeat([1, UNIT_WEIGHT], counts.shape[1])[:, None] * shares[None, :]
    needed = _needed(has.sum(0), len(shares), ranked)

    best, best_score = None, None
    for _ in range(int(np.clip(40_000 // len(counts), 4, 64))):
        part = _place(weights, target, has, needed, rng)
        part = _improve(part, weights, target, has, needed)
        one_hot = np.eye(len(shares))[part]
        absent = int((needed & (has.T @ one_hot == 0)).sum())
        deviation = np.abs(weights.T @ one_hot - target)
        score = (absent, round(deviation[: counts.shape[1]].max(), 9), round((deviation**2).sum(), 9))
        if best_score is None or score < best_score:
            best, best_score = part, score
    return best


def _needed(units_per_class: np.ndarray, parts: int, ranked: bool) -> np.ndarray:
    """Returns which parts must have each class, given its number of units; bool of shape (C, S)."""
    order = [0, parts - 1, *range(1, parts - 1)] if ranked else None
    needed = np.zeros((len(units_per_class), parts), bool)
    for number, count in enumerate(units_per_class):
        if count >= parts:
            needed[number] = True
        elif order is not None:
            needed[number, order[: int(count)]] = True
    return needed


def _place(
    weights: np.ndarray, target: np.ndarray, has: np.ndarray, needed: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Places units greedily by decreasing size, perturbed by `rng`; returns the part of each unit."""
    size = weights.max(1) * rng.uniform(0.5, 1.5, len(weights))
    part = np.zeros(len(weights), np.int64)
    deviation, absent = -target, needed.copy()
    for unit in np.argsort(-size, kind="stable"):
        cost = 2 * weights[unit] @ deviation - PRESENCE * (has[unit] @ absent)
        cost = cost + rng.uniform(0, 1e-9, len(cost))
        best = int(cost.argmin())
        part[unit] = best
        deviation[:, best] += weights[unit]
        absent[has[unit] > 0, best] = False
    return part


def _improve(
    part: np.ndarray, weights: np.ndarray, target: np.ndarray, has: np.ndarray, needed: np.ndarray
) -> np.ndarray:
    """Moves single units and exchanges pairs while the squared deviation from the target decreases."""
    part = part.copy()
    rows = np.arange(len(part))
    norm = (weights**2).sum(1)
    for _ in range(10 * len(part)):
        one_hot = np.eye(target.shape[1])[part]
        deviation, held = weights.T @ one_hot - target, has.T @ one_hot
        gained = has @ (needed & (held == 0))
        lost = (has * (needed & (held == 1))[:, part].T).sum(1)
        pull = weights @ deviation
        move = 2 * (pull - pull[rows, part][:, None]) + 2 * norm[:, None] + PRESENCE * (lost[:, None] - gained)
        move[rows, part] = 0
        unit, best = np.unravel_index(move.argmin(), move.shape)
        if move[unit, best] < -1e-9:
            part[unit] = best
            continue
        exchange = _best_exchange(part, weights, pull, norm, has, lost)
        if exchange is None:
            break
        first, second = exchange
        part[first], part[second] = part[second], part[first]
    return part


def _best_exchange(
    part: np.ndarray, weights: np.ndarray, pull: np.ndarray, norm: np.ndarray, has: np.ndarray, lost: np.ndarray
) -> tuple[int, int] | None:
    """Returns the two units whose exchange lowers the squared deviation most, or None if no exchange lowers it.

    Units that are the only one of a class in their part are not exchanged. Beyond MOST_EXCHANGED units there are no
    exchanges, because single moves suffice.
    """
    if len(part) > MOST_EXCHANGED:
        return None
    rows = np.arange(len(part))
    # towards[u, w]: first-order change of moving u to the part of w. With d = weights[u] - weights[w] the exchange
    # costs 2 d.(deviation[part of w] - deviation[part of u]) + 2 |d|^2.
    towards = pull[:, part] - pull[rows, part][:, None]
    change = 2 * (towards + towards.T) + 2 * (norm[:, None] + norm[None, :] - 2 * weights @ weights.T)
    change[(part[:, None] == part[None, :]) | (lost[:, None] > 0) | (lost[None, :] > 0)] = 0
    first, second = np.unravel_index(change.argmin(), change.shape)
    return (int(first), int(second)) if change[first, second] < -1e-9 else None
