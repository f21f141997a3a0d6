"""The pictures a GAN's training leaves: grids from fixed seeds, reconstructions, and the animation of the grids."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.reporting import thumbnails
from dim_jax.reporting.run_directory import RunRecords

FOLDER, SAMPLES, RECONSTRUCTIONS, ANIMATION = "samples", "samples", "reconstructions", "animation.webp"
COLUMNS = 8  # images in a row of a grid
REBUILT = ("real", "whole, from the large branch", "whole, from the small branch", "lower left quarter")
LARGE, SMALL = 1100, 480  # px
QUALITY = 90  # generated images are looked at for faults, which compression must not add
MOST_ANIMATION = 3_000_000  # bytes


def view(run: RunRecords) -> dict[str, Any]:
    """Returns the newest grid, those of the first, middle and last step, the newest reconstructions, the animation.

    Returns:
      `newest`, `rebuilt`: dicts of `uri`, `step`, `name` (and `classes`: of each row of a conditional GAN), or None;
      `progress`: at least two dicts of `uri` (None where it cannot be read), `step` and `name`, or none;
      `animation`: data address or None; `columns`: names of the reconstructions' columns; `notes`: what cannot be
      shown, in words.
    """
    notes: list[str] = []
    grids = _listed(run.folder / FOLDER, SAMPLES)
    newest, rebuilt = (_newest(paths, notes) for paths in (grids, _listed(run.folder / FOLDER, RECONSTRUCTIONS)))
    places = np.unique([0, (len(grids) - 1) // 2, len(grids) - 1]) if grids[1:] else []
    return {
        "newest": newest and newest | {"classes": _classes(run, newest["rows"])},
        "progress": [_picture(*grids[place], SMALL, thumbnails.QUALITY) for place in places],
        "rebuilt": rebuilt,
        "columns": REBUILT,
        "animation": _animation(run.folder / FOLDER / ANIMATION, notes),
        "notes": notes,
    }


def newest_grid(run: RunRecords) -> dict[str, Any] | None:
    """Returns the newest grid that can be read, small, as `view` does; None where there is none."""
    return _newest(_listed(run.folder / FOLDER, SAMPLES), [], SMALL)


def _listed(folder: Path, kind: str) -> list[tuple[int, Path]]:
    """Returns step and path of the pictures of a kind, by step."""
    found = [(re.fullmatch(rf"{kind}_([0-9]{{1,15}})\.png", path.name), path) for path in folder.glob(f"{kind}_*.png")]
    return sorted((int(match[1]), path) for match, path in found if match)


def _newest(listed: list[tuple[int, Path]], notes: list[str], side: int = LARGE) -> dict[str, Any] | None:
    """Returns the newest picture that can be read, and notes down those that cannot."""
    for step, path in reversed(listed):
        picture = _picture(step, path, side, QUALITY)
        if picture["uri"]:
            return picture
        notes.append(f"{picture['name']} cannot be read and is left out.")
    return None


def _picture(step: int, path: Path, side: int, quality: int) -> dict[str, Any]:
    pixels = thumbnails.read(path)
    uri = None if pixels is None else thumbnails.data_uri(pixels, side, quality)
    # As many rows as a grid has; two pixels lie between its images.
    rows = None if pixels is None else COLUMNS * (pixels.shape[0] + 2) / (pixels.shape[1] + 2)
    return {"uri": uri, "step": step, "name": f"{FOLDER}/{path.name}", "rows": rows}


def _classes(run: RunRecords, rows: float) -> list[str]:
    """Returns the class of each row of a conditional GAN's grid; none for other GANs, or where the rows do not fit."""
    if run.manifest is None or run.setting("gan", "conditional") is not True:
        return []
    return list(run.manifest.classes) if rows == len(run.manifest.classes) else []


def _animation(path: Path, notes: list[str]) -> str | None:
    name = f"{FOLDER}/{path.name}"
    if not path.is_file():
        return None
    size = path.stat().st_size
    if size > MOST_ANIMATION:
        notes.append(f"The animation of all grids, {name}, is too large for this page ({size / 1e6:.1f} MB).")
        return None
    if thumbnails.read(path) is None:
        notes.append(f"{name} cannot be read and is left out.")
        return None
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
