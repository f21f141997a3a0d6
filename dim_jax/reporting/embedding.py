"""The features of one split in three dimensions by t-SNE: a figure that can be turned, and a still one for paper."""

import html
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dim_jax.cli.command_line import printable
from dim_jax.reporting import figures, wording
from dim_jax.reporting.predictions import SavedPredictions
from dim_jax.reporting.tables import Table

if TYPE_CHECKING:
    from dim_jax.reporting.figures import Axes

MOST_POINTS, FEWEST_POINTS = 2000, 10  # 2000 points take about half a minute on one core
PERPLEXITY, SEED = 30.0, 0
# Beyond six classes colours repeat, so shapes change. plotly takes them from a font, and its crosses are in few fonts.
RIGHT, WRONG = ("circle", "square", "circle-open"), ("diamond", "diamond-open", "square-open")


@dataclass(frozen=True)
class Embedding:
    """Points in three dimensions.

    Attributes:
      place: which of the N images each point is, (M,), ascending.
      points: coordinates, (M, 3), centred.
      perplexity: about how many neighbours of each point were asked to stay its neighbours.
    """

    place: np.ndarray
    points: np.ndarray
    perplexity: float


def sample(label: np.ndarray, most: int) -> np.ndarray:
    """Returns at most `most` places (and one more per class) of `label` (N,), the same share of every class."""
    if len(label) <= most:
        return np.arange(len(label))
    rng = np.random.default_rng(SEED)
    chosen = []
    for number in np.unique(label):
        places = np.flatnonzero(label == number)
        chosen.append(rng.choice(places, math.ceil(len(places) * most / len(label)), replace=False))
    return np.sort(np.concatenate(chosen))


def embed(features: np.ndarray, label: np.ndarray, most: int = MOST_POINTS) -> Embedding | str:
    """Embeds features by t-SNE after standardising each; equal features give equal points.

    Args:
      features: (N, F), finite.
      label: classes, (N,); they only decide which images are taken when there are more than `most`.
      most: points.

    Returns:
      The points, or a sentence on why there are none.

    Reference: van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008.
    """
    if len(features) < FEWEST_POINTS or not features.size:
        return f"A t-SNE of {len(features)} images shows nothing; it takes at least {FEWEST_POINTS} with features."
    place = sample(label, most)
    values = features[place].astype(np.float64)
    deviation = values.std(axis=0)
    # Deviations of constant features are rounding, and dividing by them would make noise of it.
    varies = deviation > 1e-6 * max(1e-30, np.abs(values).max())
    if not varies.any():
        return "The features are the same for all images, so there is nothing to embed."
    values = (values[:, varies] - values[:, varies].mean(axis=0)) / deviation[varies]
    if values.shape[1] < 3:
        values = np.pad(values, ((0, 0), (0, 3 - values.shape[1])))

    import threadpoolctl
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(place) - 1) / 3)
    # Sums over several threads differ in their last bits, and t-SNE makes those visible.
    with threadpoolctl.threadpool_limits(1):
        method = TSNE(n_components=3, init="pca", perplexity=perplexity, random_state=SEED)
        points = method.fit_transform(values.astype(np.float32))
    return Embedding(place, points - points.mean(axis=0), perplexity)


def view(predictions: SavedPredictions, prefix: str) -> dict[str, Any]:
    """Returns the embedding as words, a figure for plotly, a still one and a table; a note where there is none."""
    import markupsafe

    if predictions.features is None:
        return {"note": "There are no features in the predictions, or some are not finite."}
    found = embed(predictions.features, predictions.label)
    if isinstance(found, str):
        return {"note": found}
    split, number = wording.split_name(predictions.split), len(predictions.label)
    shown = f"{len(found.place)} of {number} {split} images, the same share of every class"
    shown = shown if len(found.place) < number else f"{number} {split} images"
    wrong = int((predictions.predicted != predictions.label)[found.place].sum())
    alternative = (
        f"t-SNE of the features of {shown}, coloured by true class; {wrong} predicted wrongly are open diamonds. "
        "The first two of three dimensions."
    )
    return {
        "note": "",
        "shown": shown,
        "perplexity": f"{found.perplexity:.3g}",
        "id": f"{prefix}cloud",
        "figure": script_safe(plotly_figure(predictions, found)),
        "still": markupsafe.Markup(_still(predictions, found, prefix, alternative)),
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
                for at, point in zip(found.place, found.points, strict=True)
            ],
        ),
    }


def plotly_figure(predictions: SavedPredictions, embedding: Embedding) -> dict[str, Any]:
    """Returns a plotly figure whose colours are names of the page's CSS variables, for embedding.js to look up."""
    predicted, probability = predictions.predicted, predictions.probability
    traces = []
    for at, name in enumerate(predictions.classes):
        of_class = predictions.label[embedding.place] == at
        right = predicted[embedding.place] == at
        for symbols, matches in ((RIGHT, right), (WRONG, ~right)):
            chosen = np.flatnonzero(of_class & matches)
            if not len(chosen):
                continue
            places = embedding.place[chosen]
            traces.append(
                {
                    "type": "scatter3d",
                    "mode": "markers",
                    "name": literal(name),
                    "legendgroup": str(at),
                    "showlegend": symbols is RIGHT or not (of_class & right).any(),
                    **{
                        axis: [round(float(value), 2) for value in embedding.points[chosen, number]]
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
    """Returns a name such that plotly shows it as it is: its labels take some HTML, entities and %{templates}."""
    return html.escape(printable(name), quote=False).replace("%{", "%&#123;")


def script_safe(value: Any) -> Any:
    """Returns JSON as markup for the inside of a script element: no name can end the element or begin a comment."""
    import markupsafe

    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return markupsafe.Markup(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026"))


def _still(predictions: SavedPredictions, embedding: Embedding, prefix: str, alternative: str) -> str:
    """Draws the first two dimensions: dots for right predictions, diamonds for wrong ones."""
    x, y = embedding.points[:, 0], embedding.points[:, 1]
    right = (predictions.predicted == predictions.label)[embedding.place]
    arm = 0.009 * max(np.ptp(x), np.ptp(y), 1e-9)
    # One path for all marks of a class, each a stroke closed by a gap: a tenth of the size of markers, which are
    # elements of their own. A dot is a hardly visible stroke with round ends.
    dot = np.array([(-0.02, 0), (0.02, 0), (np.nan, np.nan)])
    diamond = np.array([(-1, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (np.nan, np.nan)])

    def draw(axes: "Axes") -> None:
        for at in range(len(predictions.classes)):
            of_class = predictions.label[embedding.place] == at
            colour = figures.SERIES[at % len(figures.SERIES)]
            for mark, chosen, width in ((dot, of_class & right, 3.4), (diamond, of_class & ~right, 1.2)):
                across = x[chosen][:, None] + arm * mark[:, 0]
                up = y[chosen][:, None] + arm * mark[:, 1]
                axes.plot(across.ravel(), up.ravel(), color=colour, linewidth=width, solid_capstyle="round")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)

    return figures.svg(draw, prefix, alternative, (5.4, 4.2), {"path.simplify": False})
