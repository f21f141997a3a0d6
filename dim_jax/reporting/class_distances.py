"""Distances between class centroids in the network's feature space (the input of its last layer)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dim_jax.cli.command_line import printable
from dim_jax.reporting import figures, wording
from dim_jax.reporting.predictions import SavedPredictions
from dim_jax.reporting.tables import Table

if TYPE_CHECKING:
    from dim_jax.reporting.figures import Axes

MOST_NUMBERS = 12  # classes; with more, the cells of the heat map are too small for numbers


@dataclass(frozen=True)
class Distances:
    """Distances between and within classes, in the units of the features; NaN for classes without images.

    Attributes:
      between: Euclidean distances between centroids, (C, C); symmetric, zero on the diagonal.
      spread: mean distance of the images of a class to its centroid, (C,).
      count: images per class, (C,).
    """

    between: np.ndarray
    spread: np.ndarray
    count: np.ndarray

    @property
    def unit(self) -> float:
        """Mean spread over classes, the unit in which the page shows distances."""
        return float(np.nanmean(self.spread)) if np.isfinite(self.spread).any() else 0.0


def measure(features: np.ndarray, label: np.ndarray, number: int) -> Distances:
    """Distances between class centroids and spread within classes; both are invariant to rotation and translation.

    Args:
      features: (N, F), finite.
      label: classes, (N,) int in [0, number).
      number: number of classes C.

    Returns:
      Distances of shape (C, C), spreads and counts of shape (C,).
    """
    features = features.astype(np.float64)
    count = np.bincount(label, minlength=number)
    centroids = np.full((number, features.shape[1]), np.nan)
    spread = np.full(number, np.nan)
    for at in np.flatnonzero(count):
        members = features[label == at]
        centroids[at] = members.mean(axis=0)
        spread[at] = np.linalg.norm(members - centroids[at], axis=1).mean()
    between = np.linalg.norm(centroids[:, None] - centroids[None], axis=2)
    return Distances(between, spread, count)


def view(predictions: SavedPredictions, prefix: str) -> dict[str, Any]:
    """Template data of the section on class distances: sentence, tables and heat map, or a note why there are none.

    Args:
      predictions: predictions of one split.
      prefix: start of the ids in the figure, unique on the page.
    """
    import markupsafe

    split, classes = wording.split_name(predictions.split), predictions.classes
    if predictions.features is None:
        return {"note": "The predictions have no features, or some features are not finite."}
    distances = measure(predictions.features, predictions.label, len(classes))
    if np.count_nonzero(distances.count) < 2:
        return {"note": f"The {split} split has images of one class only, so there are no distances between classes."}
    if not distances.unit > 0:
        return {"note": "All images of a class have the same features, so there is no spread to scale distances by."}
    between, spread = distances.between / distances.unit, distances.spread / distances.unit
    apart = np.where(np.eye(len(classes), dtype=bool), np.nan, between)
    present = np.flatnonzero(distances.count)
    nearest = {int(at): int(np.nanargmin(apart[at])) for at in present}
    first = min(nearest, key=lambda at: apart[at, nearest[at]])
    sentence = (
        f"Closest pair: “{classes[first]}” and “{classes[nearest[first]]}”, "
        f"{wording.number(float(apart[first, nearest[first]]), 2)} apart."
    )
    return {
        "note": "",
        "words": sentence,
        "unit": wording.number(distances.unit),
        "rows": [
            {
                "class": name,
                "images": int(distances.count[at]),
                "spread": wording.number(float(spread[at]), 2),
                "nearest": classes[nearest[at]] if at in nearest else wording.MISSING,
                "distance": wording.number(float(apart[at, nearest[at]]), 2) if at in nearest else wording.MISSING,
            }
            for at, name in enumerate(classes)
        ],
        "matrix": [
            {"class": name, "cells": [wording.number(float(value), 2) for value in between[at]]}
            for at, name in enumerate(classes)
        ],
        "classes": classes,
        "svg": markupsafe.Markup(
            _heat_map(apart, spread, classes, prefix, f"Class distances, {split} split. {sentence}")
        ),
        "csv": Table(
            f"class_distances_{predictions.split}",
            f"class distances of the {split} split",
            ("class", "images", "spread", *classes),
            [
                (name, int(distances.count[at]), float(spread[at]), *map(float, between[at]))
                for at, name in enumerate(classes)
            ],
        ),
    }


def _heat_map(apart: np.ndarray, spread: np.ndarray, classes: tuple[str, ...], prefix: str, alternative: str) -> str:
    """Draws the distances as a heat map, closer pairs in a stronger colour, with framed spreads on the diagonal."""
    number = len(classes)
    closest, farthest = np.nanmin(apart), np.nanmax(apart)
    names = [printable(name if len(name) <= 22 else name[:21] + "…") for name in classes]

    def draw(axes: "Axes") -> None:
        for row, column in np.ndindex(number, number):
            value = spread[row] if row == column else apart[row, column]
            if not np.isfinite(value):
                continue
            closeness = (farthest - value) / (farthest - closest) if farthest > closest else 1.0
            style: dict[str, Any] = {
                "color": figures.SERIES[1],
                "alpha": round(0.06 + 0.6 * closeness, 3),
                "linewidth": 0,
            }
            if row == column:
                style = {"facecolor": "none", "edgecolor": figures.SERIES[0], "linewidth": 1.2}
            low, high = (0.06, 0.94) if row == column else (0.02, 0.98)
            axes.fill(
                column + np.array([low, high, high, low]), row + np.array([low, low, high, high]), zorder=2, **style
            )
            if number <= MOST_NUMBERS:
                text = wording.number(float(value), 2 if number <= 8 else 1)
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=figures.TEXT)
        axes.set(xlim=(0, number), ylim=(number, 0))
        axes.set_xticks(np.arange(number) + 0.5, names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(number) + 0.5, names)
        axes.grid(False)
        axes.spines[:].set_visible(False)

    side = min(6.0, 1.6 + 0.5 * number)
    return figures.svg(draw, prefix, alternative, (side + 1.0, side))
