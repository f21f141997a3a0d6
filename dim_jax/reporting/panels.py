"""The learning-curve panels of the report: one run alone, or several overlaid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dim_jax.reporting import figures, wording
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table

SCALED = ("macro_f1", "balanced_accuracy", "accuracy", "g_mean")  # the curves shown, best metric first
TIMES = ("seconds", "seconds_per_step", "images_per_second", "data_wait_share", "checkpoint_seconds")
BOOKKEEPING = (*TIMES, "gradient_norm", "learning_rate", "loss")
SPLITS = ("train", "val")
MOST_PANELS = 6


@dataclass(frozen=True)
class Group:
    """Metrics that share a panel: its title, how to read it, and (split, metric) of each with its name in the panel."""

    title: str
    note: str
    metrics: dict[tuple[str, str], str]


def best_step(run: RunRecords) -> int | None:
    """Returns the step of the evaluated checkpoint, or of the best value of the chosen metric on validation so far."""
    for content in run.evaluations.values():
        if isinstance(content.get("checkpoint_step"), int):
            return content["checkpoint_step"]
    metric = str(run.setting("train", "best_metric") or "macro_f1")
    values = [(value, step) for split, name, step, _, value in run.curves if (split, name) == ("val", metric)]
    values = [(value, step) for value, step in values if math.isfinite(value)]
    if not values:
        return None
    sign = -1 if wording.is_better_when_small(metric) else 1
    return max(values, key=lambda item: sign * item[0])[1]


def epoch_of(run: RunRecords, step: int) -> float:
    """Returns the epoch at a step, between the logged ones by straight lines."""
    known = sorted({(at, epoch) for _, _, at, epoch, _ in run.curves if math.isfinite(epoch)})
    return float(np.interp(step, *zip(*known, strict=True))) if known else math.nan


def curve_panels(runs: Sequence[RunRecords], prefix: str) -> list[dict[str, Any]]:
    """Draws the learning curves: training and validation of one run together, several runs one colour each.

    Args:
      runs: the runs; those without curves are left out of the drawings.
      prefix: start of the ids in the figures, different for every call on a page.

    Returns:
      One dict of `title`, `note`, `keys`, `svg` and `points` (rows of `curve_table`) per panel.
    """
    available = {(split, metric) for run in runs for split, metric, *_ in run.curves if split in SPLITS}
    names = {metric for _, metric in available}
    best = str(runs[0].setting("train", "best_metric"))
    chosen = [metric for metric in dict.fromkeys([best, *SCALED]) if metric in names and metric != "loss"]
    if not chosen:
        chosen = sorted(names - set(BOOKKEEPING) - set(wording.NOT_METRICS))
    if len(runs) == 1:
        wanted = [(metric, ("train", "val")) for metric in ["loss", *chosen]]
    else:
        wanted = [("loss", ("train",)), ("loss", ("val",))]
        wanted += [(metric, ("val",) if ("val", metric) in available else ("train",)) for metric in chosen]
    wanted = [(metric, splits) for metric, splits in wanted if any((split, metric) in available for split in splits)]
    wanted = wanted[: MOST_PANELS - 1]
    wanted += [("learning_rate", ("train",))] if ("train", "learning_rate") in available else []
    by_epoch = is_by_epoch(runs)
    panels = []
    for at, (metric, splits) in enumerate(wanted):
        title = wording.label(metric) + (
            f", {wording.split_name(splits[0])}" if len(splits) == 1 and metric != "learning_rate" else ""
        )
        curves, marked = [], {}
        for position, run in enumerate(runs):
            for split in splits:
                look = figures.style(position) if len(runs) > 1 else {"colour": int(split == "val"), "dash": 0}
                who = run.name if len(runs) > 1 else wording.split_name(split)
                curves.append(_curve(run, split, metric, who, by_epoch, look))
            step = best_step(run)
            if step is not None:
                place = epoch_of(run, step) if by_epoch else float(step)
                marked[place] = figures.style(position)["colour"] if len(runs) > 1 else 2
        panels.append(_panel(title, curves, by_epoch, f"{prefix}{at}-", marked))
    return panels


def grouped_panels(runs: Sequence[RunRecords], groups: Sequence[Group], prefix: str) -> list[dict[str, Any]]:
    """Draws metrics over steps: those of a group together for one run, each metric by itself for several runs.

    Args:
      runs, prefix: as for `curve_panels`.
      groups: what to draw; metrics that no run has logged are left out.

    Returns:
      As `curve_panels`.
    """
    logged = {(split, metric) for run in runs for split, metric, *_ in run.curves}
    panels = []
    for group in groups:
        shown = {key: name for key, name in group.metrics.items() if key in logged}
        if len(runs) == 1 and shown:
            looks = [figures.style(position) for position in range(len(shown))]
            curves = [
                _curve(runs[0], *key, name, False, look) for (key, name), look in zip(shown.items(), looks, strict=True)
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
    """One metric of one run: whose line it is, what is drawn, what is said of it, and its rows in the table."""

    who: str
    line: figures.Line
    words: str
    rows: list[tuple[str, str, str, float, float]]


def _curve(run: RunRecords, split: str, metric: str, who: str, by_epoch: bool, look: dict[str, int]) -> _Curve | None:
    """Returns a metric as a curve in the given colour and dashes, or None where the run has not logged it."""
    points = [
        (epoch if by_epoch else step, value)
        for name, key, step, epoch, value in run.curves
        if (name, key) == (split, metric)
    ]
    if not points:
        return None
    x, y = np.array(points, np.float64).T
    finite = y[np.isfinite(y)]
    return _Curve(
        who,
        figures.Line(x, y, markers=split != "train", **look),
        f"{who} from {finite[0]:.3g} to {finite[-1]:.3g}" if len(finite) else f"{who} undefined",
        [
            (run.name, metric, split, float(place), float(value))
            for place, value in zip(*figures.thin(x[np.isfinite(y)], finite), strict=True)
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

    there = [curve for curve in curves if curve is not None]
    alternative = f"{title} over {'epochs' if by_epoch else 'steps'}: {'; '.join(curve.words for curve in there)}."
    axis = "epoch" if by_epoch else "step"
    svg = figures.curves([curve.line for curve in there], axis, prefix, alternative, marked or {})
    rows = [row for curve in there for row in curve.rows]
    keys = [{"who": each.who, "colour": each.line.colour, "dashes": figures.DASHES[each.line.dash]} for each in there]
    return {
        "title": title,
        "note": note,
        "keys": keys if has_keys else [],
        "svg": markupsafe.Markup(svg),
        "points": rows,
    }


def is_by_epoch(runs: Sequence[RunRecords]) -> bool:
    """Returns whether every line of the runs knows its epoch; the curves are drawn over steps otherwise."""
    return all(math.isfinite(epoch) for run in runs for split, _, _, epoch, _ in run.curves if split in SPLITS)


def curve_table(panels: Sequence[dict[str, Any]], by_epoch: bool) -> Table:
    """Returns the points of panels as they are drawn, over epochs or steps: long curves as means of blocks."""
    columns = ("run", "metric", "split", "epoch" if by_epoch else "step", "value")
    return Table("learning_curves", "learning curves", columns, [row for panel in panels for row in panel["points"]])
