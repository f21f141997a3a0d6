"""Comparison of several runs: metrics, learning curves, cautions and differences of configuration."""

import json
from collections.abc import Sequence
from typing import Any

from dim_jax.reporting import figures, gan_view, panels, run_directory, sheets, wording
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table
from dim_jax.runs.metrics_file import is_number


def view(runs: Sequence[RunRecords]) -> dict[str, Any]:
    """Template data of the comparison of `runs`.

    Generators are compared by their latest metrics and grids of generated images; classifiers by their results on the
    test split if any run was evaluated on it, otherwise on the first split that any run was evaluated on. Of generators
    and classifiers together only the configurations are compared.
    """
    styles = [figures.style(position) for position in range(len(runs))]
    differing, names = differences([run.config for run in runs]), [run.name for run in runs]
    rows = [(name, *values) for name, values in differing]
    title = "fields that differ between the runs"
    table = Table("configuration_differences", title, ("field", *names), rows)
    if not any(run.generator for run in runs):
        compared = _of_classifiers(runs)
    elif all(run.generator for run in runs):
        compared = _of_generators(runs)
    else:
        compared = _of_different_kinds(runs)
    empty: dict[str, Any] = {
        "split": None,
        "metrics": [],
        "scores": [],
        "adjusted": [],
        "classes": [],
        "recalls": [],
        "curves": [],
        "grids": [],
    }
    return {
        **empty,
        **compared,
        "styles": [style | {"dashes": figures.DASHES[style["dash"]]} for style in styles],
        "differences": differing,
        "csv": compared["csv"] | {"differences": table},
    }


def _of_classifiers(runs: Sequence[RunRecords]) -> dict[str, Any]:
    splits = {split for run in runs for split in run.evaluations}
    split = next((name for name in (*run_directory.SPLIT_ORDER, *sorted(splits)) if name in splits), None)
    evaluations = [run.evaluations.get(split, {}) for run in runs]
    adjusted = [entry if isinstance(entry := item.get("adjusted"), dict) else {} for item in evaluations]
    metrics = [*wording.metric_names(runs), *wording.TIMES]
    metrics = [key for key in metrics if any(evaluation.get(key) is not None for evaluation in evaluations)]
    class_rows = [_per_class(evaluation) for evaluation in evaluations]
    classes = list(dict.fromkeys(row.get("class") for rows in class_rows for row in rows))
    recalls = [{row.get("class"): row.get("recall") for row in rows} for rows in class_rows]
    unranked = [*wording.TIMES, *(["loss"] if len(_losses(runs)) > 1 else [])]
    supports = {row.get("class"): row.get("support") for rows in class_rows for row in rows}
    curves = panels.curve_panels(runs, "all-")
    names = [run.name for run in runs]
    return {
        "split": None if split is None else wording.split_name(split),
        "metrics": [{"title": wording.label(key), "note": ""} for key in metrics],
        "scores": _table([[item.get(key) for key in metrics] for item in evaluations], metrics, unranked),
        "adjusted": _table([[item.get(key) for key in metrics] for item in adjusted], metrics, unranked)
        if any(adjusted)
        else [],
        "classes": [{"title": name, "note": f"{wording.number(supports[name])} images"} for name in classes],
        "recalls": _table([[recall.get(name) for name in classes] for recall in recalls], ["recall"] * len(classes)),
        "cautions": _cautions(runs, split),
        "curves": curves,
        "csv": {
            "scores": Table(
                f"summary_metrics_{split}",
                "summary metrics",
                ("run", *metrics),
                [(name, *map(item.get, metrics)) for name, item in zip(names, evaluations, strict=True)],
            ),
            "adjusted": Table(
                f"summary_metrics_{split}_adjusted",
                "summary metrics of adjusted logits",
                ("run", *metrics),
                [(name, *map(item.get, metrics)) for name, item in zip(names, adjusted, strict=True)],
            )
            if any(adjusted)
            else None,
            "recalls": Table(
                f"recall_per_class_{split}",
                "recall per class",
                ("run", *classes),
                [(name, *map(recall.get, classes)) for name, recall in zip(names, recalls, strict=True)],
            ),
            "curves": panels.curve_table(curves, panels.is_by_epoch(runs)),
        },
    }


def _of_generators(runs: Sequence[RunRecords]) -> dict[str, Any]:
    headline = gan_view.headline(runs)
    metrics = [metric for _, metric in headline]
    curves = panels.grouped_panels(runs, gan_view.ALL_GROUPS, "all-")
    summaries = [gan_view.summary(run, headline) for run in runs]
    return {
        "metrics": [{"title": title, "note": ""} for title in summaries[0]],
        # No value is marked as best: a higher discriminator loss can be a good sign or a bad one.
        "scores": [[{"text": wording.number(value), "best": False} for value in row.values()] for row in summaries],
        "cautions": _generator_cautions(runs),
        "curves": curves,
        "grids": [{"run": run.name, "grid": sheets.newest_grid(run)} for run in runs],
        "csv": {
            "scores": Table(
                "gan_metrics",
                "latest metrics",
                ("run", "steps", *metrics),
                [(run.name, *row.values()) for run, row in zip(runs, summaries, strict=True)],
            ),
            "curves": panels.curve_table(curves, by_epoch=False),
        },
    }


def _generator_cautions(runs: Sequence[RunRecords]) -> list[str]:
    if any(run.generator == "diffusion" for run in runs):
        cautions = ["These numbers do not rank generators: a loss does not measure the quality of the images."]
    else:
        cautions = [
            "These numbers do not rank GANs: the losses of two competing networks do not measure the quality of the "
            "images."
        ]
    if len({gan_view.steps_done(run) for run in runs}) > 1:
        cautions.append("The runs have been trained for different numbers of steps.")
    if len({gan_view.subject(run) for run in runs}) > 1:
        cautions.append("The runs were trained to generate different classes.")
    if len({str(run.setting("gan", "perceptual")) for run in runs if run.generator == "gan"}) > 1:
        cautions.append(
            "Reconstruction losses are computed with different networks, so they are not comparable between the runs."
        )
    return cautions + _image_cautions(runs, ("train", "trained"))


def _of_different_kinds(runs: Sequence[RunRecords]) -> dict[str, Any]:
    generators = ", ".join(run.name for run in runs if run.generator)
    others = ", ".join(run.name for run in runs if not run.generator)
    caution = (
        "Generators and classifiers have no metrics in common, so only their configurations are compared. "
        f"Generators: {generators}; classifiers: {others}."
    )
    return {"cautions": [caution], "csv": {"curves": None}}


def _per_class(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    rows = evaluation.get("per_class")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _table(values: list[list[Any]], metrics: Sequence[str], unranked: Sequence[str] = ()) -> list[list[dict[str, Any]]]:
    """Returns cells of text with the best of each column marked, except in `unranked` ones; equal texts are ties."""
    texts = [[_text(value, key) for value, key in zip(row, metrics, strict=True)] for row in values]
    cells = [[{"text": text, "best": False} for text in row] for row in texts]
    for column, key in enumerate(metrics):
        defined = [(row[column], at) for at, row in enumerate(values) if texts[at][column] != wording.MISSING]
        # Times depend on the load of the machine, and values of different losses have no common scale.
        if len({texts[at][column] for _, at in defined}) < 2 or key in unranked:
            continue
        better = min if wording.is_better_when_small(key) else max
        best = texts[better(defined)[1]][column]
        for at in range(len(values)):
            cells[at][column]["best"] = texts[at][column] == best
    return cells


def _text(value: Any, metric: str) -> str:
    if metric in wording.TIMES and is_number(value):
        return f"{value:.3g}"
    return wording.number(float(value) if is_number(value) else value)


def _cautions(runs: Sequence[RunRecords], split: str | None) -> list[str]:
    """Returns the reasons not to read the table of metrics as a ranking, one sentence each."""
    if split is None:
        return ["No run has been evaluated yet."]
    cautions = [
        "A difference between runs without a confidence interval is no evidence: it can come from the seed, the split "
        "or a few images."
    ]
    pending = [run.name for run in runs if split not in run.evaluations]
    if pending:
        cautions.append(f"Not evaluated on the {wording.split_name(split)} split yet: {', '.join(pending)}.")
    if split != "test":
        cautions.append(
            "No run has been evaluated on the test split yet; the split shown may have been used to choose "
            "checkpoints, which makes its results optimistic."
        )
    if len(_losses(runs) - {None}) > 1:
        cautions.append("The runs were trained with different losses, so loss values are not comparable between them.")
    return list(dict.fromkeys(cautions + _image_cautions(runs, (split, "evaluated"), ("train", "trained"))))


def _image_cautions(runs: Sequence[RunRecords], *uses: tuple[str, str]) -> list[str]:
    """Returns a caution for each (split, verb) whose images differ between the runs or are unknown."""
    cautions = []
    for name, verb in uses:
        images = {_images(run, name) for run in runs}
        if None in images:
            cautions.append(
                f"It is unknown whether all runs were {verb} on the same images: a manifest or split is missing."
            )
        elif len(images) > 1:
            cautions.append(f"The runs were {verb} on different images, so their numbers cannot be compared directly.")
    return cautions


def _losses(runs: Sequence[RunRecords]) -> set[str | None]:
    """Returns the distinct loss configurations of the runs as JSON; None for an unknown one."""
    settings = [run.setting("loss") for run in runs]
    return {None if setting is None else json.dumps(setting, sort_keys=True) for setting in settings}


def _images(run: RunRecords, split: str) -> frozenset[tuple[str, str]] | None:
    if run.manifest is None or run.fold is None:
        return None
    return frozenset((run.manifest.rows[row].sha256, run.manifest.rows[row].label) for row in run.rows_of(split))


def differences(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Fields in which configurations differ: pairs of the dotted field name and the values, one per configuration."""
    flat = [wording.setting_texts(config) for config in configs]
    names = dict.fromkeys(name for config in flat for name in config)
    return [
        (name, [config.get(name, wording.MISSING) for config in flat])
        for name in names
        if len({config.get(name) for config in flat}) > 1
    ]
