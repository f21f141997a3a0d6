"""Output of `dim_jax.predict`: predictions.json, predictions.csv, Grad-CAM overlays and a summary for the screen."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli import command_line
from dim_jax.data.image_writer import safe_name
from dim_jax.data.images import png_bytes, read_square
from dim_jax.prediction.folder_images import FolderImages
from dim_jax.reporting import saliency
from dim_jax.reporting.tables import cell
from dim_jax.runs import files

NOTICE = "Research software, not a medical device: not for diagnosing anyone."
ANSWERED, ABSTAINED, UNREADABLE = "answered", "abstained", "unreadable"


def write_tables(out: Path, predictions: dict[str, Any]) -> None:
    """Writes predictions.csv and predictions.json.

    Args:
      out: the output folder.
      predictions: content of predictions.json.
    """
    files.write_text(out / "predictions.csv", _csv(predictions["images"], predictions["classes"]))
    files.write_json(out / "predictions.json", predictions)


def write_overlays(out: Path, images: FolderImages, rows: Sequence[int], maps: np.ndarray | None) -> dict[int, str]:
    """Writes Grad-CAM overlays on the network's square inputs, and removes overlays of earlier calls.

    Args:
      out: the output folder.
      images: the images.
      rows: rows of the images to draw, n of them.
      maps: Grad-CAM maps of these images, (n, h, w) in [0, 1]; None if `rows` is empty.

    Returns:
      Row -> path of the overlay relative to `out`.
    """
    names = {}
    for place, row in enumerate(rows):
        name = f"overlays/{row + 1:05d}_{safe_name(images.paths[row].stem)}.png"
        square = read_square(images.paths[row], images.image_size, images.resize)
        files.write_bytes(out / name, png_bytes(saliency.overlay(square, maps[place])))
        names[row] = name
    for path in (out / "overlays").glob("[0-9]*_*.png"):
        if f"overlays/{path.name}" not in names.values():
            path.unlink()  # written by an earlier call
    return names


def path_text(path: Path) -> str:
    """A path as valid UTF-8; bytes of its name that are not UTF-8 are escaped by backslashes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def summary(predictions: dict[str, Any]) -> str:
    """Summary for the screen: files per status, images per predicted class, and the abstention rule.

    Args:
      predictions: content of predictions.json.
    """
    lines = []
    answered = [image for image in predictions["images"] if image["status"] == ANSWERED]
    for name in predictions["classes"]:
        count = sum(image["predicted"] == name for image in answered)
        lines.append(f"  {command_line.printable(name):<24} {count:5d} images")
    statuses = [image["status"] for image in predictions["images"]]
    head = f"{len(statuses)} files, step {predictions['checkpoint_step']}: "
    head += ", ".join(f"{statuses.count(status)} {status}" for status in (ANSWERED, ABSTAINED, UNREADABLE))
    if predictions["files_passed_over"]:
        head += f" ({predictions['files_passed_over']} files without a suffix of an image were skipped)"
    adjustment = predictions["adjustment"]
    if adjustment:
        head += f"\nlogits adjusted as chosen by validation {adjustment['criterion']} (tau {adjustment['tau']:g})"
    if predictions["temperature"] != 1.0:
        head += f"\ntemperature {predictions['temperature']:.3f}, fitted on validation images"
    rule = predictions["abstention"]
    if rule:
        head += (
            f"\nanswers need a confidence of at least {rule['threshold']:.4f}; on validation images "
            f"{rule['coverage']:.1%} answered, {rule['error']:.1%} of the answers wrong (without abstention "
            f"{rule['error_of_all']:.1%}); checkpoint and threshold were chosen on these images, so expect more errors "
            "on new ones"
        )
    return "\n".join([head, *lines, NOTICE])


def _csv(images: Sequence[dict[str, Any]], classes: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["path", "status", "predicted", "confidence"]
    writer.writerow([*columns, *(cell(f"probability {name}") for name in classes), "overlay", "reason"])
    for image in images:
        probabilities = image.get("probabilities", {})
        numbers = [f"{image['confidence']:.6f}"] if probabilities else [""]
        numbers += [f"{probabilities[name]:.6f}" if probabilities else "" for name in classes]
        texts = [cell(image.get(name, "")) for name in ("path", "status", "predicted", "overlay", "reason")]
        writer.writerow([*texts[:3], *numbers, *texts[3:]])
    return buffer.getvalue()
