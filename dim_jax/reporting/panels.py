"""The learning-curve panels of the report: one run alone, or several overlaid."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dim_jax.reporting import figures, wording
from dim_jax.reporting.run_directory import Run

SCALED = ("macro_f1", "balanced_accuracy", "accuracy", "g_mean")  # the curves shown, best metric first
BOOKKEEPING = ("gradient_norm", "seconds_per_step", "images_per_second", "data_wait_share", "learning_rate", "loss")
MOST_PANELS = 6


def best_step(run: Run) -> int | None:
    """Returns the step of the evaluated checkpoint, or of the best value of the chosen metric on validation so far."""
    for content in run.evaluations.values():
        if isinstance(content.get("checkpoint_step"), int):
            return content["checkpoint_step"]
    metric = str(run.setting("train", "best_metric") or "macro_f1")
    values = [(value, step) for split, name, step, _, value in run.curves if (split, name) == ("val", metric)]
    values = [(value, step) for value, step in values if math.isfinite(value)]
    if not values:
        return None
    sign = -1 if "loss" in metric or "error" in metric else 1
    return max(values, key=lambda item: sign * item[0])[1]


def epoch_of(run: Run, step: int) -> float:
    """Returns the epoch at a step, between the logged ones by straight lines."""
    known = sorted({(at, epoch) for _, _, at, epoch, _ in run.curves if math.isfinite(epoch)})
    return float(np.interp(step, *zip(*known, strict=True))) if known else math.nan


def curve_panels(runs: Sequence[Run], prefix: str) -> list[dict[str, Any]]:
    """Draws the learning curves: training and validation of one run together, several runs one colour each.

    Args:
      runs: the runs; those without curves are left out of the drawings.
      prefix: start of the ids in the figures, different for every call on a page.

    Returns:
      One dict of `title` and `svg` per panel.
    """
    import markupsafe

    available = {(split, metric) for run in runs for split, metric, *_ in run.curves}
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
    by_epoch = all(math.isfinite(epoch) for run in runs for _, _, _, epoch, _ in run.curves)
    panels = []
    for at, (metric, splits) in enumerate(wanted):
        title = wording.label(metric) + (
            f", {wording.split_name(splits[0])}" if len(splits) == 1 and metric != "learning_rate" else ""
        )
        lines, words, marked = [], [], {}
        for position, run in enumerate(runs):
            for split in splits:
                points = [
                    (epoch if by_epoch else step, value)
                    for name, key, step, epoch, value in run.curves
                    if (name, key) == (split, metric)
                ]
                if not points:
                    continue
                x, y = np.array(points, np.float64).T
                look = figures.style(position) if len(runs) > 1 else {"colour": int(split == "val"), "dash": 0}
                lines.append(figures.Line(x, y, markers=split == "val", **look))
                finite = y[np.isfinite(y)]
                who = run.name if len(runs) > 1 else wording.split_name(split)
                words.append(f"{who} from {finite[0]:.3g} to {finite[-1]:.3g}" if len(finite) else f"{who} undefined")
            step = best_step(run)
            if step is not None:
                place = epoch_of(run, step) if by_epoch else float(step)
                marked[place] = figures.style(position)["colour"] if len(runs) > 1 else 2
        alternative = f"{title} over {'epochs' if by_epoch else 'steps'}: {'; '.join(words)}."
        svg = figures.curves(lines, "epoch" if by_epoch else "step", f"{prefix}{at}-", alternative, marked)
        panels.append({"title": title, "svg": markupsafe.Markup(svg)})
    return panels
