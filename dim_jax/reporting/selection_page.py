"""Page of a selection of generated images: selected and rejected images, nearest real images, and metrics."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from dim_jax.reporting import diagnosis_view, figures, metric_tables, pages, thumbnails, wording
from dim_jax.reporting.closest_pairs import MOST_PAIRS, Pictures, aligned, closest

MOST_REJECTED = 12
REASONS = {
    "copy_of_training_image": (
        "copy of a training image",
        "closer to a training image than real images of different cases are to each other",
    ),
    "wrong_class": ("wrong class", "the classifier's probability of the class is too low"),
    "far_from_class": ("far from the class", "farther from the training images of the class than nearly all real ones"),
    "not_reviewed": ("not reviewed", "passed the tests before, but no reader of the review judged it"),
    "rejected_by_readers": (
        "rejected by readers",
        "at least half of its readers gave it a low quality or named another class",
    ),
    "duplicate_in_pool": ("duplicate in the pool", "a near-duplicate of a generated image selected before"),
    "not_needed": ("not needed", "passed all tests, but enough more diverse images were selected"),
}
BEST_REJECTED = 8
# Reasons by how far an image of the class came: the last tests first.
LAST_TESTS = tuple(reversed(REASONS))
Distances = Mapping[str, tuple[np.ndarray, np.ndarray]]


def render(
    selected: Mapping[str, Any],
    rejected: Sequence[Mapping[str, Any]],
    nearest: Mapping[str, Distances],
    pictures: Pictures,
    diagnosis: Mapping[str, Any] | None = None,
) -> str:
    """HTML page of a selection.

    Args:
      selected: content of selected.json.
      rejected: entries of rejected.json.
      nearest: class -> kind of images -> distances to the nearest training image, by features and by pixels, (N,) each.
      pictures: files of the images.
      diagnosis: contents of diagnosis.json, if there is one.

    Returns:
      A complete HTML document.
    """

    @cache
    def uri(kind: str, path: str, like: str = "") -> str | None:
        pixels = thumbnails.read(getattr(pictures, kind)(path))
        if pixels is not None and like:
            pixels = aligned(pixels, thumbnails.read(pictures.generated(like)))
        return None if pixels is None else thumbnails.data_uri(pixels)

    classes = [
        _class_view(number, name, selected, rejected, nearest[name], uri)
        for number, name in enumerate(selected["classes"])
    ]
    if diagnosis:
        own, image_size = selected["features"]["name"], diagnosis["image_size"]
        for number, view in enumerate(classes):
            entry = diagnosis["classes"][view["name"]]
            view["diagnosis"] = diagnosis_view.class_view(number, entry, image_size, own, uri)
    counts = selected["classes"].values()
    num_generated, num_selected = (sum(count[key] for count in counts) for key in ("generated", "kept"))
    num_failed = sum(count["generated"] * count["reject_rate"] for count in counts)
    tiles = [
        ("Generated", num_generated),
        ("Selected", num_selected),
        ("Failed a test", round(num_failed)),
        ("Reject rate", f"{num_failed / num_generated:.0%}"),
        ("Copies of training images", sum(count["rejected"]["copy_of_training_image"] for count in counts)),
    ]
    template = pages.environment().get_template("selection.html")
    page = template.render(
        classes=classes,
        tiles=tiles,
        facts=_facts(selected),
        diagnosis=diagnosis_view.head_view(diagnosis) if diagnosis else None,
        num_generated=num_generated,
        num_selected=num_selected,
        scripts=(),
    )
    return page.strip() + "\n"


def best_rejected(rejected: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rejected images of a class that passed most tests, of these the most probable ones of the class.

    Args:
      rejected: entries of the class in rejected.json.
    """
    return sorted(
        rejected, key=lambda entry: (LAST_TESTS.index(entry["reason"]), -entry["probability"], entry["seed"])
    )[:BEST_REJECTED]


def _facts(selected: Mapping[str, Any]) -> list[tuple[str, str]]:
    models = {
        f"{name}: {model['workdir']} at step {model['checkpoint_step']} ({model['sha256'][:12]}{_sampling(model)})"
        for name, model in selected["pool"].items()
    }
    classifier, reviews = selected["classifier"], selected.get("reviews")
    return [
        ("Generator", "; ".join(sorted(models))),
        ("Classifier", f"{classifier['workdir']} at step {classifier['checkpoint_step']}, real images only"),
        ("Distances in", selected["features"]["space"]),
        ("Split", selected["split_sha256"][:12]),
        *((name.replace("_", " "), f"{value:g}") for name, value in selected["rules"].items()),
        *([("Blind review", f"{', '.join(reviews['readers'])}: {reviews['rule']}")] if reviews else []),
    ]


def _sampling(model: Mapping[str, Any]) -> str:
    """Returns how the images of a pool were sampled, as the continuation of a list; "" for earlier selections."""
    options = [f"{name} {value:g}" for name, value in model.get("sampling", {}).items()]
    return ", ".join(["", *([model["kind"]] if "kind" in model else []), *options])


def _class_view(
    number: int,
    name: str,
    selected: Mapping[str, Any],
    rejected: Sequence[Mapping[str, Any]],
    nearest: Distances,
    uri: Callable[..., str | None],
) -> dict[str, Any]:
    counts = selected["classes"][name]
    selected_images = [entry for entry in selected["images"] if entry["label"] == name]
    rejected_images = [entry for entry in rejected if entry["label"] == name]
    limits = counts["limits"]

    def tile(entry: Mapping[str, Any]) -> dict[str, Any]:
        caption = f"seed {entry['seed']} · p {entry['probability']:.2f} · d {entry['class_distance']:.3g}"
        return {"uri": uri("generated", entry["path"]), "path": entry["path"], "caption": caption}

    by_reason = {reason: [entry for entry in rejected_images if entry["reason"] == reason] for reason in REASONS}
    closest_pairs = (
        ("Selected images closest to a training image", closest(selected_images, limits)),
        ("Rejected as copies", closest(by_reason["copy_of_training_image"], limits)),
    )
    return {
        "name": name,
        "id": f"class{number}",
        "counts": counts,
        "outcomes": [("selected", "", counts["kept"], counts["kept"] / counts["generated"])]
        + [(*REASONS[reason], count, count / counts["generated"]) for reason, count in counts["rejected"].items()],
        "scores": _scores(counts, selected_images),
        "selected": [tile(entry) for entry in selected_images],
        "best_rejected": [
            {**tile(entry), "caption": f"{REASONS[entry['reason']][0]} · {tile(entry)['caption']}"}
            for entry in ([] if selected_images else best_rejected(rejected_images))
        ],
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
            {"title": title, "pairs": [_pair(entry, limits, uri) for entry in entries[:MOST_PAIRS]]}
            for title, entries in closest_pairs
            if entries
        ],
        "curves": _curves(number, nearest, selected_images, limits),
        "lines": [*nearest, "selected images"],
        "metrics": metric_tables.metric_table(counts["metrics"], metric_tables.METRICS),
        "diagnosis": None,
        "inception": metric_tables.inception_table(counts["metrics"]),
    }


def _pair(entry: Mapping[str, Any], limits: Mapping[str, float], uri: Callable[..., str | None]) -> dict[str, Any]:
    images = [
        {"uri": uri("generated", entry["path"]), "path": entry["path"], "caption": f"generated, seed {entry['seed']}"}
    ]
    for kind, words in (("feature", "by features"), ("pixel", "by pixels")):
        ratio = entry[f"{kind}_distance"] / max(limits[kind], 1e-12)
        images.append({
            "uri": uri("real", entry[f"{kind}_nearest"], entry["path"]),
            "path": entry[f"{kind}_nearest"],
            "caption": f"real, nearest {words}: {entry[f'{kind}_distance']:.3g} = {ratio:.2f} × limit",
        })  # fmt: skip
    return {"images": images}


def _scores(counts: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of: score, required value, median of real images, median of selected images."""

    def median(key: str) -> str:
        return wording.number(float(np.median([entry[key] for entry in images])) if images else None)

    limits, real = counts["limits"], counts["real"]

    def of_real(*names: str) -> str:
        return " / ".join(wording.number(real[name].get("median")) for name in names)

    return [
        ("Probability of the class", f"≥ {limits['probability']:.3g}", of_real("held_out_probability"),
         median("probability")),
        ("Distance to the class", f"≤ {limits['class_distance']:.3g}", of_real("class_distance"),
         median("class_distance")),
        ("Nearest training image, features", f"> {limits['feature']:.3g}", of_real("train_feature", "held_out_feature"),
         median("feature_distance")),
        ("Nearest training image, pixels", f"> {limits['pixel']:.3g}", of_real("train_pixel", "held_out_pixel"),
         median("pixel_distance")),
    ]  # fmt: skip


def _takeaway(nearest: Distances, at: int) -> str:
    """Returns how far generated images are from training images, beside validation images: the end of a title."""
    validation, generated = (nearest.get(kind, ((), ()))[at] for kind in ("validation images", "all generated images"))
    if not len(validation) or not len(generated):
        return ""
    ratio = float(np.median(generated) / max(np.median(validation), 1e-12))
    side = "closer than" if ratio < 0.9 else "farther than" if ratio > 1.1 else "about as far as"
    return f": generated images are {side} validation images ({ratio:.2f} of their median distance)"


def _curves(
    number: int, nearest: Distances, selected: Sequence[Mapping[str, Any]], limits: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Draws the cumulative distributions of the distance to the nearest training image, by features and by pixels."""
    import markupsafe

    panels = []
    for at, (kind, words) in enumerate((("feature", "features"), ("pixel", "pixels"))):
        distances = [pair[at] for pair in nearest.values()]
        distances.append(np.array([entry[f"{kind}_distance"] for entry in selected]))
        lines = [
            figures.Line(
                np.sort(kind_distances),
                np.arange(1, len(kind_distances) + 1) / len(kind_distances),
                colour=colour,
                dash=colour % 4,
                markers=True,
            )
            for colour, kind_distances in enumerate(distances)
            if len(kind_distances)
        ]
        alternative = (
            f"Share of images closer to a training image than a distance in {words}; limit {limits[kind]:.3g}."
        )
        svg = figures.curves(lines, f"distance in {words}", f"n{number}{kind}", alternative, {limits[kind]: 5})
        takeaway = _takeaway(nearest, at)
        panels.append({"title": f"Nearest training image by {words}{takeaway}", "svg": markupsafe.Markup(svg)})
    return panels
