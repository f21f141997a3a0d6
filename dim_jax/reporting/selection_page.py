"""The page about a selection: what was kept, what was rejected and why, and how near all of it is to real images."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dim_jax.cli.command_line import printable
from dim_jax.reporting import figures, pages, thumbnails, wording

MOST_REJECTED = 12
MOST_PAIRS = 8
REASONS = {
    "copy_of_training_image": ("copies of a training image", "nearer to a training image than real ones ever come"),
    "wrong_class": ("of another class", "the classifier gives its class too small a probability"),
    "far_from_class": ("far from the class", "farther from the class's training images than nearly all real ones"),
    "duplicate_in_pool": ("repeated in the pool", "a near-copy of a generated image chosen before it"),
    "not_needed": ("not needed", "passed all tests, but enough others that are more different were kept"),
}
METRICS = {
    "kernel_distance": ("Kernel distance", "0 for equal distributions; the estimator of KID"),
    "frechet_distance": ("Frechet distance", "small is good; falls with the number of images"),
    "precision": ("Precision", "share of generated images among the real ones"),
    "recall": ("Recall", "share of real images among the generated ones"),
    "density": ("Density", "about 1 for equal distributions"),
    "coverage": ("Coverage", "share of real images with a generated one beside them"),
}
# In the space of the Inception network two of them have names of their own.
INCEPTION_METRICS = METRICS | {
    "kernel_distance": ("KID", "0 for equal distributions"),
    "frechet_distance": ("FID", METRICS["frechet_distance"][1]),
}

Distances = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Pictures:
    """Where the images are: of a generated one by its path in selected.json, of a real one by that in the manifest."""

    generated: Callable[[str], Path]
    real: Callable[[str], Path]


def render(
    selected: Mapping[str, Any],
    rejected: Sequence[Mapping[str, Any]],
    nearest: Mapping[str, Distances],
    pictures: Pictures,
) -> str:
    """Returns the page.

    Args:
      selected: the content of selected.json.
      rejected: the list in rejected.json.
      nearest: of every class, by kind of image, the distances to the nearest training image by features and by pixels.
      pictures: finds the images.
    """

    @cache
    def uri(kind: str, path: str, like: str = "") -> str | None:
        pixels = thumbnails.read(getattr(pictures, kind)(path))
        if pixels is not None and like:
            pixels = _turned(pixels, thumbnails.read(pictures.generated(like)))
        return None if pixels is None else thumbnails.data_uri(pixels)

    classes = [
        _class_view(number, name, selected, rejected, nearest[name], uri)
        for number, name in enumerate(selected["classes"])
    ]
    found = selected["classes"].values()
    generated, kept = (sum(each[key] for each in found) for key in ("generated", "kept"))
    failed = sum(each["generated"] * each["reject_rate"] for each in found)
    tiles = [
        ("Generated", generated),
        ("Kept", kept),
        ("Rejected by a test", round(failed)),
        ("Reject rate", f"{failed / generated:.0%}"),
        ("Copies of training images", sum(each["rejected"]["copy_of_training_image"] for each in found)),
    ]
    page = pages.environment().get_template("selection.html")
    shown = {"classes": classes, "tiles": tiles, "facts": _facts(selected), "generated": generated, "kept": kept}
    return page.render(**shown, scripts=()).strip() + "\n"


def _facts(selected: Mapping[str, Any]) -> list[tuple[str, str]]:
    models = {
        f"{name}: {model['workdir']} at step {model['checkpoint_step']} ({model['sha256'][:12]})"
        for name, model in selected["pool"].items()
    }
    classifier = selected["classifier"]
    return [
        ("GAN", "; ".join(sorted(models))),
        ("Classifier", f"{classifier['workdir']} at step {classifier['checkpoint_step']}, real images only"),
        ("Distances in", selected["features"]["space"]),
        ("Split", selected["split_sha256"][:12]),
        *((name.replace("_", " "), f"{value:g}") for name, value in selected["rules"].items()),
    ]


def _class_view(
    number: int,
    name: str,
    selected: Mapping[str, Any],
    rejected: Sequence[Mapping[str, Any]],
    nearest: Distances,
    uri: Callable[..., str | None],
) -> dict[str, Any]:
    found = selected["classes"][name]
    kept = [entry for entry in selected["images"] if entry["label"] == name]
    others = [entry for entry in rejected if entry["label"] == name]
    close = closest(kept, found["limits"])

    def tile(entry: Mapping[str, Any]) -> dict[str, Any]:
        caption = f"seed {entry['seed']} · p {entry['probability']:.2f} · d {entry['class_distance']:.3g}"
        return {"uri": uri("generated", entry["path"]), "path": entry["path"], "caption": caption}

    by_reason = {reason: [entry for entry in others if entry["reason"] == reason] for reason in REASONS}
    copies = closest(by_reason["copy_of_training_image"], found["limits"])
    return {
        "name": name,
        "id": f"class{number}",
        "found": found,
        "fates": [("kept", "", found["kept"], found["kept"] / found["generated"])]
        + [(*REASONS[reason], count, count / found["generated"]) for reason, count in found["rejected"].items()],
        "scores": _scores(found, kept),
        "kept": [tile(entry) for entry in kept],
        "rejected": [
            {
                "title": REASONS[reason][0],
                "count": len(entries),
                "tiles": [tile(entry) for entry in entries[:MOST_REJECTED]],
            }
            for reason, entries in by_reason.items()
            if entries
        ],
        "pairs": [
            {"title": title, "pairs": [_pair(entry, found["limits"], uri) for entry in entries[:MOST_PAIRS]]}
            for title, entries in (("Kept images that come closest", close), ("Rejected as copies", copies))
        ],
        "curves": _curves(number, nearest, kept, found["limits"]),
        "lines": [*nearest, "kept images"],
        "metrics": _metrics(found["metrics"], METRICS),
        "inception": _inception(found["metrics"]),
    }


def closest(entries: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> list[Mapping[str, Any]]:
    """Returns images by how near they are to a training image, nearest first, in multiples of what makes a copy."""
    return sorted(entries, key=lambda entry: (_nearness(entry, limits), entry["seed"]))


def _nearness(entry: Mapping[str, Any], limits: Mapping[str, float]) -> float:
    return min(entry[f"{kind}_distance"] / max(limits[kind], 1e-12) for kind in ("feature", "pixel"))


def _pair(entry: Mapping[str, Any], limits: Mapping[str, float], uri: Callable[..., str | None]) -> dict[str, Any]:
    shown = [
        {"uri": uri("generated", entry["path"]), "path": entry["path"], "caption": f"generated, seed {entry['seed']}"}
    ]
    for kind, words in (("feature", "by features"), ("pixel", "by pixels")):
        times = entry[f"{kind}_distance"] / max(limits[kind], 1e-12)
        shown.append({
            "uri": uri("real", entry[f"{kind}_nearest"], entry["path"]),
            "path": entry[f"{kind}_nearest"],
            "caption": f"real, nearest {words}: {entry[f'{kind}_distance']:.3g} = {times:.2f} × limit",
        })  # fmt: skip
    return {"images": shown}


def _turned(real: np.ndarray, generated: np.ndarray | None) -> np.ndarray:
    """Returns a real image in that one of its eight orientations which is most like a generated one."""
    if generated is None:
        return real

    def small(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)).astype(np.float64)

    views = [np.rot90(view, turns) for view in (real, np.swapaxes(real, 0, 1)) for turns in range(4)]
    likeness = [((small(np.ascontiguousarray(view)) - small(generated)) ** 2).sum() for view in views]
    return np.ascontiguousarray(views[int(np.argmin(likeness))])


def _scores(found: Mapping[str, Any], kept: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of: score, what is asked, real images, kept images."""

    def median(key: str) -> str:
        return wording.number(float(np.median([entry[key] for entry in kept])) if kept else None)

    limits, real = found["limits"], found["real"]

    def of_real(*names: str) -> str:
        return " / ".join(wording.number(real[name].get("median")) for name in names)

    return [
        ("Probability of its class", f"≥ {limits['probability']:.3g}", of_real("held_out_probability"),
         median("probability")),
        ("Distance to its class", f"≤ {limits['class_distance']:.3g}", of_real("class_distance"),
         median("class_distance")),
        ("Nearest training image, features", f"> {limits['feature']:.3g}", of_real("train_feature", "held_out_feature"),
         median("feature_distance")),
        ("Nearest training image, pixels", f"> {limits['pixel']:.3g}", of_real("train_pixel", "held_out_pixel"),
         median("pixel_distance")),
    ]  # fmt: skip


def _curves(
    number: int, nearest: Distances, kept: Sequence[Mapping[str, Any]], limits: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Draws, for features and for pixels, the share of images that are nearer to a training image than a distance."""
    import markupsafe

    panels = []
    for at, (kind, words) in enumerate((("feature", "features"), ("pixel", "pixels"))):
        values = [each[at] for each in nearest.values()] + [np.array([entry[f"{kind}_distance"] for entry in kept])]
        lines = [
            figures.Line(
                np.sort(each), np.arange(1, len(each) + 1) / len(each), colour=colour, dash=colour % 4, markers=True
            )
            for colour, each in enumerate(values)
            if len(each)
        ]
        alternative = (
            f"Share of images nearer to a training image than a distance in {words}; limit {limits[kind]:.3g}."
        )
        drawn = figures.curves(lines, f"distance in {words}", f"n{number}{kind}", alternative, {limits[kind]: 5})
        panels.append({"title": f"Nearest training image by {words}", "svg": markupsafe.Markup(drawn)})
    return panels


def _metrics(metrics: Mapping[str, Mapping[str, Any]], names: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Rows of: metric, and of all generated and of kept images the value, and real beside them at equal size."""
    of = dict(zip(("All generated", "Kept"), metrics.values(), strict=True))
    shown = {title: each for title, each in of.items() if "metrics" in each}
    rows = []
    for name, (title, note) in names.items():
        cells = []
        for each in shown.values():
            entry = each["metrics"][name]
            same = entry["same_size"] or {}
            error = f", s.e. {_short(entry['standard_error'])}" if "standard_error" in entry else ""
            cells += [
                (_short(entry["value"]), f"{_interval(entry['interval'])}{error}"),
                (_short(same.get("generated")), ""),
                (_short(same.get("real_vs_real")), _interval(same.get("real_interval"))),
            ]
        rows.append({"title": title, "note": note, "cells": cells})
    return {
        "rows": rows,
        "heads": [(f"{title} ({each['num_generated']})", each["same_size_images"]) for title, each in shown.items()],
        "refused": [f"{title}: {each['refused']}." for title, each in of.items() if "refused" in each],
        "real": metrics["pool"]["num_real"],
        "notes": sorted({note for each in of.values() for note in each.get("notes", [])}),
    }


def _inception(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The same in the space of FID, its name, and the inception score; None where it was not asked for."""
    blocks = {name: each["inception"] for name, each in metrics.items() if "inception" in each}
    if not blocks:
        return None
    found, cells = _metrics(blocks, INCEPTION_METRICS), []
    scores = [each["inception_score"] for each in blocks.values() if "inception_score" in each]
    for score in scores:
        same = score["same_size"] or {}
        cells += [
            (_short(score["generated"]["value"]), _interval(score["generated"]["interval"])),
            (_short(same.get("generated")), ""),
            (_short(same.get("real")), _interval(same.get("real_interval"))),
        ]
    if scores:
        real = scores[0]["real"]
        of_all = f"{_short(real['value'])} ({_interval(real['interval'])})"
        note = f"large is good; the last column is that of real images, of which all together have {of_all}"
        found["rows"].append({"title": "Inception score", "note": note, "cells": cells})
    return found | {"space": blocks["pool"]["space"]}


def _short(value: Any) -> str:
    return wording.MISSING if wording.number(value) == wording.MISSING else f"{value:.3g}"


def _interval(values: Sequence[float] | None) -> str:
    return f"{values[0]:.3g} to {values[1]:.3g}" if values else ""


def closest_sheet(
    selected: Mapping[str, Any], rejected: Sequence[Mapping[str, Any]], pictures: Pictures, size: int = 128
) -> bytes:
    """Draws the closest pairs of every class, kept ones and copies, as a PNG: each column is one generated image over
    the nearest real ones by features and by pixels.

    Args:
      selected, rejected, pictures: as for `render`.
      size: side of an image in px.
    """
    gap, title, line = 6, 22, 16
    bands = []
    for name, found in selected["classes"].items():
        kept = [entry for entry in selected["images"] if entry["label"] == name]
        copies = [entry for entry in rejected if entry["label"] == name and entry["reason"] == "copy_of_training_image"]
        for words, entries in (("kept, closest first", kept), ("rejected as copies", copies)):
            if entries:
                bands.append((f"{name}: {words}", closest(entries, found["limits"])[:MOST_PAIRS]))
    height = title + 3 * (size + line) + gap
    sheet = Image.new("RGB", (gap + MOST_PAIRS * (size + gap), gap + max(len(bands), 1) * height), "white")
    draw, fonts = ImageDraw.Draw(sheet), [ImageFont.load_default(points) for points in (14, 11)]
    if not bands:
        draw.text((gap, gap), "nothing was kept and nothing was a copy", fill="black", font=fonts[0])
    for number, (words, entries) in enumerate(bands):
        top = gap + number * height
        draw.text((gap, top), printable(words), fill="black", font=fonts[0])
        for column, entry in enumerate(entries):
            left = gap + column * (size + gap)
            shown = (
                (pictures.generated(entry["path"]), f"seed {entry['seed']}"),
                (pictures.real(entry["feature_nearest"]), f"features {entry['feature_distance']:.3g}"),
                (pictures.real(entry["pixel_nearest"]), f"pixels {entry['pixel_distance']:.3g}"),
            )
            for place, (path, caption) in enumerate(shown):
                at = top + title + place * (size + line)
                pixels = thumbnails.read(path)
                if pixels is not None:
                    pixels = _turned(pixels, thumbnails.read(shown[0][0])) if place else pixels
                    sheet.paste(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR), (left, at))
                draw.text((left, at + size), caption, fill="black", font=fonts[1])
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
