"""Images written while a generator is trained: grids of fixed seeds, reconstructions, and an animation."""

import base64
import re
from pathlib import Path
from typing import Any

from dim_jax.reporting import thumbnails
from dim_jax.reporting.run_directory import RunRecords

FOLDER, SAMPLES, RECONSTRUCTIONS, ANIMATION = "samples", "samples", "reconstructions", "animation.webp"
COLUMNS = 8  # images in a row of a grid
RECONSTRUCTION_COLUMNS = ("real", "whole, from the large branch", "whole, from the small branch", "lower left quarter")
LARGE, SMALL = 1100, 480  # px
QUALITY = 90  # of JPEG: compression must not add artefacts to generated images, which are inspected for artefacts
MOST_ANIMATION = 3_000_000  # bytes


def view(run: RunRecords) -> dict[str, Any]:
    """Template data of the images of a generator's run.

    Returns:
      `newest`: newest grid; `reconstructions`: newest reconstructions; both dicts of `uri`, `step`, `name`, `rows` (and
      for `newest` `classes`: class of each row, if the generator is conditional), or None;
      `progress`: grids of the first, middle and last step, dicts of `uri` (None if unreadable), `step`, `name` and
      `rows`; empty if there is only one grid;
      `animation`: data URI or None; `columns`: names of the columns of the reconstructions; `notes`: sentences on files
      that cannot be shown.
    """
    notes: list[str] = []
    grids = _paths_by_step(run.folder / FOLDER, SAMPLES)
    newest = _newest(grids, notes)
    reconstructions = _newest(_paths_by_step(run.folder / FOLDER, RECONSTRUCTIONS), notes)
    places = sorted({0, (len(grids) - 1) // 2, len(grids) - 1}) if grids[1:] else []
    return {
        "newest": newest and newest | {"classes": _classes(run, newest["rows"])},
        "progress": [_picture(*grids[place], SMALL, thumbnails.QUALITY) for place in places],
        "reconstructions": reconstructions,
        "columns": RECONSTRUCTION_COLUMNS,
        "animation": _animation(run.folder / FOLDER / ANIMATION, notes),
        "notes": notes,
    }


def newest_grid(run: RunRecords) -> dict[str, Any] | None:
    """Newest readable grid in a small size, a dict of `uri`, `step`, `name` and `rows`; None if there is none."""
    return _newest(_paths_by_step(run.folder / FOLDER, SAMPLES), [], SMALL)


def _paths_by_step(folder: Path, kind: str) -> list[tuple[int, Path]]:
    """Returns (step, path) of the files of a kind, sorted by step."""
    paths = folder.glob(f"{kind}_*.png")
    matches = [(re.fullmatch(rf"{kind}_([0-9]{{1,15}})\.png", path.name), path) for path in paths]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _newest(paths: list[tuple[int, Path]], notes: list[str], side: int = LARGE) -> dict[str, Any] | None:
    """Returns the newest readable picture, and adds a note for each unreadable one."""
    for step, path in reversed(paths):
        picture = _picture(step, path, side, QUALITY)
        if picture["uri"]:
            return picture
        notes.append(f"{picture['name']} cannot be read and is not shown.")
    return None


def _picture(step: int, path: Path, side: int, quality: int) -> dict[str, Any]:
    pixels = thumbnails.read(path)
    uri = None if pixels is None else thumbnails.data_uri(pixels, side, quality)
    # Number of rows of the grid: its images are separated by two pixels.
    rows = None if pixels is None else COLUMNS * (pixels.shape[0] + 2) / (pixels.shape[1] + 2)
    return {"uri": uri, "step": step, "name": f"{FOLDER}/{path.name}", "rows": rows}


def _classes(run: RunRecords, rows: float) -> list[str]:
    """Returns the class of each row of a conditional generator's grid; empty for others or another number of rows."""
    if run.manifest is None or run.setting(run.generator, "conditional") is not True:
        return []
    return list(run.manifest.classes) if rows == len(run.manifest.classes) else []


def _animation(path: Path, notes: list[str]) -> str | None:
    name = f"{FOLDER}/{path.name}"
    if not path.is_file():
        return None
    size = path.stat().st_size
    if size > MOST_ANIMATION:
        notes.append(f"The animation of all grids is too large for this page ({size / 1e6:.1f} MB): see {name}.")
        return None
    if thumbnails.read(path) is None:
        notes.append(f"{name} cannot be read and is not shown.")
        return None
    return "data:image/webp;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
