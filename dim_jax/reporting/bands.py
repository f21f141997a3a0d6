"""Mean learning curves over seeds, with confidence intervals of the mean."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dim_jax.reporting.curves import UNKNOWN_SEED


@dataclass(frozen=True)
class Band:
    """Mean curve of one arm, with a pointwise confidence interval.

    Attributes:
      epoch: epochs covered by all seeds, increasing, float64 (N,).
      mean: mean over seeds, (N,); NaN where the value of a seed is undefined.
      low, high: confidence interval of the mean, (N,); NaN for a single seed.
      num_seeds: number of seeds.
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
    """Mean curve of each arm over its seeds, with Student's t intervals, on a common grid of epochs.

    At each epoch the interval is mean +- t s / sqrt(n), with s the standard deviation over the n seeds and t the
    quantile of Student's t distribution with n - 1 degrees of freedom. The interval is pointwise and covers the
    variation between seeds on this split of the data, not the variation between images.

    Args:
      curves: result of `load_curves`; rows without an epoch are ignored.
      split: "train" or "val".
      metric: one of `curves["metric"]`.
      confidence: nominal coverage of the interval, in (0, 1).
      every: length in epochs, above 0, of the blocks over which each curve is averaged first, such as 1.0 for the mean
        training loss of each epoch; None: no averaging. The last block is dropped if a run ended before it was
        complete, unless it is the only one: means of few steps are noisy.

    Returns:
      Arm -> band, in the order of `curves`. The grid holds the epochs of all seeds of the arm, from the latest start to
      the earliest end; a seed without a value at an epoch is interpolated linearly. Runs of the same arm and seed are
      averaged first and count once.

    Raises:
      ValueError: no run has this metric in this split, or an option is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must be between 0 and 1")
    if every is not None and not every > 0:
        raise ValueError(f"every={every} epochs must be above 0")
    has_metric = (curves["split"] == split) & (curves["metric"] == metric) & np.isfinite(curves["epoch"])
    if not has_metric.any():
        logged = sorted(set(curves["metric"][(curves["split"] == split) & np.isfinite(curves["epoch"])]))
        raise ValueError(
            f"no run has metric={metric!r} in split={split!r}; metrics of this split: {', '.join(logged) or 'none'}"
        )
    bands = {}
    for arm in dict.fromkeys(curves["arm"][has_metric]):
        in_arm = has_metric & (curves["arm"] == arm)
        by_seed: dict[tuple[int, str], list[tuple[np.ndarray, np.ndarray]]] = {}
        for run in dict.fromkeys(curves["run"][in_arm]):
            rows = in_arm & (curves["run"] == run)
            seed = int(curves["seed"][rows][0])
            # Runs of unknown seed are not averaged with one another.
            key = (seed, run if seed == UNKNOWN_SEED else "")
            by_seed.setdefault(key, []).append(_curve(curves["epoch"][rows], curves["value"][rows], every))
        bands[arm] = _band(list(by_seed.values()), confidence)
    return bands


def _curve(epoch: np.ndarray, value: np.ndarray, every: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns epochs and values, sorted and averaged over blocks of `every` epochs, whose epoch is their end."""
    order = np.argsort(epoch, kind="stable")
    epoch, value = epoch[order], value[order]
    if every is None:
        return epoch, value
    # The tolerance keeps the last step of an epoch in that epoch in spite of rounding.
    block = np.maximum(np.ceil(epoch / every - 1e-9), 1)
    ends = np.unique(block)
    if len(ends) > 1 and epoch[-1] + np.median(np.diff(epoch)) < ends[-1] * every:
        ends = ends[:-1]
    return ends * every, np.array([value[block == end].mean() for end in ends])


def _band(seeds: list[list[tuple[np.ndarray, np.ndarray]]], confidence: float) -> Band:
    """Returns the band of an arm from the curves (epoch, value) of the runs of each seed."""
    from scipy import stats

    curves = [curve for runs in seeds for curve in runs]
    first, last = max(epoch[0] for epoch, _ in curves), min(epoch[-1] for epoch, _ in curves)
    grid = np.unique(np.concatenate([epoch for epoch, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    values = np.stack(
        [np.mean([np.interp(grid, epoch, value) for epoch, value in runs], axis=0) for runs in seeds], axis=0
    )
    # Sums of floats depend on their order, so sorting makes the result independent of the order of the runs.
    values = np.sort(values, axis=0)
    mean, num_seeds = values.mean(0), len(seeds)
    if num_seeds == 1:
        unknown = np.full_like(mean, np.nan)
        return Band(grid, mean, unknown, unknown, 1)
    half = stats.t.ppf((1 + confidence) / 2, num_seeds - 1) * values.std(0, ddof=1) / np.sqrt(num_seeds)
    return Band(grid, mean, mean - half, mean + half, num_seeds)
