"""Example images: the most confident correct and wrong predictions of each class, with Grad-CAM maps."""

from typing import Any

from dim_jax.cli.command_line import shown
from dim_jax.data import images
from dim_jax.reporting import saliency, thumbnails, wording
from dim_jax.reporting.predictions import SavedPredictions
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table

COLUMNS = ("true class", "kind", "image", "predicted class", "probability", "map peak from left", "map peak from top")


def view(run: RunRecords, predictions: SavedPredictions) -> dict[str, Any]:
    """Template data of the examples: images per class, Grad-CAM overlays, notes and table.

    There are no overlays if the predictions have no Grad-CAM maps or the run's `config.data.resize` is unknown.
    """
    maps, policy = predictions.grad_cam, run.setting("data", "resize")
    has_maps = maps is not None and policy in images.POLICIES
    classes, rows, num_unreadable, is_complete = [], [], 0, True
    for at, kinds in thumbnails.choose(predictions.index, predictions.label, predictions.logits).items():
        entry: dict[str, Any] = {"class": predictions.classes[at]}
        for kind, examples in kinds.items():
            entry[kind] = []
            for example in examples:
                name = predictions.names[example.place]
                pixels = thumbnails.read(predictions.files[example.place]) if predictions.files else None
                num_unreadable += pixels is None
                peak = saliency.peak(maps[example.place]) if has_maps else None
                is_complete = is_complete and peak is not None
                predicted = predictions.classes[example.predicted]
                entry[kind].append(
                    {
                        **_pictures(pixels, maps[example.place] if has_maps else None, policy),
                        "caption": f"{predictions.classes[at]} → {predicted}",
                        "path": name,
                        "probability": wording.number(example.probability, 2),
                    }
                )
                rows.append(
                    (predictions.classes[at], kind, name, predicted, example.probability, *(peak or (None, None)))
                )
        classes.append(entry)
    return {
        "split": wording.split_name(predictions.split),
        "notes": _notes(run, predictions, has_maps, num_unreadable, len(rows)),
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
    """Returns data URIs of an image and of its Grad-CAM overlay; None for what is missing."""
    if pixels is None:
        return {"uri": None, "overlay": None}
    if values is None:
        return {"uri": thumbnails.data_uri(pixels), "overlay": None}
    # The map covers the network's square input, so both pictures show that square.
    square = images.resize(pixels, thumbnails.SIDE, policy)
    return {"uri": thumbnails.data_uri(square), "overlay": thumbnails.data_uri(saliency.overlay(square, values))}


def _notes(
    run: RunRecords, predictions: SavedPredictions, has_maps: bool, num_unreadable: int, num_images: int
) -> list[str]:
    notes = []
    if num_unreadable:
        note = f"{num_unreadable} of {num_images} image files could not be read"
        notes.append(
            note + (f"; they were in {run.manifest.root}." if run.manifest else ", as the manifest is missing.")
        )
    # For a model without maps `grad_cam_check` is null; evaluations of early versions do not have the key.
    if predictions.grad_cam is None and run.evaluations[predictions.split].get("grad_cam_check", {}) is None:
        notes.append("The input of this model is features, not images, so there are no Grad-CAM maps.")
    elif predictions.grad_cam is None:
        notes.append(
            "This run was evaluated by a version without Grad-CAM maps; to make them, run "
            f"python -m dim_jax.evaluate --workdir={shown(run.folder)} --split={predictions.split}"
        )
    elif not has_maps:
        notes.append("The Grad-CAM maps are not shown: how images were made square (config.data.resize) is unknown.")
    return notes
