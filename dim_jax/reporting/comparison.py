"""What the report shows of several runs side by side."""

import json
from collections.abc import Sequence
from typing import Any

from dim_jax.reporting import figures, gan_view, panels, run_directory, sheets, wording
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table
from dim_jax.runs.metrics_file import is_number


def view(runs: Sequence[RunRecords]) -> dict[str, Any]:
    """Returns the comparison of `runs`, in words, tables and overlaid curves; of runs of different kinds in words only.

    Of GANs, where they stand and what they draw is compared. Of others, the split compared is the test split as soon as
    one run has been tested; otherwise the first that any run has.
    """
    looks = [figures.style(position) for position in range(len(runs))]
    different, names = differences([run.config for run in runs]), [run.name for run in runs]
    rows = [(name, *values) for name, values in different]
    title = "fields that differ between the runs"
    table = Table("configuration_differences", title, ("field", *names), rows)
    if not any(run.is_gan for run in runs):
        compared = _of_classifiers(runs)
    elif all(run.is_gan for run in runs):
        compared = _of_gans(runs)
    else:
        compared = _of_different_kinds(runs)
    nothing = {"split": None, "metrics": [], "scores": [], "classes": [], "recalls": [], "curves": [], "grids": []}
    return {
        **nothing,
        **compared,
        "looks": [look | {"dashes": figures.DASHES[look["dash"]]} for look in looks],
        "differences": different,
        "csv": compared["csv"] | {"differences": table},
    }


def _of_classifiers(runs: Sequence[RunRecords]) -> dict[str, Any]:
    splits = {split for run in runs for split in run.evaluations}
    split = next((name for name in (*run_directory.SPLIT_ORDER, *sorted(splits)) if name in splits), None)
    contents = [run.evaluations.get(split, {}) for run in runs]
    metrics = [*wording.metric_names(runs), *wording.TIMES]
    metrics = [key for key in metrics if any(content.get(key) is not None for content in contents)]
    classes = list(dict.fromkeys(row.get("class") for content in contents for row in _per_class(content)))
    recalls = [{row.get("class"): row.get("recall") for row in _per_class(content)} for content in contents]
    unranked = [*wording.TIMES, *(["loss"] if len(_losses(runs)) > 1 else [])]
    supports = {row.get("class"): row.get("support") for content in contents for row in _per_class(content)}
    drawn = panels.curve_panels(runs, "all-")
    names = [run.name for run in runs]
    return {
        "split": None if split is None else wording.split_name(split),
        "metrics": [{"title": wording.label(key), "note": ""} for key in metrics],
        "scores": _table([[content.get(key) for key in metrics] for content in contents], metrics, unranked),
        "classes": [{"title": name, "note": f"{wording.number(supports[name])} images"} for name in classes],
        "recalls": _table([[recall.get(name) for name in classes] for recall in recalls], ["recall"] * len(classes)),
        "cautions": _cautions(runs, split),
        "curves": drawn,
        "csv": {
            "scores": Table(
                f"summary_metrics_{split}",
                "summary metrics",
                ("run", *metrics),
                [(name, *map(content.get, metrics)) for name, content in zip(names, contents, strict=True)],
            ),
            "recalls": Table(
                f"recall_per_class_{split}",
                "recall per class",
                ("run", *classes),
                [(name, *map(recall.get, classes)) for name, recall in zip(names, recalls, strict=True)],
            ),
            "curves": panels.curve_table(drawn, panels.is_by_epoch(runs)),
        },
    }


def _of_gans(runs: Sequence[RunRecords]) -> dict[str, Any]:
    metrics = [metric for _, metric in gan_view.HEADLINE]
    drawn = panels.grouped_panels(runs, gan_view.GROUPS, "all-")
    standings = [gan_view.standing(run) for run in runs]
    return {
        "metrics": [{"title": title, "note": ""} for title in standings[0]],
        # None is marked as the best: a discriminator that loses more can be a good sign or a bad one.
        "scores": [[{"text": wording.number(value), "best": False} for value in row.values()] for row in standings],
        "cautions": _gan_cautions(runs),
        "curves": drawn,
        "grids": [{"run": run.name, "grid": sheets.newest_grid(run)} for run in runs],
        "csv": {
            "scores": Table(
                "gan_metrics",
                "where the runs stand",
                ("run", "steps", *metrics),
                [(run.name, *row.values()) for run, row in zip(runs, standings, strict=True)],
            ),
            "curves": panels.curve_table(drawn, by_epoch=False),
        },
    }


def _gan_cautions(runs: Sequence[RunRecords]) -> list[str]:
    cautions = [
        "Nothing here ranks GANs: two networks play against each other, so neither loss says how good the images are."
    ]
    if len({gan_view.steps_done(run) for run in runs}) > 1:
        cautions.append("The runs stand at different steps.")
    if len({gan_view.subject(run) for run in runs}) > 1:
        cautions.append("The runs learned to draw different classes.")
    if len({str(run.setting("gan", "perceptual")) for run in runs}) > 1:
        cautions.append("Reconstructions are measured by different networks, so their distances are not comparable.")
    return cautions + _image_cautions(runs, ("train", "trained"))


def _of_different_kinds(runs: Sequence[RunRecords]) -> dict[str, Any]:
    gans = ", ".join(run.name for run in runs if run.is_gan)
    others = ", ".join(run.name for run in runs if not run.is_gan)
    caution = (
        f"The runs are of different kinds, so only their configurations are compared: GAN: {gans}; others: {others}."
    )
    return {"cautions": [caution], "csv": {"curves": None}}


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
        better = min if wording.is_better_when_small(key) else max
        best = texts[better(found)[1]][column]
        for at in range(len(values)):
            cells[at][column]["best"] = texts[at][column] == best
    return cells


def _text(value: Any, metric: str) -> str:
    if metric in wording.TIMES and is_number(value):
        return f"{value:.3g}"
    return wording.number(float(value) if is_number(value) else value)


def _cautions(runs: Sequence[RunRecords], split: str | None) -> list[str]:
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
    return list(dict.fromkeys(cautions + _image_cautions(runs, (split, "evaluated"), ("train", "trained"))))


def _image_cautions(runs: Sequence[RunRecords], *uses: tuple[str, str]) -> list[str]:
    """Returns for splits, each with what was done on it, that the runs had different images or that nobody knows."""
    cautions = []
    for name, verb in uses:
        images = {_images(run, name) for run in runs}
        if None in images:
            cautions.append(
                f"Whether all were {verb} on the same images cannot be told: a manifest or split is missing."
            )
        elif len(images) > 1:
            cautions.append(f"The runs were {verb} on different images, so their numbers cannot be compared directly.")
    return cautions


def _losses(runs: Sequence[RunRecords]) -> set[str | None]:
    """Returns the different losses of the runs, as texts; None stands for an unknown one."""
    settings = [run.setting("loss") for run in runs]
    return {None if setting is None else json.dumps(setting, sort_keys=True) for setting in settings}


def _images(run: RunRecords, split: str) -> frozenset[tuple[str, str]] | None:
    if run.manifest is None or run.fold is None:
        return None
    return frozenset((run.manifest.rows[row].sha256, run.manifest.rows[row].label) for row in run.rows_of(split))


def differences(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the dotted names of the fields in which the configurations differ, with the value of each run."""
    flat = [wording.setting_texts(config) for config in configs]
    names = dict.fromkeys(name for config in flat for name in config)
    return [
        (name, [config.get(name, wording.MISSING) for config in flat])
        for name in names
        if len({config.get(name) for config in flat}) > 1
    ]
