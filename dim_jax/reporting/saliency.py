"""Grad-CAM overlays on images, and sentences on how to read them."""

from functools import cache
from typing import Any

import numpy as np

from dim_jax.reporting import figures, wording

COLOUR_MAP = "viridis"  # perceptually uniform, and its greens and yellows contrast with haematoxylin and eosin
OPACITY = 0.7  # opacity at the largest value; the tissue below stays visible
DEPENDS, UNCHANGED = 0.3, 0.7  # rank correlation below which maps count as changed, above which as unchanged


@cache
def colours() -> np.ndarray:
    """RGB colours of the values 0 to 1, uint8 (256, 3)."""
    return figures.colour_map(COLOUR_MAP)


def upsample(values: np.ndarray, side: int) -> np.ndarray:
    """Resizes a map (h, w) with values in [0, 1] to (side, side) float32 with Pillow's bilinear filter."""
    from PIL import Image

    small = Image.fromarray(np.clip(np.nan_to_num(values.astype(np.float32)), 0, 1))
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Overlay of a map on its image, with an opacity proportional to the value.

    Args:
      image: the square input of the network at any resolution, uint8 (S, S, 3).
      values: the map, (h, w) in [0, 1], over the same square.

    Returns:
      uint8 (S, S, 3); unchanged where the map is 0.
    """
    value = upsample(values, image.shape[0])[:, :, None]
    colour = colours()[np.rint(255 * value[:, :, 0]).astype(np.intp)]
    return np.rint(image + OPACITY * value * (colour.astype(np.float32) - image)).astype(np.uint8)


def peak(values: np.ndarray) -> tuple[float, float] | None:
    """Position of the maximum of a map (h, w): shares of width and height from the upper left; None if all are 0."""
    if not np.any(values > 0):
        return None
    row, column = np.unravel_index(np.argmax(values), values.shape)
    return (float(column) + 0.5) / values.shape[1], (float(row) + 0.5) / values.shape[0]


def check_sentences(check: Any) -> list[str]:
    """Result of the sanity check of Grad-CAM maps in words, from `grad_cam_check` in metrics.json.

    Reference: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 3 (model parameter
    randomisation).
    """
    check = check if isinstance(check, dict) else {}
    correlation, count = check.get("rank_correlation"), check.get("images")
    if wording.number(correlation) == wording.MISSING:
        return ["The sanity check, whether these maps depend on the learned weights, was not made or was not possible."]
    strength = abs(float(correlation))
    if strength < DEPENDS:
        meaning = "The maps changed, so they depend on the learned weights, as they should."
    elif strength <= UNCHANGED:
        meaning = (
            "The maps changed only in part: they partly show structures of the image that do not depend on the learned "
            "weights."
        )
    else:
        meaning = (
            "The maps hardly changed: they show structures of the image that do not depend on the learned weights. "
            "Do not draw conclusions from them."
        )
    return [
        f"Sanity check (Adebayo et al. 2018): the maps of {wording.number(count)} images were recomputed after the "
        "weights of the network's last block had been permuted randomly. Rank correlation between the maps before and "
        "after: "
        f"{wording.number(float(correlation), 2)} (1: same ranking of places, 0: unrelated). {meaning}"
    ]


def gradient() -> str:
    """Colour scale of the overlays as a CSS gradient, from value 0 (transparent) to 1."""
    stops = []
    for value in np.linspace(0, 1, 9):
        red, green, blue = colours()[round(255 * value)]
        stops.append(f"rgba({red}, {green}, {blue}, {OPACITY * value:.2f})")
    return f"linear-gradient(to right, {', '.join(stops)})"


def caution(shape: tuple[int, int], is_complete: bool) -> str:
    """Sentences on how to read Grad-CAM maps and their limits.

    Args:
      shape: cells (h, w) of a map.
      is_complete: whether all maps have a value above 0.

    Reference: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization",
    ICCV 2017.
    """
    words = (
        f"Grad-CAM (Selvaraju et al. 2017) highlights the regions that raised the score of the predicted class, on a "
        f"grid of {shape[0]} × {shape[1]} cells. It shows roughly where these regions are, not why they matter: a "
        "highlighted gland does not prove that the network used the features a pathologist would use."
    )
    return words if is_complete else words + " An image without colour has no region that raised the score."
