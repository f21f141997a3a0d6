"""The page about an experiment: one sentence per question first, then what the sentences rest on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli.command_line import printable
from dim_jax.reporting import figures, pages, results, tables, thumbnails, wording
from dim_jax.reporting.tables import Table
from dim_jax.runs import files

RESULTS = "results.json"
FORMAT = 2  # 1 did not tell where a selection's images are listed, nor which answers show anything
METRICS = ("macro_f1", "g_mean", "balanced_accuracy", "mcc", "accuracy")
POOLED = ("macro_auroc", "expected_calibration_error")
MOST_KEPT = 24
SHEET_SIDE = 1400


def write_results(folder: Path, sites: Sequence[Mapping[str, Any]], diverged: Sequence[str]) -> None:
    """Writes what the page shows: an entry per dataset as `verdict.judge` makes it, and the runs that diverged."""
    files.write_json(folder / RESULTS, {"format": FORMAT, "sites": list(sites), "diverged": list(diverged)})


def render(folder: Path) -> tuple[str, list[list[Table]], list[str]]:
    """Returns the page about the experiment in `folder`, and per dataset the tables behind it and what to call them.

    Raises:
      FileNotFoundError: no results are there yet.
      ValueError: the file of results is broken, or of another version.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; the experiment has not come so far, go on with python -m dim_jax.train "
            f"--workdir={folder}"
        )
    content = files.read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("sites"), list):
        raise ValueError(
            f"{path} does not hold results as this version writes them; run python -m dim_jax.train "
            f"--workdir={folder} again"
        )
    names = [site["name"] for site in content["sites"]]
    sites = [
        tables.owned(_site(number, site, folder / site["name"]), site["name"])
        for number, site in enumerate(content["sites"], start=1)
    ]
    page = pages.environment().get_template("experiment.html")
    shown = {"name": folder.name, "sites": sites, "diverged": content.get("diverged", []), "scripts": ()}
    return page.render(**shown).strip() + "\n", [tables.collect(site) for site in sites], names


def _site(number: int, site: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the page shows of one dataset."""
    prefix, metric, arms = f"site{number}-", site["metric"], site["arms"]
    titles = {arm["name"]: arm["title"] for arm in arms}
    primary = [answer for answer in site["answers"] if answer["is_primary"]]
    others = [answer for answer in site["answers"] if not answer["is_primary"]]
    return {
        "id": f"site{number}",
        "name": site["name"],
        "facts": _facts(site),
        "metric": wording.label(metric),
        "has_primary": site["has_primary"],
        "primary": primary,
        "others": others,
        "unanswered": site["unanswered"],
        "missing": site["missing"],
        "cautions": _cautions(site),
        "not_run": list(site["not_run"].items()),
        "arms": _arm_table(arms),
        "forest": _markup(_forest(arms, metric, prefix)) if arms else None,
        "contrasts": _contrast_table(site["answers"], titles, metric),
        "added": _added_curves(arms, metric, prefix),
        "per_class": _class_table(site, arms),
        "confusions": [_confusion(arm, site["classes"]) for arm in arms],
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
        ],
        "runs": site["runs"],
        "finished": sum(run["finished"] for run in site["runs"]),
        "tables": _csv(site, arms, titles),
    }


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
            f"Only the test images of {len(site['folds'])} of {site['num_folds']} folds are in: the rest of the data "
            "was not predicted."
        )
    if any(len(arm["seeds"]) < 2 for arm in site["arms"]):
        cautions.append(
            "Some arms have one seed: their intervals say what other cases would change, not what training again would."
        )
    for refusal in dict.fromkeys(arm["no_interval"] for arm in site["arms"] if arm["no_interval"]):
        cautions.append(f"No intervals: {refusal}.")
    for arm in site["arms"]:
        if arm["count"] > 0 and arm["images_added"]["least"] < arm["count"]:
            cautions.append(
                f"{arm['title']}: the selection left {arm['images_added']['least']} to {arm['images_added']['most']} "
                f"images instead of {arm['count']}."
            )
    return cautions


def _interval(estimate: Mapping[str, Any], in_points: bool = False) -> str:
    if estimate["low"] is None:
        return wording.MISSING
    low, high = (
        f"{100 * estimate[key]:+.1f}" if in_points else wording.number(estimate[key]) for key in ("low", "high")
    )
    return f"{low} to {high}"


def _arm_table(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of: title, how many images were added, then per metric its value, interval and spread over the seeds."""
    rows = []
    for arm in arms:
        added = arm["images_added"]
        count = str(added["most"]) if added["least"] == added["most"] else f"{added['least']} to {added['most']}"
        cells = []
        for metric in METRICS:
            found = arm["scores"][metric]
            spread = "" if found["seed_sd"] is None else f" ± {found['seed_sd']:.3f}"
            cells.append((wording.number(found["value"]), _interval(found), spread))
        pooled = [wording.number(arm[name]) for name in POOLED]
        rows.append(
            {"title": arm["title"], "added": count, "seeds": len(arm["seeds"]), "cells": cells, "pooled": pooled}
        )
    return rows


def _forest(arms: Sequence[Mapping[str, Any]], metric: str, prefix: str) -> str:
    """Draws every arm's value with its interval, one below the other."""
    values = [arm["scores"][metric] for arm in arms]

    def draw(axes: Any) -> None:
        for place, found in enumerate(values):
            if found["low"] is not None:
                axes.hlines(place, found["low"], found["high"], color=figures.SERIES[0], linewidth=1.6)
            axes.plot([found["value"]], [place], marker="o", markersize=4.5, color=figures.SERIES[0])
        axes.axvline(values[0]["value"], color=figures.SERIES[5], linewidth=1, dashes=(3, 2))
        axes.set_yticks(range(len(arms)), [printable(arm["title"]) for arm in arms])
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.set_xlabel(wording.label(metric))

    text = f"{wording.label(metric)} of every arm with its interval; upright: that of {arms[0]['title']}."
    return figures.svg(draw, f"{prefix}forest-", text, (7.2, 0.8 + 0.27 * len(arms)))


def _contrast_table(
    answers: Sequence[Mapping[str, Any]], titles: Mapping[str, str], metric: str
) -> list[dict[str, Any]]:
    rows = []
    for answer in answers:
        if answer["refused"]:
            continue
        found = answer["differences"]
        rows.append({
            "contrast": f"{titles[answer['arm']]} − {titles[answer['than']]}",
            "kind": "fixed in advance" if answer["is_primary"] else "exploratory",
            "cells": [
                (f"{100 * found[name]['value']:+.1f}", _interval(found[name], in_points=True)) for name in METRICS
            ],
            "p_value": f"{answer['p_value']:.2g}",
            "differing": answer["test"]["num_differing"],
            "seeds": len(answer["seeds"]),
            "metric": metric,
        })  # fmt: skip
    return rows


def _added_curves(arms: Sequence[Mapping[str, Any]], metric: str, prefix: str) -> list[dict[str, Any]]:
    """Panels of the metric against the number of added images, one per way to train that was tried with several."""
    ways: dict[str, list[Mapping[str, Any]]] = {}
    for arm in arms:
        if not arm["tuned"] and (arm["count"] >= 0 or arm["added"]):
            ways.setdefault(repr(sorted(arm["settings"].items())), []).append(arm)
    panels = []
    for place, group in enumerate(ways.values()):
        bare = [arm for arm in group if not arm["added"]]
        sources = dict.fromkeys(arm["added"] for arm in group if arm["added"])
        for source in sources:
            members = [*bare[:1], *(arm for arm in group if arm["added"] == source)]
            if len(members) < 3:
                continue
            points = sorted((arm["images_added"]["most"], arm["scores"][metric]) for arm in members)
            x = np.array([count for count, _ in points], float)
            # The interval as two thin lines beside the curve.
            lines = [
                figures.Line(x, np.array([_number(found[key]) for _, found in points]), colour, dash, key == "value")
                for key, colour, dash in (("value", 0, 0), ("low", 5, 2), ("high", 5, 2))
            ]
            text = f"{wording.label(metric)} against the number of added images ({source})."
            svg = figures.curves(lines, "added images", f"{prefix}added-{place}-{source}-", text, {})
            panels.append({
                "title": f"{bare[0]['title'] if bare else group[0]['title']}, images from {source.replace('_', ' ')}",
                "note": f"{wording.label(metric)} with its interval",
                "keys": None,
                "svg": _markup(svg),
            })  # fmt: skip
    return panels


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _class_table(site: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Recall of every class by arm, with the change against the first arm in points."""
    heads = [
        {"name": name, "note": f"{count} images{', minority' if name in site['minority'] else ''}"}
        for name, count in zip(site["classes"], site["images"], strict=True)
    ]
    rows = []
    for arm in arms:
        cells = []
        for label in range(len(site["classes"])):
            found, first = (each["scores"][f"recall_{label}"] for each in (arm, arms[0]))
            change = "" if arm is arms[0] else f"{100 * (found['value'] - first['value']):+.1f}"
            cells.append((wording.number(found["value"]), _interval(found), change))
        rows.append({"title": arm["title"], "cells": cells})
    return {"heads": heads, "rows": rows}


def _confusion(arm: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The macro's evaluation of one arm; counts are means over the seeds."""
    counts = np.rint(np.array(arm["confusion_matrix"])).astype(int).tolist()
    matrix = results.confusion(counts, list(classes))
    table = Table(
        f"confusion_{arm['name']}",
        f"confusion matrix of {arm['title']}, mean over seeds",
        ("true class", *classes),
        [(name, *row) for name, row in zip(classes, arm["confusion_matrix"], strict=True)],
    )
    return {
        "title": arm["title"],
        "evaluation": {"split": "pooled test", "confusion": matrix, "csv": {"confusion": table}},
    }


def _generator(name: str, entries: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """What became of a generator's images: per fold and class how many were rejected and how far they are from real."""
    rows = []
    for entry in entries:
        metrics = entry["metrics"]["pool"].get("metrics", {})
        kernel = metrics.get("kernel_distance")
        # Too few images cannot be divided into halves to compare.
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
    kept = folder / first["list"]
    return {
        "name": name,
        "rows": rows,
        "fold": first["fold"],
        "kept": _kept_images(kept),
        "pairs": _picture(kept.with_name("closest_pairs.png")),
        "page": kept.with_name("report.html"),
        "csv": Table(
            f"selection_{name}",
            f"selection of the images of {name}",
            tuple(rows[0]),
            [tuple(row.values()) for row in rows],
        ),
    }


def _kept_images(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    shown = []
    for entry in files.read_json(path)["images"][:MOST_KEPT]:
        pixels = thumbnails.read(path.parent / entry["path"])
        if pixels is not None:
            shown.append({"uri": thumbnails.data_uri(pixels), "label": entry["label"], "seed": entry["seed"]})
    return shown


def _picture(path: Path) -> str | None:
    pixels = thumbnails.read(path) if path.is_file() else None
    return None if pixels is None else thumbnails.data_uri(pixels, SHEET_SIDE)


def _csv(site: Mapping[str, Any], arms: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> dict[str, Table]:
    columns = ("arm", "title", "metric", "value", "low", "high", "seed_sd", "seeds", "images_added")
    scores = [
        (
            arm["name"], arm["title"], _score_name(name, site["classes"]), found["value"], found["low"], found["high"],
            found["seed_sd"], len(arm["seeds"]), arm["images_added"]["most"],
        )
        for arm in arms
        for name, found in arm["scores"].items()
    ]  # fmt: skip
    contrasts = [
        (
            answer["name"], titles[answer["arm"]], titles[answer["than"]], _score_name(name, site["classes"]),
            found["value"], found["low"], found["high"],
            answer["p_value"] if name == site["metric"] else None, answer["is_primary"],
        )
        for answer in site["answers"]
        if not answer["refused"]
        for name, found in answer["differences"].items()
    ]  # fmt: skip
    heads = ("question", "arm", "baseline", "metric", "difference", "low", "high", "p_value", "fixed_in_advance")
    return {
        "scores": Table("scores", "scores of every arm", columns, scores),
        "contrasts": Table("contrasts", "differences between arms", heads, contrasts),
    }


def _score_name(name: str, classes: Sequence[str]) -> str:
    kind, _, label = name.rpartition("_")
    return f"{kind} of {classes[int(label)]}" if kind in ("recall", "f1") and label.isdigit() else name
