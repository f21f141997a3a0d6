"""Generated images next to their nearest real images: order by distance, orientation, and a contact sheet as PNG."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dim_jax.cli.command_line import printable
from dim_jax.reporting import thumbnails

MOST_PAIRS = 8


@dataclass(frozen=True)
class Pictures:
    """Files of images: of generated ones by their path in selected.json, of real ones by their path in the manifest."""

    generated: Callable[[str], Path]
    real: Callable[[str], Path]


def closest(entries: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> list[Mapping[str, Any]]:
    """Generated images sorted by their distance to the nearest training image, relative to the limit for copies."""
    return sorted(entries, key=lambda entry: (_relative_distance(entry, limits), entry["seed"]))


def _relative_distance(entry: Mapping[str, Any], limits: Mapping[str, float]) -> float:
    return min(entry[f"{kind}_distance"] / max(limits[kind], 1e-12) for kind in ("feature", "pixel"))


def aligned(real: np.ndarray, generated: np.ndarray | None) -> np.ndarray:
    """Returns the real image in the one of its eight orientations that is most similar to the generated image."""
    if generated is None:
        return real

    def small(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)).astype(np.float64)

    views = [np.rot90(view, turns) for view in (real, np.swapaxes(real, 0, 1)) for turns in range(4)]
    errors = [((small(np.ascontiguousarray(view)) - small(generated)) ** 2).sum() for view in views]
    return np.ascontiguousarray(views[int(np.argmin(errors))])


def closest_sheet(
    selected: Mapping[str, Any], rejected: Sequence[Mapping[str, Any]], pictures: Pictures, size: int = 128
) -> bytes:
    """Sheet of the generated images closest to training images, selected ones and copies of each class.

    A column shows a generated image above its nearest real images by features and by pixels.

    Args:
      selected, rejected, pictures: as for `render`.
      size: side of an image in pixels.

    Returns:
      A PNG file.
    """
    gap, title, line = 6, 22, 16
    bands = []
    for name, counts in selected["classes"].items():
        images = [entry for entry in selected["images"] if entry["label"] == name]
        copies = [entry for entry in rejected if entry["label"] == name and entry["reason"] == "copy_of_training_image"]
        for words, entries in (("selected, closest first", images), ("rejected as copies", copies)):
            if entries:
                bands.append((f"{name}: {words}", closest(entries, counts["limits"])[:MOST_PAIRS]))
    height = title + 3 * (size + line) + gap
    sheet = Image.new("RGB", (gap + MOST_PAIRS * (size + gap), gap + max(len(bands), 1) * height), "white")
    draw, fonts = ImageDraw.Draw(sheet), [ImageFont.load_default(points) for points in (14, 11)]
    if not bands:
        draw.text((gap, gap), "no images were selected, and none were copies", fill="black", font=fonts[0])
    for number, (words, entries) in enumerate(bands):
        top = gap + number * height
        draw.text((gap, top), printable(words), fill="black", font=fonts[0])
        for column, entry in enumerate(entries):
            left = gap + column * (size + gap)
            cells = (
                (pictures.generated(entry["path"]), f"seed {entry['seed']}"),
                (pictures.real(entry["feature_nearest"]), f"features {entry['feature_distance']:.3g}"),
                (pictures.real(entry["pixel_nearest"]), f"pixels {entry['pixel_distance']:.3g}"),
            )
            for place, (path, caption) in enumerate(cells):
                at = top + title + place * (size + line)
                pixels = thumbnails.read(path)
                if pixels is not None:
                    pixels = aligned(pixels, thumbnails.read(cells[0][0])) if place else pixels
                    sheet.paste(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR), (left, at))
                draw.text((left, at + size), caption, fill="black", font=fonts[1])
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()
