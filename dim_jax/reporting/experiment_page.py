"""Page of an experiment: one sentence per question first, then the results that the sentences are based on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli.command_line import printable
from dim_jax.reporting import (
    examples,
    experiment_tables,
    figures,
    pages,
    predictions,
    run_directory,
    selection_page,
    tables,
    thumbnails,
    wording,
)
from dim_jax.reporting.tables import Table
from dim_jax.runs import files

RESULTS = "results.json"
FORMAT = 2  # format 1 had neither the path of a selection's list of images nor the significance of answers
MOST_IMAGES = 24  # selected images shown per generator
LEAST_RECALL = 0.5  # classes with less are named
SHEET_SIDE = 1400  # pixels


def write_results(folder: Path, sites: Sequence[Mapping[str, Any]], diverged: Sequence[str]) -> None:
    """Writes results.json, from which the page is made.

    Args:
      folder: the experiment's run directory.
      sites: one entry per dataset, as `experiment.verdict.judge` returns it.
      diverged: sentences on runs whose loss became not finite.
    """
    files.write_json(folder / RESULTS, {"format": FORMAT, "sites": list(sites), "diverged": list(diverged)})


def render(folders: Mapping[str, Path]) -> tuple[str, list[list[Table]], list[str]]:
    """HTML page of one experiment, or of several whose data sets are shown side by side, and its tables.

    Args:
      folders: the experiments' run directories by unique names.

    Returns:
      A complete HTML document, the tables of each dataset, and the names of the datasets.

    Raises:
      FileNotFoundError: an experiment has no results yet.
      ValueError: a results.json is damaged or was written by another version.
    """
    entries, diverged = [], []
    for name, folder in folders.items():
        results = _read_results(folder)
        prefix = f"{name}: " if len(folders) > 1 else ""
        entries += [(f"{prefix}{site['name']}", site, folder / site["name"]) for site in results["sites"]]
        diverged += [f"{prefix}{sentence}" for sentence in results.get("diverged", [])]
    sites = [
        tables.owned(_site(number, name, site, folder), name)
        for number, (name, site, folder) in enumerate(entries, start=1)
    ]
    side_by_side = experiment_tables.side_by_side({name: site for name, site, _ in entries})
    template = pages.environment().get_template("experiment.html")
    page = template.render(
        name=", ".join(folders),
        sites=sites,
        side_by_side=side_by_side,
        diverged=diverged,
        scripts=[pages.script_file("sort.js")],
    )
    return page.strip() + "\n", [tables.collect(site) for site in sites], [name for name, _, _ in entries]


def _read_results(folder: Path) -> dict[str, Any]:
    path = folder / RESULTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; the experiment has no results yet, continue it with python -m dim_jax.train "
            f"--workdir={folder}"
        )
    results = files.read_json(path)
    if not isinstance(results, dict) or results.get("format") != FORMAT or not isinstance(results.get("sites"), list):
        raise ValueError(
            f"{path} is damaged or of another version; write it again with python -m dim_jax.train --workdir={folder}"
        )
    return results


def _site(number: int, name: str, site: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the template data of one dataset."""
    prefix, metric, arms = f"site{number}-", site["metric"], site["arms"]
    titles = {arm["name"]: arm["title"] for arm in arms}
    primary = [answer for answer in site["answers"] if answer["is_primary"]]
    others = [answer for answer in site["answers"] if not answer["is_primary"]]
    return {
        "id": f"site{number}",
        "name": name,
        "facts": _facts(site),
        "metric": wording.label(metric),
        "has_primary": site["has_primary"],
        "primary": primary,
        "others": others,
        "unanswered": site["unanswered"],
        "missing": site["missing"],
        "cautions": _cautions(site),
        "not_run": list(site["not_run"].items()),
        "advice": _advice(site, arms),
        "examples": _examples(site, folder),
        "arms": experiment_tables.arm_table(arms),
        "by_case": experiment_tables.case_table(arms),
        "forest": _markup(_forest(arms, metric, prefix)) if arms else None,
        "takeaway": _takeaway(arms, metric) if arms else "",
        "contrasts": experiment_tables.contrast_table(site["answers"], titles, metric),
        "added": _added_curves(arms, metric, prefix),
        "per_class": experiment_tables.class_table(site, arms),
        "confusions": [experiment_tables.confusion(arm, site["classes"]) for arm in arms],
        "calibration": [
            {
                "title": arm["title"],
                "note": f"calibration error {wording.number(arm['expected_calibration_error'])}",
                "keys": None,
                "svg": _markup(
                    figures.reliability(
                        arm["reliability"], f"{prefix}reliability-{place}-", f"Reliability diagram of {arm['title']}."
                    )
                ),
            }
            for place, arm in enumerate(arms)
        ],
        "generators": [_generator(name, entries, folder) for name, entries in site["selections"].items() if entries],
        "chosen": [
            (arm["title"], arm["tuned"].split(".")[-1], ", ".join(f"{value:g}" for value in arm["chosen"]))
            for arm in arms
            if arm["tuned"]
        ]
        + [(arm["title"], "tau", ", ".join(f"{value:g}" for value in arm["taus"])) for arm in arms if arm.get("taus")],
        "made_of": [
            (arm["title"], [(fold, titles) for fold, titles in zip(site["folds"], arm["made_of"], strict=True)])
            for arm in arms
            if arm.get("made_of") and not arm.get("taus")
        ],
        "runs": site["runs"],
        "finished": sum(run["finished"] for run in site["runs"]),
        "tables": experiment_tables.csv_tables(site, arms, titles),
    }


def _advice(site: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the recommended arm beside the first one; None if there is none, or only results of before it."""
    recommended = site.get("recommended")
    arm = next((arm for arm in arms if recommended and arm["name"] == recommended["arm"]), None)
    if arm is None or recommended is None:
        return None
    pair = [arms[0], arm] if arm is not arms[0] else [arm]
    return {
        "title": arm["title"],
        "members": list(dict.fromkeys(title for fold in arm["made_of"] for title in fold)),
        "arms": experiment_tables.arm_table(pair),
        "per_class": experiment_tables.class_table(site, pair),
        "weak": weak_classes(site, arm),
        "fold": recommended["fold"],
        "command": recommended["command"],
    }


def weak_classes(site: Mapping[str, Any], arm: Mapping[str, Any]) -> list[str]:
    """Returns the classes of which an arm recalls less than half, with their recall, as texts."""
    recalls = [arm["scores"][f"recall_{label}"]["value"] for label in range(len(site["classes"]))]
    return [
        f"{name} ({recall:.2f})" for name, recall in zip(site["classes"], recalls, strict=True) if recall < LEAST_RECALL
    ]


def _examples(site: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """Returns example images of the first network of the recommended arm; None if it is not here."""
    recommended = site.get("recommended") or {}
    if not recommended.get("run") or not (folder / recommended["run"]).is_dir():
        return None
    run = run_directory.read(site["name"], folder / recommended["run"])
    predicted = predictions.read(run, "test") if "test" in run.evaluations else None
    if not isinstance(predicted, predictions.SavedPredictions):
        return None
    return {"note": "", "fold": recommended["fold"], **examples.view(run, predicted)}


def _markup(text: str) -> Any:
    import markupsafe

    return markupsafe.Markup(text)


def _facts(site: Mapping[str, Any]) -> list[str]:
    seeds = sorted({seed for arm in site["arms"] for seed in arm["seeds"]})
    return [
        f"{site['num_images']} images of {site['num_cases']} cases",
        f"{len(site['classes'])} classes",
        f"{len(site['folds'])} of {site['num_folds']} folds",
        f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}",
        f"{len(site['arms'])} arms",
    ]


def _cautions(site: Mapping[str, Any]) -> list[str]:
    cautions = []
    if len(site["folds"]) < site["num_folds"]:
        cautions.append(
            f"Results cover the test images of {len(site['folds'])} of {site['num_folds']} folds only; the rest of the "
            "data was not predicted."
        )
    if any(len(arm["seeds"]) < 2 for arm in site["arms"]):
        cautions.append(
            "Some arms have only one seed: the variation between training runs is unknown, and the intervals show only "
            "the variation between cases."
        )
    for reason in dict.fromkeys(arm["no_interval"] for arm in site["arms"] if arm["no_interval"]):
        cautions.append(f"There are no intervals: {reason}.")
    for arm in site["arms"]:
        added = arm["images_added"]
        requested = arm.get("images_requested", dict.fromkeys(added, arm["count"]))  # earlier results lack it
        if added["least"] < requested["least"]:
            cautions.append(
                f"{arm['title']}: only {_span(added)} images passed the selection, instead of {_span(requested)}."
            )
    return cautions


def _span(numbers: Mapping[str, int]) -> str:
    least, most = numbers["least"], numbers["most"]
    return f"{least}" if least == most else f"{least} to {most}"


def _takeaway(arms: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Returns the title of the forest plot: the best arm, and how it compares with the first one."""
    best, first = max(arms, key=lambda arm: arm["scores"][metric]["value"]), arms[0]
    value, base = (arm["scores"][metric]["value"] for arm in (best, first))
    if best is first:
        return f"No arm has a higher {wording.label(metric)} than {first['title']} ({wording.number(base)})"
    return (
        f"Highest {wording.label(metric)}: {best['title']}, {wording.number(value)} instead of {wording.number(base)} "
        f"of {first['title']}"
    )


def _forest(arms: Sequence[Mapping[str, Any]], metric: str, prefix: str) -> str:
    """Draws a forest plot: the value of each arm with its interval."""
    estimates = [arm["scores"][metric] for arm in arms]

    def draw(axes: Any) -> None:
        for row, estimate in enumerate(estimates):
            if estimate["low"] is not None:
                axes.hlines(row, estimate["low"], estimate["high"], color=figures.SERIES[0], linewidth=1.6)
            axes.plot([estimate["value"]], [row], marker="o", markersize=4.5, color=figures.SERIES[0])
        axes.axvline(estimates[0]["value"], color=figures.SERIES[5], linewidth=1, dashes=(3, 2))
        axes.set_yticks(range(len(arms)), [printable(arm["title"]) for arm in arms])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.set_xlabel(wording.label(metric))

    alternative = f"{wording.label(metric)} of each arm with its interval; vertical line: {arms[0]['title']}."
    return figures.svg(draw, f"{prefix}forest-", alternative, (7.2, 0.8 + 0.27 * len(arms)))


def _added_curves(arms: Sequence[Mapping[str, Any]], metric: str, prefix: str) -> list[dict[str, Any]]:
    """Returns panels of the metric against the number of added images, one per setting with at least three numbers."""
    by_setting: dict[str, list[Mapping[str, Any]]] = {}
    for arm in arms:
        if not arm["tuned"] and (arm["count"] >= 0 or arm["added"]):
            by_setting.setdefault(repr(sorted(arm["settings"].items())), []).append(arm)
    panels = []
    for place, group in enumerate(by_setting.values()):
        bare = [arm for arm in group if not arm["added"]]
        sources = dict.fromkeys(arm["added"] for arm in group if arm["added"])
        for source in sources:
            members = [*bare[:1], *(arm for arm in group if arm["added"] == source)]
            if len(members) < 3:
                continue
            points = sorted((arm["images_added"]["most"], arm["scores"][metric]) for arm in members)
            x = np.array([count for count, _ in points], float)
            # The bounds of the interval are two further lines.
            lines = [
                figures.Line(x, np.array([_number(score[key]) for _, score in points]), colour, dash, key == "value")
                for key, colour, dash in (("value", 0, 0), ("low", 5, 2), ("high", 5, 2))
            ]
            alternative = f"{wording.label(metric)} against the number of added images ({source})."
            svg = figures.curves(lines, "added images", f"{prefix}added-{place}-{source}-", alternative, {})
            panels.append({
                "title": f"{bare[0]['title'] if bare else group[0]['title']}, images from {source.replace('_', ' ')}",
                "note": f"{wording.label(metric)} with its interval",
                "keys": None,
                "svg": _markup(svg),
            })  # fmt: skip
    return panels


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _generator(name: str, entries: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Returns the selection of a generator's images per fold and class: counts, metrics and examples."""
    rows = []
    for entry in entries:
        metrics = entry["metrics"]["pool"].get("metrics", {})
        kernel = metrics.get("kernel_distance")
        # With too few images there is no comparison of two halves.
        halves = kernel and kernel["same_size"]
        rows.append({
            "fold": entry["fold"],
            "class": entry["class"],
            "generated": entry["generated"],
            "kept": entry["kept"],
            "reject_rate": f"{entry['reject_rate']:.0%}",
            "copies": entry["rejected"]["copy_of_training_image"],
            "wrong_class": entry["rejected"]["wrong_class"],
            "kernel": wording.number(kernel["value"] if kernel else None),
            "real": wording.number(halves["real_vs_real"] if halves else None),
            "precision": wording.number(metrics["precision"]["value"] if metrics else None),
            "recall": wording.number(metrics["recall"]["value"] if metrics else None),
        })  # fmt: skip
    first = min(entries, key=lambda entry: entry["fold"])
    list_path = folder / first["list"]
    return {
        "name": name,
        "rows": rows,
        "fold": first["fold"],
        "selected": _selected_images(list_path),
        "rejected": _rejected_images(list_path, [entry["class"] for entry in entries if not entry["kept"]]),
        "pairs": _picture(list_path.with_name("closest_pairs.png")) if any(map(_has_pairs, entries)) else None,
        "page": list_path.with_name("report.html"),
        "csv": Table(
            f"selection_{name}",
            f"selection of the images of {name}",
            tuple(rows[0]),
            [tuple(row.values()) for row in rows],
        ),
    }


def _selected_images(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    images = []
    for entry in files.read_json(path)["images"][:MOST_IMAGES]:
        pixels = thumbnails.read(path.parent / entry["path"])
        if pixels is not None:
            images.append({"uri": thumbnails.data_uri(pixels), "label": entry["label"], "seed": entry["seed"]})
    return images


def _rejected_images(path: Path, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the best rejected images of classes of which none was selected."""
    rejected = path.with_name("rejected.json")
    if not classes or not rejected.is_file():
        return []
    entries = files.read_json(rejected)["rejected"]
    images = []
    for name in dict.fromkeys(classes):
        for entry in selection_page.best_rejected([entry for entry in entries if entry["label"] == name]):
            pixels = thumbnails.read(path.parent / entry["path"])
            if pixels is not None:
                reason = selection_page.REASONS[entry["reason"]][0]
                images.append({"uri": thumbnails.data_uri(pixels), "label": f"{name}: {reason}", "seed": entry["seed"]})
    return images


def _has_pairs(entry: Mapping[str, Any]) -> bool:
    """Returns whether the sheet of closest pairs of a selection has images of the class."""
    return bool(entry["kept"] or entry["rejected"]["copy_of_training_image"])


def _picture(path: Path) -> str | None:
    pixels = thumbnails.read(path) if path.is_file() else None
    return None if pixels is None else thumbnails.data_uri(pixels, SHEET_SIDE)
