"""What the report shows of several runs side by side."""

import json
import math
from collections.abc import Sequence
from typing import Any

from dim_jax.reporting import figures, panels, run_directory, wording
from dim_jax.reporting.run_directory import Run

FEWER_IS_BETTER = ("loss", "error")


def view(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns the comparison of `runs`, in words, tables and overlaid curves.

    The split compared is the test split as soon as one run has been tested; otherwise the first that any run has.
    """
    splits = {split for run in runs for split in run.evaluations}
    split = next((name for name in (*run_directory.SPLIT_ORDER, *sorted(splits)) if name in splits), None)
    contents = [run.evaluations.get(split, {}) for run in runs]
    metrics = [*wording.metric_names(runs), *wording.TIMES]
    metrics = [key for key in metrics if any(content.get(key) is not None for content in contents)]
    classes = list(dict.fromkeys(row.get("class") for content in contents for row in _per_class(content)))
    recalls = [{row.get("class"): row.get("recall") for row in _per_class(content)} for content in contents]
    unranked = [*wording.TIMES, *(["loss"] if len(_losses(runs)) > 1 else [])]
    supports = {row.get("class"): row.get("support") for content in contents for row in _per_class(content)}
    return {
        "split": None if split is None else wording.split_name(split),
        "metrics": [{"title": wording.label(key), "note": ""} for key in metrics],
        "scores": _table([[content.get(key) for key in metrics] for content in contents], metrics, unranked),
        "classes": [{"title": name, "note": f"{wording.number(supports[name])} images"} for name in classes],
        "recalls": _table([[recall.get(name) for name in classes] for recall in recalls], ["recall"] * len(classes)),
        "cautions": _cautions(runs, split),
        "curves": panels.curve_panels(runs, "all-"),
        "looks": [
            figures.style(position) | {"dashes": figures.DASHES[figures.style(position)["dash"]]}
            for position in range(len(runs))
        ],
        "differences": differences([run.config for run in runs]),
    }


def _per_class(content: dict[str, Any]) -> list[dict[str, Any]]:
    rows = content.get("per_class")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _table(values: list[list[Any]], metrics: Sequence[str], unranked: Sequence[str] = ()) -> list[list[dict[str, Any]]]:
    """Returns cells of text, the best of each column marked unless it is `unranked`; equal texts are equally good."""
    texts = [[_text(value, key) for value, key in zip(row, metrics, strict=True)] for row in values]
    cells = [[{"text": text, "best": False} for text in row] for row in texts]
    for column, key in enumerate(metrics):
        found = [(row[column], at) for at, row in enumerate(values) if texts[at][column] != wording.MISSING]
        shown = {texts[at][column] for _, at in found}
        # Times depend on what else the machine did, and losses of different kinds have no common scale.
        if len(shown) < 2 or key in unranked:
            continue
        better = min if any(word in key for word in FEWER_IS_BETTER) else max
        best = texts[better(found)[1]][column]
        for at in range(len(values)):
            cells[at][column]["best"] = texts[at][column] == best
    return cells


def _text(value: Any, metric: str) -> str:
    if metric in wording.TIMES and isinstance(value, (int, float)) and math.isfinite(value):
        return f"{value:.3g}"
    return wording.number(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def _cautions(runs: Sequence[Run], split: str | None) -> list[str]:
    """Returns what speaks against reading the table as a ranking."""
    if split is None:
        return ["No run has been evaluated yet."]
    cautions = [
        "A difference between runs without a confidence interval proves nothing: it can come from the seed, the split "
        "or a handful of images."
    ]
    waiting = [run.name for run in runs if split not in run.evaluations]
    if waiting:
        cautions.append(f"Not evaluated on the {wording.split_name(split)} split yet: {', '.join(waiting)}.")
    if split != "test":
        cautions.append("No run has been tested yet; these numbers are of a split that may choose checkpoints.")
    if len(_losses(runs) - {None}) > 1:
        cautions.append("The runs were trained with different losses, so loss values are not comparable between them.")
    for name, verb in ((split, "evaluated"), ("train", "trained")):
        images = {_images(run, name) for run in runs}
        if None in images:
            cautions.append(
                f"Whether all were {verb} on the same images cannot be told: a manifest or split is missing."
            )
        elif len(images) > 1:
            cautions.append(f"The runs were {verb} on different images, so their numbers cannot be compared directly.")
    return list(dict.fromkeys(cautions))


def _losses(runs: Sequence[Run]) -> set[str | None]:
    """Returns the different losses of the runs, as texts; None stands for an unknown one."""
    settings = [run.setting("loss") for run in runs]
    return {None if setting is None else json.dumps(setting, sort_keys=True) for setting in settings}


def _images(run: Run, split: str) -> frozenset[tuple[str, str]] | None:
    if run.manifest is None or run.fold is None:
        return None
    return frozenset((run.manifest.rows[row].sha256, run.manifest.rows[row].label) for row in run.rows_of(split))


def differences(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the dotted names of the fields in which the configurations differ, with the value of each run."""
    flat = [wording.flatten(config) for config in configs]
    names = dict.fromkeys(name for config in flat for name in config)
    return [
        (name, [config.get(name, wording.MISSING) for config in flat])
        for name in names
        if len({config.get(name) for config in flat}) > 1
    ]
