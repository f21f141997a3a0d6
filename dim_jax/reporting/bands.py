"""Mean learning curves over seeds, with the interval in which the mean of many seeds is expected."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dim_jax.reporting.curves import UNKNOWN_SEED


@dataclass(frozen=True)
class Band:
    """The mean curve of one arm.

    Attributes:
      epoch: where the curve is known in all its seeds, increasing, float64 (N,).
      mean: over the seeds, (N,); NaN where one of them is undefined.
      low, high: the confidence interval of the mean, (N,); NaN with a single seed, which says nothing about others.
      num_seeds: how many seeds are behind it.
    """

    epoch: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_seeds: int


def confidence_band(
    curves: Mapping[str, np.ndarray],
    split: str,
    metric: str,
    *,
    confidence: float = 0.95,
    every: float | None = None,
) -> dict[str, Band]:
    """Averages the curves of each arm over its seeds, on a common grid of epochs.

    At every epoch the interval is mean +- t s / sqrt(n), with s the standard deviation over the n seeds and t the
    quantile of Student's distribution with n - 1 degrees of freedom. It tells how well n seeds know the mean, on this
    one split of the data and at this one epoch; it does not tell what other images would change.

    Args:
      curves: what `load_curves` returns; rows without an epoch are left out.
      split: "train" or "val".
      metric: one of `curves["metric"]`.
      confidence: of the interval, in (0, 1).
      every: first average each curve over stretches of so many epochs, above 0, such as 1.0 for the training loss of
        every epoch; None leaves it as it was logged. A last stretch that a run did not reach the end of is left out,
        unless it is the only one: means of a few steps jump.

    Returns:
      Arm -> band, in the order of `curves`. The grid holds the epochs of all seeds of an arm, from the latest start to
      the earliest end; a seed without a value at one of them is interpolated between its neighbours. Runs of one arm
      and seed are averaged first: they are no further evidence.

    Raises:
      ValueError: no run has such a metric, or an option is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1")
    if every is not None and not every > 0:
        raise ValueError(f"every={every} epochs must be above 0")
    of_metric = (curves["split"] == split) & (curves["metric"] == metric) & np.isfinite(curves["epoch"])
    if not of_metric.any():
        known = sorted(set(curves["metric"][(curves["split"] == split) & np.isfinite(curves["epoch"])]))
        raise ValueError(f"no run has metric={metric!r} in split={split!r}; it has {', '.join(known) or 'nothing'}")
    bands = {}
    for arm in dict.fromkeys(curves["arm"][of_metric]):
        of_arm = of_metric & (curves["arm"] == arm)
        by_seed: dict[tuple[int, str], list[tuple[np.ndarray, np.ndarray]]] = {}
        for run in dict.fromkeys(curves["run"][of_arm]):
            rows = of_arm & (curves["run"] == run)
            seed = int(curves["seed"][rows][0])
            # A run of unknown seed stands for itself.
            who = (seed, run if seed == UNKNOWN_SEED else "")
            by_seed.setdefault(who, []).append(_curve(curves["epoch"][rows], curves["value"][rows], every))
        bands[arm] = _band(list(by_seed.values()), confidence)
    return bands


def _curve(epoch: np.ndarray, value: np.ndarray, every: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns a curve in the order of its epochs, averaged over stretches of `every` epochs that end at its points."""
    order = np.argsort(epoch, kind="stable")
    epoch, value = epoch[order], value[order]
    if every is None:
        return epoch, value
    # Less a rounding error, so that the last step of an epoch belongs to it.
    stretch = np.maximum(np.ceil(epoch / every - 1e-9), 1)
    ends = np.unique(stretch)
    if len(ends) > 1 and epoch[-1] + np.median(np.diff(epoch)) < ends[-1] * every:
        ends = ends[:-1]
    return ends * every, np.array([value[stretch == end].mean() for end in ends])


def _band(seeds: list[list[tuple[np.ndarray, np.ndarray]]], confidence: float) -> Band:
    """Returns the band of the curves (epoch, value) of each run of each seed."""
    from scipy import stats

    curves = [curve for runs in seeds for curve in runs]
    first, last = max(epoch[0] for epoch, _ in curves), min(epoch[-1] for epoch, _ in curves)
    grid = np.unique(np.concatenate([epoch for epoch, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    values = np.stack(
        [np.mean([np.interp(grid, epoch, value) for epoch, value in runs], axis=0) for runs in seeds], axis=0
    )
    # In one order, whichever that of the runs was: sums of floats depend on it.
    values = np.sort(values, axis=0)
    mean, num_seeds = values.mean(0), len(seeds)
    if num_seeds == 1:
        unknown = np.full_like(mean, np.nan)
        return Band(grid, mean, unknown, unknown, 1)
    half = stats.t.ppf((1 + confidence) / 2, num_seeds - 1) * values.std(0, ddof=1) / np.sqrt(num_seeds)
    return Band(grid, mean, mean - half, mean + half, num_seeds)
