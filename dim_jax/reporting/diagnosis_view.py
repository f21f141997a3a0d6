"""The diagnosis of a pool on the page of a selection: tables per feature space, spectra and nearest neighbours."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dim_jax.reporting import figures
from dim_jax.reporting.metric_tables import METRICS, interval_text, metric_table, short

RESOLUTION_COLUMNS = {
    "kernel_distance": "Kernel distance",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "separability": "Told apart",
    "spread": "Spread",
    "offset": "Offset",
}
INCEPTION = "inception"  # has a table of its own on the page, with the inception score
SETS = ("training", "validation", "generated")

Uri = Callable[..., str | None]


def head_view(diagnosis: Mapping[str, Any]) -> dict[str, Any]:
    """Template data of what concerns all classes.

    Args:
      diagnosis: contents of diagnosis.json.

    Returns:
      `facts`: names and descriptions of the spaces, and those that were not used; `transfer`: columns and rows of
      training on generated and testing on real images; `refused`: sentences on what could not be computed.
    """
    results = diagnosis["generated_to_real"]
    computed = {space: result for space, result in results.items() if "refused" not in result}
    labels = sorted({label for result in computed.values() for label in result["recall"]})
    rows = []
    for space, result in computed.items():
        balanced = result["balanced_accuracy"]
        gap = f"{short(balanced['gap'])} ({interval_text(balanced['gap_interval'])})"
        recalls = [
            f"{short(recall['real'])} → {short(recall['generated'])}"
            for recall in (result["recall"].get(label, {"real": None, "generated": None}) for label in labels)
        ]
        rows.append((space, [short(balanced["real"]), short(balanced["generated"]), gap, *recalls]))
    return {
        "facts": [*diagnosis["spaces"].items()]
        + [(name, f"not used: {reason}") for name, reason in diagnosis.get("not_used", {}).items()],
        "transfer": {
            "columns": ["Trained on real", "Trained on generated", "Gap", *(f"Recall of {label}" for label in labels)],
            "rows": rows,
        },
        "refused": [f"{space}: {result['refused']}." for space, result in results.items() if "refused" in result],
    }


def class_view(number: int, entry: Mapping[str, Any], image_size: int, own: str, uri: Uri) -> dict[str, Any]:
    """Template data of one class.

    Args:
      number: of the class, for ids in figures.
      entry: the class in diagnosis.json.
      image_size: side of the generated images in px.
      own: the space of the selection, whose metrics the page has elsewhere.
      uri: returns the data URI of an image: kind ("generated" or "real"), its path, and the generated image that the
        real one is turned like.
    """
    spaces = []
    for space, resolutions in entry["resolutions"].items():
        computed = {side: values for side, values in resolutions.items() if "refused" not in values}
        spaces.append({
            "name": space,
            "metrics": None if space in (own, INCEPTION) else metric_table(entry["metrics"][space], METRICS),
            "images": next((values["images"] for values in computed.values()), None),
            "columns": list(RESOLUTION_COLUMNS.values()),
            "rows": [
                (f"{side} px", [_beside_real(values[name]) for name in RESOLUTION_COLUMNS])
                for side, values in computed.items()
            ],
            "refused": sorted({f"{values['refused']}." for values in resolutions.values() if "refused" in values}),
        })  # fmt: skip
    return {
        "spaces": spaces,
        "copying": _copying(entry["data_copying"]),
        "enlarged": _enlarged(entry.get("enlarged") or {}, image_size),
        "spectrum": _spectrum(number, entry["spectrum"]),
        "neighbours": _neighbours(entry["neighbours"], uri),
    }


def _beside_real(values: Mapping[str, Any]) -> str:
    return f"{short(values['generated'])} / {short(values['real_vs_real'])}"


def _copying(results: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of: space, C_T, its value if all images were copies, share of closer pairs, number of cells."""
    computed = {space: result for space, result in results.items() if "refused" not in result}
    return {
        "rows": [
            (space, [short(result["c_t"]), short(result["all_copies"]), short(result["closer"]), result["cells"]])
            for space, result in computed.items()
        ],
        "refused": [f"{space}: {result['refused']}." for space, result in results.items() if "refused" in result],
    }


def _enlarged(results: Mapping[str, Any], image_size: int) -> dict[str, Any] | None:
    """Rows of: space, separability of enlarged images before and after the real ones are treated alike, and of blur."""
    if not results:
        return None
    computed = {space: result for space, result in results.items() if "refused" not in result}
    return {
        "size": next(iter(results.values()))["size"],
        "image_size": image_size,
        "rows": [
            (space, [_beside_real(result["before"]), _beside_real(result["after"]), short(result["blur"]["accuracy"])])
            for space, result in computed.items()
        ],
        "refused": [f"{space}: {result['refused']}." for space, result in results.items() if "refused" in result],
    }


def _spectrum(number: int, spectrum: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Panels with the spectra and with their differences from that of the training images."""
    import markupsafe

    frequency = np.array(spectrum["cycles_per_pixel"])
    names = [name for name in SETS if name in spectrum]
    keys = [{"name": name, "colour": SETS.index(name), "dashes": figures.DASHES[SETS.index(name)]} for name in names]
    panels = []
    for kind, title, note in (
        ("power", "Power spectrum", "base-10 logarithm of the mean power"),
        ("difference", "Difference from training images", "below 0: detail of this size is missing"),
    ):
        reference = np.array(spectrum["training"]) if kind == "difference" else 0.0
        lines = [
            figures.Line(frequency, np.array(spectrum[name]) - reference, SETS.index(name), SETS.index(name))
            for name in names
        ]
        alternative = f"{title} of {', '.join(names)} images over spatial frequency."
        svg = figures.curves(lines, "cycles per pixel", f"s{number}{kind}", alternative, {})
        panels.append({"title": title, "note": note, "keys": keys, "svg": markupsafe.Markup(svg)})
    return panels


def _neighbours(neighbours: Mapping[str, Any], uri: Uri) -> dict[str, Any]:
    """Pairs of images in both directions."""

    def tile(kind: str, path: str, words: str, *like: str) -> dict[str, Any]:
        return {"uri": uri(kind, path, *like), "path": path, "caption": words}

    generated = [
        [tile("generated", pair["path"], "generated"),
         tile("real", pair["nearest"], f"real, {pair['distance']:.3g}", pair["path"])]
        for pair in neighbours["generated"]
    ]  # fmt: skip
    real = [
        [tile("real", pair["path"], "real"), tile("generated", pair["nearest"], f"generated, {pair['distance']:.3g}")]
        for pair in neighbours["real"]
    ]
    titles = ("Generated images with their nearest real one", "Real images with their nearest generated one")
    return {
        "space": neighbours["space"],
        "groups": [{"title": title, "pairs": pairs} for title, pairs in zip(titles, (generated, real), strict=True)],
    }
