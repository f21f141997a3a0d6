"""Learning-curve panels of one run, or of several runs overlaid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dim_jax.reporting import figures, wording
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table

SCALED = ("macro_f1", "balanced_accuracy", "accuracy", "g_mean")  # metrics in [0, 1] that are shown, by priority
TIMES = ("seconds", "seconds_per_step", "images_per_second", "data_wait_share", "overhead_share", "checkpoint_seconds")
BOOKKEEPING = (*TIMES, "gradient_norm", "learning_rate", "loss")
SPLITS = ("train", "val")
MOST_PANELS = 6


@dataclass(frozen=True)
class Group:
    """Metrics that share a panel: title, note on how to read it, and (split, metric) -> name in the legend."""

    title: str
    note: str
    metrics: dict[tuple[str, str], str]


def best_step(run: RunRecords) -> int | None:
    """Step of the evaluated checkpoint, or else of the best validation value of `config.train.best_metric` so far."""
    for evaluation in run.evaluations.values():
        if isinstance(evaluation.get("checkpoint_step"), int):
            return evaluation["checkpoint_step"]
    metric = str(run.setting("train", "best_metric") or "macro_f1")
    values = [(value, step) for split, name, step, _, value in run.curves if (split, name) == ("val", metric)]
    values = [(value, step) for value, step in values if math.isfinite(value)]
    if not values:
        return None
    sign = -1 if wording.is_better_when_small(metric) else 1
    return max(values, key=lambda item: sign * item[0])[1]


def epoch_of(run: RunRecords, step: int) -> float:
    """Epoch at a step, interpolated linearly between logged steps; NaN if no epoch was logged."""
    logged = sorted({(at, epoch) for _, _, at, epoch, _ in run.curves if math.isfinite(epoch)})
    return float(np.interp(step, [at for at, _ in logged], [epoch for _, epoch in logged])) if logged else math.nan


def curve_panels(runs: Sequence[RunRecords], prefix: str) -> list[dict[str, Any]]:
    """Panels of the learning curves: training and validation of one run together, or one colour per run.

    Args:
      runs: the runs; runs without curves are not drawn.
      prefix: start of the ids in the figures, unique on the page.

    Returns:
      One dict of `title`, `note`, `keys`, `svg` and `points` (rows of `curve_table`) per panel.
    """
    available = {(split, metric) for run in runs for split, metric, *_ in run.curves if split in SPLITS}
    names = {metric for _, metric in available}
    best = str(runs[0].setting("train", "best_metric"))
    metrics = [metric for metric in dict.fromkeys([best, *SCALED]) if metric in names and metric != "loss"]
    if not metrics:
        metrics = sorted(names - set(BOOKKEEPING) - set(wording.NOT_METRICS))
    if len(runs) == 1:
        specs = [(metric, ("train", "val")) for metric in ["loss", *metrics]]
    else:
        specs = [("loss", ("train",)), ("loss", ("val",))]
        specs += [(metric, ("val",) if ("val", metric) in available else ("train",)) for metric in metrics]
    specs = [(metric, splits) for metric, splits in specs if any((split, metric) in available for split in splits)]
    specs = specs[: MOST_PANELS - 1]
    specs += [("learning_rate", ("train",))] if ("train", "learning_rate") in available else []
    by_epoch = is_by_epoch(runs)
    panels = []
    for at, (metric, splits) in enumerate(specs):
        title = wording.label(metric) + (
            f", {wording.split_name(splits[0])}" if len(splits) == 1 and metric != "learning_rate" else ""
        )
        curves, marked = [], {}
        for position, run in enumerate(runs):
            for split in splits:
                style = figures.style(position) if len(runs) > 1 else {"colour": int(split == "val"), "dash": 0}
                name = run.name if len(runs) > 1 else wording.split_name(split)
                curves.append(_curve(run, split, metric, name, by_epoch, style))
            step = best_step(run)
            if step is not None:
                x = epoch_of(run, step) if by_epoch else float(step)
                marked[x] = figures.style(position)["colour"] if len(runs) > 1 else 2
        panels.append(_panel(title, curves, by_epoch, f"{prefix}{at}-", marked))
    return panels


def grouped_panels(runs: Sequence[RunRecords], groups: Sequence[Group], prefix: str) -> list[dict[str, Any]]:
    """Panels of metrics over steps: one per group for a single run, one per metric for several runs.

    Args:
      runs, prefix: as for `curve_panels`.
      groups: the metrics to draw; metrics that no run has logged are left out.

    Returns:
      One dict per panel, as for `curve_panels`.
    """
    logged = {(split, metric) for run in runs for split, metric, *_ in run.curves}
    panels: list[dict[str, Any]] = []
    for group in groups:
        shown = {key: name for key, name in group.metrics.items() if key in logged}
        if len(runs) == 1 and shown:
            curves = [
                _curve(runs[0], *key, name, False, figures.style(position))
                for position, (key, name) in enumerate(shown.items())
            ]
            panels.append(_panel(group.title, curves, False, f"{prefix}{len(panels)}-", note=group.note, has_keys=True))
        elif shown:
            for split, metric in shown:
                curves = [
                    _curve(run, split, metric, run.name, False, figures.style(position))
                    for position, run in enumerate(runs)
                ]
                panels.append(_panel(wording.label(metric), curves, False, f"{prefix}{len(panels)}-"))
    return panels


@dataclass(frozen=True)
class _Curve:
    """A metric of a run: name in the legend, line, description in words, and rows in the table."""

    name: str
    line: figures.Line
    words: str
    rows: list[tuple[str, str, str, float, float]]


def _curve(run: RunRecords, split: str, metric: str, name: str, by_epoch: bool, style: dict[str, int]) -> _Curve | None:
    """Returns a metric as a curve with the given colour and dashes, or None if the run has not logged it."""
    points = [(epoch if by_epoch else step, value) for *key, step, epoch, value in run.curves if key == [split, metric]]
    if not points:
        return None
    x, y = np.array(points, np.float64).T
    finite = y[np.isfinite(y)]
    return _Curve(
        name,
        figures.Line(x, y, markers=split != "train", **style),
        f"{name} from {finite[0]:.3g} to {finite[-1]:.3g}" if len(finite) else f"{name} undefined",
        [
            (run.name, metric, split, float(position), float(value))
            for position, value in zip(*figures.thin(x[np.isfinite(y)], finite), strict=True)
        ],
    )


def _panel(
    title: str,
    curves: Sequence[_Curve | None],
    by_epoch: bool,
    prefix: str,
    marked: dict[float, int] | None = None,
    note: str = "",
    has_keys: bool = False,
) -> dict[str, Any]:
    import markupsafe

    logged = [curve for curve in curves if curve is not None]
    alternative = f"{title} over {'epochs' if by_epoch else 'steps'}: {'; '.join(curve.words for curve in logged)}."
    axis = "epoch" if by_epoch else "step"
    svg = figures.curves([curve.line for curve in logged], axis, prefix, alternative, marked or {})
    rows = [row for curve in logged for row in curve.rows]
    keys = [
        {"name": curve.name, "colour": curve.line.colour, "dashes": figures.DASHES[curve.line.dash]} for curve in logged
    ]
    return {
        "title": title,
        "note": note,
        "keys": keys if has_keys else [],
        "svg": markupsafe.Markup(svg),
        "points": rows,
    }


def is_by_epoch(runs: Sequence[RunRecords]) -> bool:
    """Whether all logged lines of the runs have an epoch; otherwise curves are drawn over steps."""
    return all(math.isfinite(epoch) for run in runs for split, _, _, epoch, _ in run.curves if split in SPLITS)


def curve_table(panels: Sequence[dict[str, Any]], by_epoch: bool) -> Table:
    """Table of the points in panels, over epochs or steps; long curves are downsampled as in the figures."""
    columns = ("run", "metric", "split", "epoch" if by_epoch else "step", "value")
    return Table("learning_curves", "learning curves", columns, [row for panel in panels for row in panel["points"]])
