"""Tables of generative metrics for the page of a selection: generated images beside real ones at equal sizes."""

from collections.abc import Mapping, Sequence
from typing import Any

from dim_jax.reporting import wording

METRICS = {
    "kernel_distance": ("Kernel distance", "lower is better, 0 for equal distributions; same estimator as KID"),
    "frechet_distance": ("Fréchet distance", "lower is better; its bias decreases with the number of images"),
    "precision": ("Precision", "share of generated images in the neighbourhoods of real images (fidelity)"),
    "recall": ("Recall", "share of real images in the neighbourhoods of generated images (diversity)"),
    "density": ("Density", "about 1 for equal distributions"),
    "coverage": ("Coverage", "share of real images with a generated image in their own neighbourhood"),
}
# In Inception features, these two distances have names of their own.
INCEPTION_METRICS = METRICS | {
    "kernel_distance": ("KID", "0 for equal distributions"),
    "frechet_distance": ("FID", METRICS["frechet_distance"][1]),
}


def metric_table(metrics: Mapping[str, Mapping[str, Any]], names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Rows of: metric, then for all and for selected images the value, and both sides at the size of real halves."""
    by_set = dict(zip(("All generated", "Selected"), metrics.values(), strict=True))
    computed = {title: result for title, result in by_set.items() if "metrics" in result}
    rows = []
    for name, (title, note) in names.items():
        cells = []
        for result in computed.values():
            entry = result["metrics"][name]
            same = entry["same_size"] or {}
            error = f", s.e. {short(entry['standard_error'])}" if "standard_error" in entry else ""
            cells += [
                (short(entry["value"]), f"{interval_text(entry['interval'])}{error}"),
                (short(same.get("generated")), ""),
                (short(same.get("real_vs_real")), interval_text(same.get("real_interval"))),
            ]
        rows.append({"title": title, "note": note, "cells": cells})
    return {
        "rows": rows,
        "heads": [
            (f"{title} ({result['num_generated']})", result["same_size_images"]) for title, result in computed.items()
        ],
        "refused": [f"{title}: {result['refused']}." for title, result in by_set.items() if "refused" in result],
        "real": metrics["pool"]["num_real"],
        "notes": sorted({note for result in by_set.values() for note in result.get("notes", [])}),
    }


def inception_table(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the metrics in Inception features with the inception score; None if they were not computed."""
    blocks = {name: result["inception"] for name, result in metrics.items() if "inception" in result}
    if not blocks:
        return None
    table, cells = metric_table(blocks, INCEPTION_METRICS), []
    scores = [block["inception_score"] for block in blocks.values() if "inception_score" in block]
    for score in scores:
        same = score["same_size"] or {}
        cells += [
            (short(score["generated"]["value"]), interval_text(score["generated"]["interval"])),
            (short(same.get("generated")), ""),
            (short(same.get("real")), interval_text(same.get("real_interval"))),
        ]
    if scores:
        real = scores[0]["real"]
        all_real = f"{short(real['value'])} ({interval_text(real['interval'])})"
        note = f"higher is better; last column: real images; all real images together: {all_real}"
        table["rows"].append({"title": "Inception score", "note": note, "cells": cells})
    return table | {"space": blocks["pool"]["space"]}


def short(value: Any) -> str:
    return wording.MISSING if wording.number(value) == wording.MISSING else f"{value:.3g}"


def interval_text(values: Sequence[float] | None) -> str:
    return f"{values[0]:.3g} to {values[1]:.3g}" if values else ""
