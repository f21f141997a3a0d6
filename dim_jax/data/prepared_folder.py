"""Contents of a prepared folder: scans listed images, joins duplicates, splits, measures statistics and reports."""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli import command_line
from dim_jax.cli.progress import progress_callback
from dim_jax.data import (
    data_report,
    image_scan,
    images,
    licences,
    near_duplicates,
    packed_pixels,
    source_record,
    splits,
)
from dim_jax.data import manifest as manifests
from dim_jax.data.dataset import REPORT_FILE
from dim_jax.data.image_scan import ScannedImage
from dim_jax.data.listing import Listing, named
from dim_jax.runs import files

REPORT_TEXT, EXAMPLES = "data_report.txt", "examples.png"
OWN_FILES = (
    manifests.FILE_NAME, splits.FILE_NAME, source_record.FILE_NAME, REPORT_FILE, REPORT_TEXT, EXAMPLES,
    packed_pixels.FILE_NAME,
)  # fmt: skip
FEATURES = "features-*.npz"  # features of frozen networks, which training caches here


def write(folder: Path, listing: Listing, options: dict[str, Any], strict: bool, started: float) -> None:
    """Writes all files of a prepared dataset into an empty folder, and prints its report.

    Args:
      folder: the output folder.
      listing: the images.
      options: checked options of `preparation.prepare_dataset`, recorded in the report.
      strict: refuse unreadable images instead of leaving them out.
      started: time.perf_counter() at the start of the preparation; the report has the duration.

    Raises:
      ValueError: a class has no readable image, or the images cannot be split by the options.
    """
    automatic = "manifest" if listing.has_split else "group"
    method = automatic if options["split"] == "auto" else options["split"]
    if method == "manifest" and not listing.has_split:
        raise ValueError("--split=manifest needs a manifest.csv with a split column; add it or choose another split")
    converted, progress = folder / "converted", progress_callback("reading images")
    scanned, unreadable = image_scan.scan_images(
        listing.images, listing.root, converted, options["image_size"], progress
    )
    _check_readable(scanned, unreadable, listing.classes, strict)

    manifest = manifests.Manifest(
        root=listing.root,
        classes=listing.classes,
        rows=tuple(image.row for image in scanned),
        converted_root=converted if any(image.conversion for image in scanned) else None,
    )
    digests = [row.sha256 for row in manifest.rows]
    exact = near_duplicates.exact_pairs(digests)
    near = near_duplicates.near_pairs(
        [image.signature for image in scanned], digests, lambda row: images.read_image(manifest.file(row))
    )
    units = splits.units_of([row.group for row in manifest.rows], np.concatenate([exact, near]))
    if method == "manifest":
        assignments = (_listed_split(scanned),)
    else:
        shares = {key: options[key] for key in ("folds", "validation", "test") if options[key] is not None}
        assignments = splits.assign(manifest.labels, units, method, seed=options["seed"], **shares)
        if method == "group" and not any(row.group for row in manifest.rows):
            method = "image"
    moments = np.stack([image.moments for image in scanned])
    folds = tuple(
        splits.Fold(assignment, *image_scan.channel_statistics(moments, assignment)) for assignment in assignments
    )
    split = splits.Split(method, options["seed"], folds)
    facts: dict[str, Any] = {
        "options": options,
        "licence": licences.find_licence(listing.root),
        "converted": [{"path": image.listed.path, "reason": image.conversion} for image in scanned if image.conversion],
        "doubtful": [{"path": image.listed.path, "doubt": image.doubt} for image in scanned if image.doubt],
        "unreadable": unreadable,
        "ignored": listing.ignored,
        "notes": listing.notes,
        "warnings": listing.warnings,
    }
    if options["pack"]:
        manifest = dataclasses.replace(manifest, packed=folder / packed_pixels.FILE_NAME)
        packed_pixels.write(manifest, options["image_size"], options["pack"], progress_callback("packing pixels"))
    facts["seconds"] = round(time.perf_counter() - started, 3)
    report = data_report.build(manifest, split, units, exact, near, facts)
    data_report.contact_sheet(manifest, split).save(folder / EXAMPLES)
    files.write_text(folder / REPORT_TEXT, data_report.text(report))
    manifests.save(manifest, folder)
    files.write_json(folder / REPORT_FILE, report)
    source_record.write(listing, folder)
    splits.save(split, manifest, folder)
    command_line.say(data_report.text(report).rstrip("\n"))


def check_own(folder: Path) -> None:
    """Raises ValueError if a folder holds files that no earlier preparation or training wrote into it."""
    own = {folder / name for name in OWN_FILES} | set(folder.glob(FEATURES))
    try:
        manifest = manifests.load(folder)
        own |= {manifest.file(row) for row in range(len(manifest))}
    except (OSError, ValueError):
        pass  # without a manifest no image is known to be ours
    others = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path not in own and (path.is_symlink() or not path.is_dir())
    ]
    if others:
        raise ValueError(
            f"--overwrite: {folder} holds files that no earlier preparation lists ({named(others)}); move them, or "
            "choose another --out"
        )


def remove(folder: Path) -> None:
    """Removes the files of an earlier preparation; see `check_own` for its errors."""
    check_own(folder)
    shutil.rmtree(folder)


def _check_readable(
    scanned: list[ScannedImage], unreadable: list[dict[str, str]], classes: Sequence[str], strict: bool
) -> None:
    first = "; ".join(f"{item['path']}: {item['reason']}" for item in unreadable[:3])
    if unreadable and strict:
        raise ValueError(f"{len(unreadable)} images cannot be read ({first}); repair them or leave out --strict")
    labels = {image.row.label for image in scanned}
    for name in classes:
        if name not in labels:
            raise ValueError(f"no image of class {name!r} can be read ({first}); repair the files or drop the class")


def _listed_split(scanned: list[ScannedImage]) -> tuple[str, ...]:
    """Returns the split column of the manifest.csv; raises ValueError if a part of the split is empty."""
    assignment = tuple(image.listed.split for image in scanned)
    for name in splits.NAMES:
        if name not in assignment:
            raise ValueError(f"the split column has no readable {name!r} images; add some or use --split=group")
    return assignment
