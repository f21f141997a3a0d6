"""Wall time of the stages of a run: preparation, compilation, training, validation, checkpoints and evaluation."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dim_jax.cli.command_line import printable
from dim_jax.reporting import figures, wording
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table

if TYPE_CHECKING:
    from dim_jax.reporting.figures import Axes


@dataclass(frozen=True)
class StageTime:
    """A stage: name, wall time in seconds (None if not recorded), and whether it is part of the stage above."""

    name: str
    seconds: float | None
    is_part: bool = False


def measure(run: RunRecords) -> list[StageTime]:
    """Stages of a run with their wall times, in the order in which they happen."""
    lines: dict[tuple[str, int], dict[str, float]] = {}
    for split, metric, step, _, value in run.curves:
        lines.setdefault((split, step), {})[metric] = value
    timed = [(split, line) for (split, _), line in lines.items() if math.isfinite(line.get("seconds", math.nan))]
    # The first dispatch of each process includes the compilation; its line has no time per step.
    train = [line for split, line in timed if split == "train"]
    starts = [line["seconds"] for line in train if math.isnan(line.get("seconds_per_step", 0.0))]
    steps = [line for line in train if not math.isnan(line.get("seconds_per_step", 0.0))]
    waits = [line["seconds"] * line["data_wait_share"] for line in steps if line.get("data_wait_share", -1) >= 0]
    # The time of a checkpoint is logged with the next training line; the last checkpoint has none.
    saves = [line["checkpoint_seconds"] for line in train if line.get("checkpoint_seconds", -1) > 0]
    between, name = ("samples", "Sample sheets") if run.generator else ("val", "Validation")
    stages = [
        StageTime("Preparing the data", run.data_seconds),
        StageTime("Start, with compilation" + (f" ({len(starts)} starts)" if starts[1:] else ""), _total(starts)),
        StageTime("Training steps", _total([line["seconds"] for line in steps])),
        StageTime("of it waiting for data", _total(waits), is_part=True),
        StageTime(f"{name} during training", _total([line["seconds"] for split, line in timed if split == between])),
        StageTime("Checkpoints (without the last)", _total(saves)),
    ]
    for split, evaluation in run.evaluations.items():
        seconds = evaluation.get("evaluation_seconds")
        is_known = wording.number(seconds) != wording.MISSING
        stages.append(StageTime(f"Evaluation, {wording.split_name(split)} split", float(seconds) if is_known else None))
    return stages


def _total(seconds: list[float]) -> float | None:
    return math.fsum(seconds) if seconds else None


def view(run: RunRecords, prefix: str) -> dict[str, Any]:
    """Template data of the stages: rows, bar chart and table; `prefix` starts the ids in the figure."""
    import markupsafe

    stages = measure(run)
    total = math.fsum(stage.seconds or 0.0 for stage in stages if not stage.is_part)
    timed = [stage for stage in stages if stage.seconds is not None]
    words = "; ".join(f"{stage.name}: {wording.duration(stage.seconds)}" for stage in timed)
    return {
        "rows": [
            {
                "name": stage.name,
                "is_part": stage.is_part,
                "seconds": wording.duration(stage.seconds),
                "share": wording.MISSING
                if stage.seconds is None or not total
                else f"{100 * stage.seconds / total:.1f} %",
            }
            for stage in stages
        ],
        "total": wording.duration(total if timed else None),
        "is_complete": len(timed) == len(stages),
        "svg": markupsafe.Markup(_bars(timed, prefix, f"Time per stage. {words}.")) if total else None,
        "csv": Table(
            "time_per_stage",
            "time per stage",
            ("stage", "seconds", "part of the stage above"),
            [(stage.name, stage.seconds, "yes" if stage.is_part else "no") for stage in stages],
        ),
    }


def _bars(stages: list[StageTime], prefix: str, alternative: str) -> str:
    def draw(axes: "Axes") -> None:
        places = range(len(stages))
        seconds = [stage.seconds or 0.0 for stage in stages]
        axes.barh(places, seconds, height=0.6, color=[figures.SERIES[1 if stage.is_part else 0] for stage in stages])
        for place, value in zip(places, seconds, strict=True):
            axes.annotate(
                wording.duration(value), (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_yticks(places, [("  " if stage.is_part else "") + printable(stage.name) for stage in stages])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.set_xlim(0, 1.22 * max(seconds))

    return figures.svg(draw, prefix, alternative, (5.2, 0.5 + 0.28 * len(stages)))
