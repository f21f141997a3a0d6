"""Grad-CAM maps over the images they were made of, and how far they can be trusted."""

from functools import cache
from typing import Any

import numpy as np

from dim_jax.reporting import figures, wording

COLOUR_MAP = "viridis"  # perceptually uniform, and its greens and yellows stand out from haematoxylin and eosin
OPACITY = 0.7  # of the largest value: the tissue below stays visible
DEPENDS, UNCHANGED = 0.3, 0.7  # rank correlations below and above which the maps did and did not change


@cache
def colours() -> np.ndarray:
    """Returns the colours of the values 0 to 1, uint8 of shape (256, 3)."""
    return figures.colour_map(COLOUR_MAP)


def upsample(values: np.ndarray, side: int) -> np.ndarray:
    """Brings a map (h, w) with values in [0, 1] to (side, side), float32, by Pillow's bilinear filter."""
    from PIL import Image

    small = Image.fromarray(np.clip(np.nan_to_num(values.astype(np.float32)), 0, 1))
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lays a map over its image, the more opaque the larger its value.

    Args:
      image: uint8 (S, S, 3), the square that the network saw, at any resolution.
      values: (h, w) in [0, 1], over the same square.

    Returns:
      uint8 (S, S, 3); where the map is 0, the image as it is.
    """
    value = upsample(values, image.shape[0])[:, :, None]
    colour = colours()[np.rint(255 * value[:, :, 0]).astype(np.intp)]
    return np.rint(image + OPACITY * value * (colour.astype(np.float32) - image)).astype(np.uint8)


def peak(values: np.ndarray) -> tuple[float, float] | None:
    """Returns where a map (h, w) is largest, as shares of width and height from the upper left, or None if all zero."""
    if not np.any(values > 0):
        return None
    row, column = np.unravel_index(np.argmax(values), values.shape)
    return (float(column) + 0.5) / values.shape[1], (float(row) + 0.5) / values.shape[0]


def check_sentences(check: Any) -> list[str]:
    """Returns the sanity check of an evaluation (`grad_cam_check` of its metrics.json) in words.

    Reference: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018, section 3 (model parameter
    randomisation).
    """
    check = check if isinstance(check, dict) else {}
    correlation, count = check.get("rank_correlation"), check.get("images")
    if wording.number(correlation) == wording.MISSING:
        return ["Whether these maps depend on what the network learned was not checked, or could not be."]
    amount = abs(float(correlation))
    if amount < DEPENDS:
        meaning = "the maps changed, so they depend on what the network learned, as they should."
    elif amount <= UNCHANGED:
        meaning = (
            "the maps changed only in part; some of what they show is the outline of the image rather than what the "
            "network learned."
        )
    else:
        meaning = (
            "the maps hardly changed, so they show the outline of the image and not what the network learned: "
            "do not draw conclusions from them."
        )
    return [
        f"Sanity check: the maps of {wording.number(count)} images were made again after the weights of the network's "
        "last block had been scrambled (Adebayo et al. 2018). Rank correlation between the two: "
        f"{wording.number(float(correlation), 2)} (1: the same places in the same order, 0: no relation). "
        f"Here {meaning}"
    ]


def gradient() -> str:
    """Returns the colour key as a CSS gradient from value 0 (clear) to 1."""
    stops = []
    for value in np.linspace(0, 1, 9):
        red, green, blue = colours()[round(255 * value)]
        stops.append(f"rgba({red}, {green}, {blue}, {OPACITY * value:.2f})")
    return f"linear-gradient(to right, {', '.join(stops)})"


def caution(shape: tuple[int, int], is_complete: bool) -> str:
    """Returns how to read maps of `shape` (h, w) cells, and what they do not show."""
    words = (
        f"Grad-CAM colours the places that raised the score of the predicted class, on a grid of {shape[0]} × "
        f"{shape[1]} cells (Selvaraju et al. 2017): it says roughly where, never why. A bright gland does not prove "
        "that the network looked at what a pathologist would."
    )
    return words if is_complete else words + " A picture without colour: nothing in it spoke for the predicted class."
