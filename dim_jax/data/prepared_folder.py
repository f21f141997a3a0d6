"""From listed images to a folder of prepared data: read, look for pairs, split, measure, report."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli import command_line
from dim_jax.cli.progress import showing
from dim_jax.data import data_report, image_scan, near_duplicates, packed_pixels, splits
from dim_jax.data import manifest as manifests
from dim_jax.data.dataset import REPORT_FILE
from dim_jax.data.image_scan import ReadImage
from dim_jax.data.sources import Listing
from dim_jax.runs import files


def write(folder: Path, listing: Listing, options: dict[str, Any], strict: bool, started: float) -> None:
    """Writes everything that prepared data are into an empty folder, and says the report.

    Args:
      folder: where to.
      listing: the images.
      options: those of `prepare.prepare`, checked; kept in the report.
      strict: refuse unreadable images instead of leaving them out.
      started: when preparing began, by time.perf_counter(); the report tells how long it took.

    Raises:
      ValueError: the images cannot be read, or cannot be split as asked.
    """
    automatic = "manifest" if listing.has_split else "group"
    method = automatic if options["split"] == "auto" else options["split"]
    if method == "manifest" and not listing.has_split:
        raise ValueError("--split=manifest needs a manifest.csv with a split column; add it or choose another split")
    converted, progress = folder / "converted", showing("reading images")
    read, unreadable = image_scan.read_all(listing.images, listing.root, converted, options["image_size"], progress)
    _check_readable(read, unreadable, listing.classes, strict)

    manifest = manifests.Manifest(
        root=listing.root,
        classes=listing.classes,
        rows=tuple(image.row for image in read),
        converted_root=converted if any(image.conversion for image in read) else None,
    )
    exact = near_duplicates.exact_pairs([row.sha256 for row in manifest.rows])
    near = near_duplicates.near_pairs([image.signature for image in read])
    digests = np.array([row.sha256 for row in manifest.rows])
    near = near[digests[near[:, 0]] != digests[near[:, 1]]]
    units = splits.units_of([row.group for row in manifest.rows], np.concatenate([exact, near]))
    if method == "manifest":
        assignments = (_as_listed(read),)
    else:
        shares = {key: options[key] for key in ("folds", "validation", "test") if options[key] is not None}
        assignments = splits.draw(manifest.labels, units, method, seed=options["seed"], **shares)
        if method == "group" and not any(row.group for row in manifest.rows):
            method = "image"
    moments = np.stack([image.moments for image in read])
    folds = tuple(splits.Fold(each, *image_scan.channel_statistics(moments, each)) for each in assignments)
    split = splits.Split(method, options["seed"], folds)
    facts = {
        "options": options,
        "converted": [{"path": image.listed.path, "reason": image.conversion} for image in read if image.conversion],
        "unreadable": unreadable,
        "ignored": listing.ignored,
        "notes": listing.notes,
    }
    if options["pack"]:
        manifest = dataclasses.replace(manifest, packed=folder / packed_pixels.FILE_NAME)
        packed_pixels.write(manifest, options["image_size"], options["pack"], showing("packing pixels"))
    facts["seconds"] = round(time.perf_counter() - started, 3)
    report = data_report.build(manifest, split, units, exact, near, facts)
    data_report.contact_sheet(manifest, split).save(folder / "examples.png")
    files.write_text(folder / "data_report.txt", data_report.text(report))
    manifests.save(manifest, folder)
    files.write_json(folder / REPORT_FILE, report)
    splits.save(split, manifest, folder)
    command_line.say(data_report.text(report).rstrip("\n"))


def _check_readable(
    read: list[ReadImage], unreadable: list[dict[str, str]], classes: Sequence[str], strict: bool
) -> None:
    first = "; ".join(f"{item['path']}: {item['reason']}" for item in unreadable[:3])
    if unreadable and strict:
        raise ValueError(f"{len(unreadable)} images cannot be read ({first}); mend them or leave out --strict")
    found = {image.row.label for image in read}
    for name in classes:
        if name not in found:
            raise ValueError(f"no image of class {name!r} can be read ({first}); mend the files or drop the class")


def _as_listed(read: list[ReadImage]) -> tuple[str, ...]:
    """Returns the split column, once it is sure that nothing is missing."""
    assignment = tuple(image.listed.split for image in read)
    for name in splits.NAMES:
        if name not in assignment:
            raise ValueError(f"the split column has no readable {name!r} images; add some or draw with --split=group")
    return assignment
