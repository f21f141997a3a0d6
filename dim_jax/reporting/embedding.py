"""t-SNE of the features of one split in three dimensions: an interactive figure, and a static one for print."""

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dim_jax.cli.command_line import printable
from dim_jax.reporting import figures, pages, wording
from dim_jax.reporting.predictions import SavedPredictions
from dim_jax.reporting.tables import Table

if TYPE_CHECKING:
    from dim_jax.reporting.figures import Axes

MOST_POINTS, FEWEST_POINTS = 2000, 10  # 2000 points take about half a minute on one core
PERPLEXITY, SEED = 30.0, 0
# Colours repeat after six classes, so the symbols change. plotly draws symbols as text, and few fonts have its crosses.
RIGHT, WRONG = ("circle", "square", "circle-open"), ("diamond", "diamond-open", "square-open")


@dataclass(frozen=True)
class Embedding:
    """A three-dimensional embedding of M of N images.

    Attributes:
      place: index of the image of each point, (M,) int in [0, N), ascending.
      points: centred coordinates, (M, 3).
      perplexity: effective number of neighbours of each point in the t-SNE.
    """

    place: np.ndarray
    points: np.ndarray
    perplexity: float


def sample(label: np.ndarray, most: int) -> np.ndarray:
    """Stratified random sample of images, with the same share of each class.

    Args:
      label: classes, (N,) int.
      most: size of the sample; rounding can add one image per class.

    Returns:
      Ascending indices of the sampled images; all N if N <= most.
    """
    if len(label) <= most:
        return np.arange(len(label))
    rng = np.random.default_rng(SEED)
    samples = []
    for number in np.unique(label):
        places = np.flatnonzero(label == number)
        samples.append(rng.choice(places, math.ceil(len(places) * most / len(label)), replace=False))
    return np.sort(np.concatenate(samples))


def embed(features: np.ndarray, label: np.ndarray, most: int = MOST_POINTS) -> Embedding | str:
    """t-SNE of standardised features in three dimensions; deterministic.

    Args:
      features: (N, F), finite.
      label: classes, (N,) int; used only to sample images if N > most.
      most: largest number of points.

    Returns:
      The embedding, or a sentence why there is none.

    Reference: van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008.
    """
    if len(features) < FEWEST_POINTS or not features.size:
        return f"There is no t-SNE of {len(features)} images; it needs at least {FEWEST_POINTS} images with features."
    place = sample(label, most)
    values = features[place].astype(np.float64)
    deviation = values.std(axis=0)
    # The deviation of a constant feature is a rounding error; dividing by it would amplify noise.
    varies = deviation > 1e-6 * max(1e-30, np.abs(values).max())
    if not varies.any():
        return "The features are the same for all images, so there is nothing to embed."
    values = (values[:, varies] - values[:, varies].mean(axis=0)) / deviation[varies]
    if values.shape[1] < 3:
        values = np.pad(values, ((0, 0), (0, 3 - values.shape[1])))

    import threadpoolctl
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(place) - 1) / 3)
    # Sums over several threads differ in their last bits, and t-SNE amplifies such differences.
    with threadpoolctl.threadpool_limits(1):
        method = TSNE(n_components=3, init="pca", perplexity=perplexity, random_state=SEED)
        points = method.fit_transform(values.astype(np.float32))
    return Embedding(place, points - points.mean(axis=0), perplexity)


def view(predictions: SavedPredictions, prefix: str) -> dict[str, Any]:
    """Template data of the t-SNE section: texts, plotly figure, static figure and table, or a note why there is none.

    Args:
      predictions: predictions of one split.
      prefix: start of the ids in the static figure, unique on the page.
    """
    import markupsafe

    if predictions.features is None:
        return {"note": "The predictions have no features, or some features are not finite."}
    embedding = embed(predictions.features, predictions.label)
    if isinstance(embedding, str):
        return {"note": embedding}
    split, number = wording.split_name(predictions.split), len(predictions.label)
    images = f"{len(embedding.place)} of {number} {split} images, the same share of every class"
    images = images if len(embedding.place) < number else f"{number} {split} images"
    num_wrong = int((predictions.predicted != predictions.label)[embedding.place].sum())
    alternative = (
        f"t-SNE of the features of {images}, coloured by true class; open diamonds: {num_wrong} wrong predictions. "
        "First two of three dimensions."
    )
    return {
        "note": "",
        "shown": images,
        "perplexity": f"{embedding.perplexity:.3g}",
        "id": f"{prefix}cloud",
        "figure": pages.script_safe(plotly_figure(predictions, embedding)),
        "static": markupsafe.Markup(_static_figure(predictions, embedding, prefix, alternative)),
        "colours": [
            {"class": name, "colour": at % len(figures.SERIES), "symbol": (at // len(figures.SERIES)) % len(RIGHT)}
            for at, name in enumerate(predictions.classes)
            if (predictions.label == at).any()
        ],
        "csv": Table(
            f"t_sne_{predictions.split}",
            f"t-SNE of the {split} split",
            ("image", "true class", "predicted class", "probability", "x", "y", "z"),
            [
                (
                    predictions.names[at],
                    predictions.classes[predictions.label[at]],
                    predictions.classes[predictions.predicted[at]],
                    float(predictions.probability[at]),
                    *(round(float(value), 3) for value in point),
                )
                for at, point in zip(embedding.place, embedding.points, strict=True)
            ],
        ),
    }


def plotly_figure(predictions: SavedPredictions, embedding: Embedding) -> dict[str, Any]:
    """Plotly figure of the embedding; its colours are CSS variables of the page, which embedding.js resolves."""
    predicted, probability = predictions.predicted, predictions.probability
    traces = []
    for at, name in enumerate(predictions.classes):
        of_class = predictions.label[embedding.place] == at
        is_correct = predicted[embedding.place] == at
        for symbols, matches in ((RIGHT, is_correct), (WRONG, ~is_correct)):
            rows = np.flatnonzero(of_class & matches)
            if not len(rows):
                continue
            places = embedding.place[rows]
            traces.append(
                {
                    "type": "scatter3d",
                    "mode": "markers",
                    "name": literal(name),
                    "legendgroup": str(at),
                    "showlegend": symbols is RIGHT or not (of_class & is_correct).any(),
                    **{
                        axis: [round(float(value), 2) for value in embedding.points[rows, number]]
                        for number, axis in enumerate("xyz")
                    },
                    "text": [
                        f"{literal(predictions.names[place])}<br>{literal(name)} → "
                        f"{literal(predictions.classes[predicted[place]])} ({wording.number(probability[place], 2)})"
                        for place in places
                    ],
                    "hoverinfo": "text",
                    "marker": {
                        "size": 4 if symbols is RIGHT else 5.5,
                        "symbol": symbols[(at // len(figures.SERIES)) % len(symbols)],
                        "color": f"var(--series-{at % len(figures.SERIES)})",
                        "opacity": 0.9,
                        "line": {"color": "var(--ink)", "width": 0 if symbols is RIGHT else 1},
                    },
                }
            )
    axis = {
        "title": {"text": ""},
        "showticklabels": False,
        "showspikes": False,
        "zeroline": False,
        "showbackground": False,
        "gridcolor": "var(--line)",
        "linecolor": "var(--line)",
    }
    return {
        "data": traces,
        "layout": {
            "scene": {
                **{f"{name}axis": axis for name in "xyz"},
                "aspectmode": "data",
                "bgcolor": "rgba(0,0,0,0)",
                "camera": {"eye": {"x": 1.05, "y": 1.05, "z": 0.7}},
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "font": {"color": "var(--ink)", "size": 12},
            "legend": {"orientation": "h", "y": 0, "yanchor": "top", "x": 0, "itemsizing": "constant"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--ink-soft)", "activecolor": "var(--accent)"},
            "hoverlabel": {
                "bgcolor": "var(--card)",
                "bordercolor": "var(--line)",
                "font": {"color": "var(--ink)", "size": 12},
                "align": "left",
            },
        },
    }


def literal(name: str) -> str:
    """Escapes a name for plotly, whose labels interpret some HTML, entities and %{templates}."""
    return html.escape(printable(name), quote=False).replace("%{", "%&#123;")


def _static_figure(predictions: SavedPredictions, embedding: Embedding, prefix: str, alternative: str) -> str:
    """Draws the first two dimensions: dots for correct predictions, diamonds for wrong ones."""
    x, y = embedding.points[:, 0], embedding.points[:, 1]
    is_correct = (predictions.predicted == predictions.label)[embedding.place]
    radius = 0.009 * max(np.ptp(x), np.ptp(y), 1e-9)
    # One path with gaps draws all marks of a class: a tenth of the size of matplotlib's markers, which are an SVG
    # element each. A dot is a very short stroke with round ends.
    dot = np.array([(-0.02, 0), (0.02, 0), (np.nan, np.nan)])
    diamond = np.array([(-1, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (np.nan, np.nan)])

    def draw(axes: "Axes") -> None:
        for at in range(len(predictions.classes)):
            of_class = predictions.label[embedding.place] == at
            colour = figures.SERIES[at % len(figures.SERIES)]
            for mark, rows, width in ((dot, of_class & is_correct, 3.4), (diamond, of_class & ~is_correct, 1.2)):
                mark_x = x[rows][:, None] + radius * mark[:, 0]
                mark_y = y[rows][:, None] + radius * mark[:, 1]
                axes.plot(mark_x.ravel(), mark_y.ravel(), color=colour, linewidth=width, solid_capstyle="round")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)

    return figures.svg(draw, prefix, alternative, (5.4, 4.2), {"path.simplify": False})
