"""Sources of images: class folders or a table. Images are listed, not read."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dim_jax.data import class_folders, groups, tables
from dim_jax.data.listing import Listing, class_order


def list_images(
    source: str | Path | None,
    manifest: str | Path | None,
    group_regex: str | None,
    classes: Sequence[str] | None,
    split: str,
    class_folder: int | None = None,
) -> Listing:
    """Lists the images of class folders or of a table.

    Args:
      source: folder of the images; None takes the folder of the table.
      manifest: the table; None for class folders.
      group_regex: see `groups.from_paths`; None keeps the groups of the table.
      classes: see `class_order`.
      split: requested split method; the split of a table or of folders is used for "auto" and "manifest" only.
      class_folder: see `class_folders.read`.

    Raises:
      FileNotFoundError, ValueError: as `tables.read`, `class_folders.read`, `groups.from_paths` and `class_order`.
    """
    if manifest:
        listing = tables.read(manifest, source, has_group_regex=group_regex is not None, split=split)
        if listing.has_split and split not in ("auto", "manifest"):
            listing.notes.append(f"the split column of {manifest} is ignored because of --split={split}")
        if group_regex and any(item.group for item in listing.images):
            listing.notes.append(f"the group column of {manifest} is ignored because of --group-regex")
    else:
        listing = class_folders.read(os.path.abspath(source), split, class_folder, group_regex is not None)
    images = groups.from_paths(listing.images, group_regex) if group_regex else listing.images
    return replace(listing, images=images, classes=class_order(images, classes))
