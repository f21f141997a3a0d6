"""The most confident right and wrong predictions of every class, with what spoke for them in the image."""

from typing import Any

from dim_jax.data import images
from dim_jax.reporting import saliency, thumbnails, wording
from dim_jax.reporting.predictions import SavedPredictions
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table

COLUMNS = ("true class", "kind", "image", "predicted class", "probability", "map peak from left", "map peak from top")


def view(run: RunRecords, predictions: SavedPredictions) -> dict[str, Any]:
    """Returns examples per class with their pictures, and sentences about them.

    Without Grad-CAM maps, or without the way in which images were made square, the images are shown alone.
    """
    maps, policy = predictions.grad_cam, run.setting("data", "resize")
    has_maps = maps is not None and policy in images.POLICIES
    classes, rows, unread, is_complete = [], [], 0, True
    for at, kinds in thumbnails.choose(predictions.index, predictions.label, predictions.logits).items():
        shown: dict[str, Any] = {"class": predictions.classes[at]}
        for kind, examples in kinds.items():
            shown[kind] = []
            for example in examples:
                name = predictions.names[example.place]
                pixels = thumbnails.read(predictions.files[example.place]) if predictions.files else None
                unread += pixels is None
                place = saliency.peak(maps[example.place]) if has_maps else None
                is_complete = is_complete and place is not None
                predicted = predictions.classes[example.predicted]
                shown[kind].append(
                    {
                        **_pictures(pixels, maps[example.place] if has_maps else None, policy),
                        "caption": f"{predictions.classes[at]} → {predicted}",
                        "path": name,
                        "probability": wording.number(example.probability, 2),
                    }
                )
                found = place or (None, None)
                rows.append((predictions.classes[at], kind, name, predicted, example.probability, *found))
        classes.append(shown)
    return {
        "split": wording.split_name(predictions.split),
        "notes": _notes(run, predictions, has_maps, unread, len(rows)),
        "classes": classes,
        "has_maps": has_maps,
        "gradient": saliency.gradient() if has_maps else "",
        "reading": [
            saliency.caution(maps.shape[1:], is_complete),
            *saliency.check_sentences(run.evaluations[predictions.split].get("grad_cam_check")),
        ]
        if has_maps
        else [],
        "csv": Table(
            f"examples_{predictions.split}",
            f"examples of the {wording.split_name(predictions.split)} split",
            COLUMNS if has_maps else COLUMNS[:5],
            rows if has_maps else [row[:5] for row in rows],
        ),
    }


def _pictures(pixels: Any, values: Any, policy: Any) -> dict[str, str | None]:
    """Returns the data addresses of an image and of its map laid over it; None for what there is not."""
    if pixels is None:
        return {"uri": None, "overlay": None}
    if values is None:
        return {"uri": thumbnails.data_uri(pixels), "overlay": None}
    # The map belongs to the square that the network saw, so both pictures show that square.
    square = images.resize(pixels, thumbnails.SIDE, policy)
    return {"uri": thumbnails.data_uri(square), "overlay": thumbnails.data_uri(saliency.overlay(square, values))}


def _notes(run: RunRecords, predictions: SavedPredictions, has_maps: bool, unread: int, wanted: int) -> list[str]:
    notes = []
    if unread:
        note = f"{unread} of {wanted} image files could not be read"
        notes.append(
            note + (f"; they were in {run.manifest.root}." if run.manifest else ", as the manifest is missing.")
        )
    # An evaluation of a model without maps says so by a check that is null; an early one says nothing.
    if predictions.grad_cam is None and run.evaluations[predictions.split].get("grad_cam_check", {}) is None:
        notes.append("This model is given features and no images, so there are no Grad-CAM maps.")
    elif predictions.grad_cam is None:
        notes.append(
            "This run was evaluated before Grad-CAM maps were made; "
            f"python -m dim_jax.evaluate --workdir={run.folder} --split={predictions.split} makes them."
        )
    elif not has_maps:
        notes.append("How the images were made square is not known, so the Grad-CAM maps cannot be laid over them.")
    return notes
