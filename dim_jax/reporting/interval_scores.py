"""Scores with intervals of one run on a split, per image and by case, the answers by case, and costs."""

import re
from collections.abc import Sequence
from typing import Any

from dim_jax.evaluation import costs
from dim_jax.evaluation.cases import MEAN, WORST
from dim_jax.reporting import wording
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table
from dim_jax.runs import files
from dim_jax.runs.metrics_file import is_number

SCORES = ("macro_f1", "g_mean", "balanced_accuracy", "mcc", "accuracy")
RULES = {MEAN: "mean of their images", WORST: "worst image"}
VARIANTS = {"plain": "", "adjusted": ", adjusted"}


def view(run: RunRecords, classes: Sequence[str], split: str) -> dict[str, Any] | None:
    """Template data of the table of scores with intervals, or None for an evaluation without them.

    Args:
      run: the run.
      classes: names of the classes.
      split: one of `run.evaluations`.
    """
    evaluation = run.evaluations[split]
    rows, numbers = [], []
    without_interval: dict[str, list[str]] = {}  # reason -> titles
    for title, count, entry in scored_entries(evaluation):
        scores = entry["scores"]
        values = [scores.get(name) if isinstance(scores.get(name), dict) else {} for name in SCORES]
        rows.append((title, [wording.number(count), *map(_text, values)]))
        numbers.append((title, count, *(value.get(key) for value in values for key in ("value", "low", "high"))))
        if isinstance(entry.get("no_interval"), str):
            without_interval.setdefault(entry["no_interval"], []).append(title)
    if not rows:
        return None
    notes = [
        f"No interval of {', nor of '.join(titles)}: {with_class_names(reason, classes)}."
        for reason, titles in without_interval.items()
    ]
    by_case = evaluation.get("by_case")
    plain = by_case.get("plain") if isinstance(by_case, dict) else None
    mixed = plain.get("num_mixed") if isinstance(plain, dict) else None
    if isinstance(mixed, int) and mixed:
        notes.append(
            f"{mixed} of the cases have images of several classes; their class is that of most of their images, or for "
            "the worst image the most severe one."
        )
    unit = evaluation["intervals"].get("unit") if isinstance(evaluation.get("intervals"), dict) else None
    columns = ("scored", "number", *(f"{name}{part}" for name in SCORES for part in ("", " low", " high")))
    title = f"scores with 95 % intervals, {wording.split_name(split)} split"
    return {
        "title": f"Scores with 95 % intervals, {wording.split_name(split)}",
        "columns": ["number", *map(wording.label, SCORES)],
        "rows": rows,
        "notes": [f"The intervals are of a bootstrap that resamples whole {unit or 'image'}s.", *notes],
        "csv": Table(f"intervals_{split}", title, columns, numbers),
        "cases": _case_table(run, split),
    }


def cost_view(evaluation: dict[str, Any], classes: Sequence[str], split: str) -> dict[str, Any] | None:
    """Template data of the costs and the mean cost of the answers; None for an evaluation without costs."""
    cost = evaluation.get("cost")
    if not isinstance(cost, dict) or costs.from_json(cost.get("matrix"), len(classes)) is None:
        return None
    plain, least = (value if isinstance(value, dict) else {} for value in map(cost.get, ("plain", "least_expected")))
    answers = [*classes, costs.ABSTAIN][: len(cost["matrix"][0])]
    rows = [(name, [f"{value:g}" for value in row]) for name, row in zip(classes, cost["matrix"], strict=True)]
    abstained = least.get("abstained")
    title = f"costs of answers, {wording.split_name(split)} split"
    return {
        "title": f"Costs of answers, {wording.split_name(split)}",
        "columns": answers,
        "rows": rows,
        "sentence": f"Mean cost per image, with 95 % intervals: {_text(plain)} of the most probable class without "
        f"adjustment, {_text(least)} of the answer of least expected cost with it"
        + (f", which abstains from {abstained:.1%} of the images." if is_number(abstained) else "."),
        "csv": Table(
            f"costs_{split}",
            title,
            ("true class", *answers),
            [(name, *row) for name, row in zip(classes, cost["matrix"], strict=True)],
        ),
    }


def scored_entries(evaluation: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    """Results of `cases.interval_scores` in a metrics.json, per image and by case, without and with the adjustment.

    Args:
      evaluation: contents of the file.

    Returns:
      (title, number of images or cases, result), as far as they are in the file.
    """
    entries: list[tuple[str, Any, Any]] = []
    intervals, by_case = evaluation.get("intervals"), evaluation.get("by_case")
    for variant, suffix in VARIANTS.items():
        entry = intervals.get(variant) if isinstance(intervals, dict) else None
        entries.append((f"images{suffix}", evaluation.get("num_images"), entry))
    for rule, words in RULES.items():
        for variant, suffix in VARIANTS.items():
            scored = by_case.get(variant) if isinstance(by_case, dict) else None
            if isinstance(scored, dict):
                entries.append((f"cases by the {words}{suffix}", scored.get("num_cases"), scored.get(rule)))
    return [entry for entry in entries if isinstance(entry[2], dict) and isinstance(entry[2].get("scores"), dict)]


def with_class_names(reason: str, classes: Sequence[str]) -> str:
    """A message of `evaluation.statistics`, which knows classes by number, with their names."""
    names = dict(enumerate(classes))
    return re.sub(r"\bclass (\d+)\b", lambda match: f"class {names.get(int(match[1]), match[1])}", reason)


def _text(value: dict[str, Any]) -> str:
    text = wording.number(value.get("value"))
    if is_number(value.get("low")) and is_number(value.get("high")):
        text += f" ({wording.number(value['low'])} to {wording.number(value['high'])})"
    return text


def _case_table(run: RunRecords, split: str) -> Table | None:
    """Returns the table of the answers by case in eval/<split>/cases.json, or None if there are none."""
    try:
        entries = wording.dicts(files.read_object(run.folder / "eval" / split / "cases.json").get("cases"))
    except (OSError, ValueError):
        return None
    rows = []
    for entry in entries:
        images = entry.get("images") if isinstance(entry.get("images"), dict) else {}
        answers = [entry.get(variant) if isinstance(entry.get(variant), dict) else {} for variant in VARIANTS]
        labels = "; ".join(f"{count} {name}" for name, count in images.items())
        rows.append((entry.get("case"), labels, *(answer.get(rule) for answer in answers for rule in RULES)))
    columns = [f"{words}{suffix}" for suffix in VARIANTS.values() for words in RULES.values()]
    title = f"answers by case, {wording.split_name(split)} split"
    return Table(f"cases_{split}", title, ("case", "images", *columns), rows)
