"""Output of `dim_jax.predict`: predictions.json, predictions.csv, Grad-CAM overlays and a summary for the screen."""

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli import command_line
from dim_jax.data import csv_files, field_statistics
from dim_jax.data.image_writer import safe_name
from dim_jax.data.images import png_bytes, read_square
from dim_jax.prediction.folder_images import FolderImages
from dim_jax.reporting import saliency
from dim_jax.reporting.tables import cell
from dim_jax.runs import files, outputs

NOTICE = "Research software, not a medical device: not for diagnosing anyone."
JSON, CSV, OVERLAYS = "predictions.json", "predictions.csv", "overlays"
CASES = "cases.csv"
TABLES = (JSON, CSV)
MOST_SHOWN = 5  # doubtful images on the screen
ANSWERED, ABSTAINED, UNREADABLE = "answered", "abstained", "unreadable"


def check_folder(out: Path) -> None:
    """Raises an error if `out` cannot be written, or predictions.json or predictions.csv would replace another file."""
    outputs.check(out, is_folder=True)
    files.check_replaceable([out / name for name in TABLES], _listed(out))


def overlay_names(images: FolderImages, rows: Sequence[int]) -> dict[int, str]:
    """Returns row -> path of its overlay relative to the output folder."""
    return {row: f"{OVERLAYS}/{row + 1:05d}_{safe_name(images.paths[row].stem)}.png" for row in rows}


def write(
    out: Path, predictions: dict[str, Any], images: FolderImages, names: dict[int, str], maps: np.ndarray | None
) -> None:
    """Writes predictions.json, the overlays and predictions.csv, and removes overlays that only earlier calls wrote.

    Args:
      out: the output folder.
      predictions: content of predictions.json, which lists the overlays.
      images: the images.
      names: from `overlay_names`, for n images; the overlays are drawn on the network's square inputs.
      maps: Grad-CAM maps of these images, (n or more, h, w) in [0, 1]; None if there are none.

    Raises:
      ValueError: a file would be overwritten that no earlier call listed; nothing is written.
    """
    with files.turn(out):
        listed = _listed(out)
        overlays = {row: out / name for row, name in names.items()}
        tables = [out / name for name in (*TABLES, *([CASES] if predictions.get("cases") else []))]
        files.check_replaceable([*tables, *overlays.values()], listed)
        for path in listed - {*overlays.values(), *tables}:
            path.unlink(missing_ok=True)
        # The list comes first, so that no overlay is unlisted after an interruption.
        files.write_json(out / JSON, predictions)
        for place, (row, path) in enumerate(overlays.items()):
            square = read_square(images.paths[row], images.image_size, images.resize)
            files.write_bytes(path, png_bytes(saliency.overlay(square, maps[place])))
        files.write_bytes(out / CSV, csv_files.encode(_csv(predictions["images"], predictions["classes"])))
        if predictions.get("cases"):
            text = _cases_csv(predictions["cases"], predictions["classes"])
            files.write_bytes(out / CASES, csv_files.encode(text))


def _listed(out: Path) -> set[Path]:
    """Returns the files in `out` that an earlier call listed in predictions.json."""
    try:
        earlier = files.read_object(out / JSON)
    except (OSError, ValueError):
        return set()
    if not {"notice", "checkpoint_step"} <= earlier.keys() or not isinstance(earlier.get("images"), list):
        return set()
    names = [entry.get("overlay") for entry in earlier["images"] if isinstance(entry, dict)]
    # Of a changed list, only names inside the folder count.
    safe = [name for name in names if isinstance(name, str) and re.fullmatch(rf"{OVERLAYS}/[^/\\\0]+\.png", name)]
    return {out / name for name in (*TABLES, *([CASES] if earlier.get("cases") else []), *safe)}


def path_text(path: Path) -> str:
    """A path as valid UTF-8; bytes of its name that are not UTF-8 are escaped by backslashes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def summary(predictions: dict[str, Any]) -> str:
    """Summary for the screen: files per status, images per predicted class, doubtful images, the abstention rule.

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
        if adjustment["costs"]:
            head += ", answers of least expected cost"
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
    cases = predictions["cases"]
    if cases:
        lines.append(f"{len(cases)} cases, by the mean of their images:")
        for name in predictions["classes"]:
            count = sum(case["predicted"] == name for case in cases)
            lines.append(f"  {command_line.printable(name):<24} {count:5d} cases")
    doubtful = [f"{image['path']} ({image['doubt']})" for image in predictions["images"] if image.get("doubt")]
    if doubtful:
        more = f" and {len(doubtful) - MOST_SHOWN} more, marked in {CSV}" if len(doubtful) > MOST_SHOWN else ""
        shown = command_line.printable(", ".join(doubtful[:MOST_SHOWN]))
        number = "1 image is" if len(doubtful) == 1 else f"{len(doubtful)} images are"
        lines.append(f"WARNING: {number} doubtful: {shown}{more}")
    lines += [f"WARNING: {command_line.printable(warning)}" for warning in predictions["warnings"]]
    distances = [image["distance"] for image in predictions["images"] if "distance" in image]
    if distances and (unusual := field_statistics.summary(distances, predictions["usual_distance"])):
        lines.append(f"WARNING: {unusual}")
    return "\n".join([head, *lines, NOTICE])


def _csv(images: Sequence[dict[str, Any]], classes: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["path", "status", "predicted", "confidence"]
    writer.writerow([*columns, *(cell(f"probability {name}") for name in classes), "overlay", "reason", "doubt"])
    for image in images:
        probabilities = image.get("probabilities", {})
        numbers = [f"{image['confidence']:.6f}"] if probabilities else [""]
        numbers += [f"{probabilities[name]:.6f}" if probabilities else "" for name in classes]
        names = ("path", "status", "predicted", "overlay", "reason", "doubt")
        texts = [cell(image.get(name, "")) for name in names]
        writer.writerow([*texts[:3], *numbers, *texts[3:]])
    return buffer.getvalue()


def _cases_csv(cases: Sequence[dict[str, Any]], classes: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["case", "images", "unreadable", "predicted", "confidence", *(["worst"] if "worst" in cases[0] else [])]
    writer.writerow([*columns, *(cell(f"probability {name}") for name in classes)])
    for case in cases:
        numbers = [case["confidence"], *(case["probabilities"][name] for name in classes)]
        confidence, *shares = ["" if number is None else f"{number:.6f}" for number in numbers]
        texts = {name: cell(case[name]) for name in columns} | {"confidence": confidence}
        writer.writerow([*texts.values(), *shares])
    return buffer.getvalue()
