"""Tables of the page of an experiment: arms, contrasts, recall per class and confusion matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dim_jax.reporting import results, wording
from dim_jax.reporting.tables import Table

METRICS = ("macro_f1", "g_mean", "balanced_accuracy", "mcc", "accuracy")
POOLED = ("macro_auroc", "expected_calibration_error")


def arm_table(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Arms with the number of added images, and per metric the value, interval and standard deviation over seeds.

    Args:
      arms: the entries of the arms in results.json.

    Returns:
      One dict per arm of `title`, `added`, `seeds`, `cells` (a value, interval and deviation per metric of METRICS) and
      `pooled` (a value per metric of POOLED), as texts.
    """
    rows = []
    for arm in arms:
        added = arm["images_added"]
        count = str(added["most"]) if added["least"] == added["most"] else f"{added['least']} to {added['most']}"
        cells = []
        for metric in METRICS:
            score = arm["scores"][metric]
            spread = "" if score["seed_sd"] is None else f" ± {score['seed_sd']:.3f}"
            cells.append((wording.number(score["value"]), _interval(score), spread))
        pooled = [wording.number(arm[name]) for name in POOLED]
        rows.append(
            {"title": arm["title"], "added": count, "seeds": len(arm["seeds"]), "cells": cells, "pooled": pooled}
        )
    return rows


def case_table(arms: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same of the answers by case, without `pooled`; empty if no case is known or the results are of before it.

    Args:
      arms: the entries of the arms in results.json.
    """
    by_case = [{**arm, **arm["by_case"]} for arm in arms if arm.get("by_case")]
    return [
        {**row, "pooled": [], "cases": arm["num_cases"]} for row, arm in zip(arm_table(by_case), by_case, strict=True)
    ]


def contrast_table(
    answers: Sequence[Mapping[str, Any]], titles: Mapping[str, str], metric: str
) -> list[dict[str, Any]]:
    """Differences between two arms, with intervals and p-values.

    Args:
      answers: the entries of the answers in results.json; answers without numbers are left out.
      titles: name of an arm -> its title.
      metric: metric of the p-values.

    Returns:
      One dict per answer, as texts; differences and intervals are in percentage points.
    """
    rows = []
    for answer in answers:
        if answer["refused"]:
            continue
        differences = answer["differences"]
        rows.append({
            "contrast": _contrast(answer, titles),
            "kind": "fixed in advance" if answer["is_primary"] else "exploratory",
            "cells": [
                (f"{100 * differences[name]['value']:+.1f}", _interval(differences[name], in_points=True))
                for name in METRICS
            ],
            "p_value": f"{answer['p_value']:.2g}",
            "differing": answer["test"]["num_differing"],
            "seeds": len(answer["seeds"]),
            "metric": metric,
        })  # fmt: skip
    return rows


def side_by_side(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Every arm and every contrast in a row, with a column per dataset. Nothing is pooled over datasets.

    Args:
      sites: entries of the datasets in results.json, by the names to show.

    Returns:
      `heads`: name of each dataset and the label of its metric; `arms`: title and cells (value, interval) per dataset;
      `contrasts`: the same in percentage points; an empty value where a dataset has no result. None for one dataset.
    """
    if len(sites) < 2:
        return None
    arms: dict[str, dict[str, tuple[str, str]]] = {}
    contrasts: dict[str, dict[str, tuple[str, str]]] = {}
    for name, site in sites.items():
        metric = site["metric"]
        titles = {arm["name"]: arm["title"] for arm in site["arms"]}
        for arm in site["arms"]:
            score = arm["scores"][metric]
            arms.setdefault(arm["title"], {})[name] = wording.number(score["value"]), _interval(score)
        for answer in site["answers"]:
            if not answer["refused"]:
                difference = answer["differences"][metric]
                cell = f"{100 * difference['value']:+.1f}", _interval(difference, in_points=True)
                contrasts.setdefault(_contrast(answer, titles), {})[name] = cell
    missing = (wording.MISSING, "")
    return {
        "heads": [{"name": name, "note": wording.label(site["metric"])} for name, site in sites.items()],
        "arms": [{"title": title, "cells": [of.get(name, missing) for name in sites]} for title, of in arms.items()],
        "contrasts": [
            {"title": title, "cells": [of.get(name, missing) for name in sites]} for title, of in contrasts.items()
        ],
    }


def _contrast(answer: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    return f"{titles[answer['arm']]} − {titles[answer['than']]}"


def class_table(site: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Recall of each class per arm, with its interval and the difference to the first arm in percentage points.

    Args:
      site: the entry of the dataset in results.json.
      arms: its arms.

    Returns:
      `heads`: name and note of each class; `rows`: title and cells (recall, interval, difference) per arm, as texts.
    """
    heads = [
        {"name": name, "note": f"{count} images{', minority' if name in site['minority'] else ''}"}
        for name, count in zip(site["classes"], site["images"], strict=True)
    ]
    rows = []
    for arm in arms:
        cells = []
        for label in range(len(site["classes"])):
            recall, baseline = arm["scores"][f"recall_{label}"], arms[0]["scores"][f"recall_{label}"]
            change = "" if arm is arms[0] else f"{100 * (recall['value'] - baseline['value']):+.1f}"
            cells.append((wording.number(recall["value"]), _interval(recall), change))
        rows.append({"title": arm["title"], "cells": cells})
    return {"heads": heads, "rows": rows}


def confusion(arm: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Confusion matrix of an arm, mean over seeds, as the `confusion` macro of the templates takes it."""
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


def csv_tables(
    site: Mapping[str, Any], arms: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> dict[str, Table]:
    """CSV tables of all scores and all differences, with arguments as for `class_table` and `contrast_table`."""
    columns = ("arm", "title", "metric", "value", "low", "high", "seed_sd", "seeds", "images_added")
    scores = [
        (
            arm["name"], arm["title"], _score_name(name, site["classes"]), score["value"], score["low"], score["high"],
            score["seed_sd"], len(arm["seeds"]), arm["images_added"]["most"],
        )
        for arm in arms
        for name, score in arm["scores"].items()
    ]  # fmt: skip
    contrasts = [
        (
            answer["name"], titles[answer["arm"]], titles[answer["than"]], _score_name(name, site["classes"]),
            difference["value"], difference["low"], difference["high"],
            answer["p_value"] if name == site["metric"] else None, answer["is_primary"],
        )
        for answer in site["answers"]
        if not answer["refused"]
        for name, difference in answer["differences"].items()
    ]  # fmt: skip
    heads = ("question", "arm", "baseline", "metric", "difference", "low", "high", "p_value", "fixed_in_advance")
    return {
        "scores": Table("scores", "scores of all arms", columns, scores),
        "contrasts": Table("contrasts", "differences between arms", heads, contrasts),
    }


def _interval(estimate: Mapping[str, Any], in_points: bool = False) -> str:
    if estimate["low"] is None:
        return wording.MISSING
    low, high = (
        f"{100 * estimate[key]:+.1f}" if in_points else wording.number(estimate[key]) for key in ("low", "high")
    )
    return f"{low} to {high}"


def _score_name(name: str, classes: Sequence[str]) -> str:
    kind, _, label = name.rpartition("_")
    return f"{kind} of {classes[int(label)]}" if kind in ("recall", "f1") and label.isdigit() else name
