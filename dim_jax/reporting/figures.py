"""Figures of the report: matplotlib drawings as inline SVG that takes its colours from the page around it."""

import io
import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dim_jax.cli.command_line import printable
from dim_jax.reporting.run_directory import LARGEST_NUMBER
from dim_jax.runs.metrics_file import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that only stand for a CSS variable of the page, which has one value for light, one for dark and one for paper.
INK, GRID, TEXT = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{number:02x}" for number in range(6))
VARIABLES = {INK: "var(--ink-soft)", GRID: "var(--line)", TEXT: "var(--ink)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.5), (7, 2, 1.5, 2))
BEYOND_AXES = 1e300  # the length of an axis must be a number too
MOST_POINTS, MOST_MARKERS = 300, 40
SIZE = (3.9, 2.5)  # inches; 9-point text is then about 11 pixels high where the page shows the figure
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dim_jax",
    "text.usetex": False,
    "text.parse_math": False,  # names come from the data: "$x_{" is a name and no formula
    "axes.unicode_minus": False,
    "axes.formatter.use_mathtext": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.linewidth": 0.8,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": True,
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Line:
    """One curve: `x` and `y` of equal length, drawn in colour `colour` (0 to 5) with dash pattern `dash` (0 to 3)."""

    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    dash: int = 0
    markers: bool = False


def style(number: int) -> dict[str, int]:
    """Returns the colour and dash pattern of run `number`: 24 different ones, told apart without colour as well."""
    return {"colour": number % len(SERIES), "dash": (number + number // 12) % len(DASHES)}


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Replaces more than `most` points by the means of `most` equal blocks, so that long runs do not swell the page."""
    if len(x) <= most:
        return x, y
    blocks = np.array_split(np.arange(len(x)), most)
    return np.array([x[block].mean() for block in blocks]), np.array([y[block].mean() for block in blocks])


def curves(lines: Sequence[Line], x_label: str, prefix: str, alternative: str, marked: Mapping[float, int]) -> str:
    """Draws lines over steps or epochs.

    Args:
      lines: the curves; points that are not finite, or too far to draw an axis to, are left out.
      x_label: text below the horizontal axis.
      prefix: start of the SVG's ids, different for every figure of a page.
      alternative: the figure in words, for those who cannot see it.
      marked: places on the horizontal axis to mark by a vertical line, and the colour of each.

    Returns:
      An `<svg>` element.
    """

    def draw(axes: "Axes") -> None:
        for line in lines:
            finite = np.isfinite(line.x) & (np.abs(line.y) < BEYOND_AXES)
            x, y = thin(line.x[finite], line.y[finite])
            dotted = len(x) == 1 or (line.markers and len(x) <= MOST_MARKERS)
            dots = {"marker": "o", "markersize": 2.6} if dotted else {}
            dashes = {"dashes": DASHES[line.dash]} if DASHES[line.dash] else {}
            axes.plot(x, y, color=SERIES[line.colour], linewidth=1.5, **dots, **dashes)
        for place, colour in marked.items():
            axes.axvline(place, color=SERIES[colour], linewidth=1, dashes=(3, 2), alpha=0.8)
        axes.set_xlabel(printable(x_label))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")

    return svg(draw, prefix, alternative)


def reliability(bins: Sequence[Mapping[str, Any]], prefix: str, alternative: str) -> str:
    """Draws accuracy against confidence, the areas of the dots growing with the number of images in each bin.

    Args:
      bins: dicts of `confidence`, `accuracy` (each in [0, 1]) and `count`; what is not one is left out.
      prefix, alternative: as for `curves`.

    Returns:
      An `<svg>` element.
    """
    found = [[item.get(name) for name in ("confidence", "accuracy", "count")] for item in bins]
    points = [point for point in found if _is_point(*point)]

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, dashes=(3, 2))
        if points:
            confidence, accuracy, count = np.array(points, np.float64).T
            axes.vlines(confidence, confidence, accuracy, color=SERIES[1], linewidth=1.2)
            axes.plot(confidence, accuracy, color=SERIES[0], linewidth=1)
            axes.scatter(confidence, accuracy, s=8 + 72 * count / count.max(), color=SERIES[0], zorder=3)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), xlabel="confidence", ylabel="share correct")

    return svg(draw, prefix, alternative)


def _is_point(confidence: Any, accuracy: Any, count: Any) -> bool:
    are_numbers = all(is_number(value) for value in (confidence, accuracy, count))
    return are_numbers and 0 <= confidence <= 1 and 0 <= accuracy <= 1 and 0 < count < LARGEST_NUMBER


def colour_map(name: str) -> np.ndarray:
    """Returns the 256 colours of a matplotlib colour map, uint8 of shape (256, 3)."""
    import matplotlib

    return (255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).round().astype(np.uint8)


def svg(
    draw: Callable[["Axes"], None],
    prefix: str,
    alternative: str,
    size: tuple[float, float] = SIZE,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Draws one pair of axes.

    Args:
      draw: draws on matplotlib axes, in the colours INK, GRID, TEXT and SERIES only, with `printable` names.
      prefix, alternative: as for `curves`.
      size: width and height in inches; 9-point text suits a figure shown at 96 pixels an inch.
      settings: matplotlib settings of this figure only.

    Returns:
      An `<svg>` element.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # An own figure and canvas, never pyplot: a notebook's figures and backend stay as they are.
    with matplotlib.rc_context({**SETTINGS, **(settings or {})}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*missing from font", category=UserWarning)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(True)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        draw(axes)
        return _inline(figure, prefix, alternative)


def _inline(figure: "Figure", prefix: str, alternative: str) -> str:
    """Returns the figure as an `<svg>` element that shares a page with others: own ids, no metadata, no addresses."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    used = set(re.findall(r"""["( ]#([\w.-]+)[")]""", buffer.getvalue().decode("utf-8")))
    for parent in root.iter():
        for child in list(parent):
            # The style sheet would reach into the whole page; the metadata are matplotlib's name and web addresses.
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
        for child in list(parent):
            if child.tag == f"{{{SVG}}}defs" and not len(child):
                parent.remove(child)
    for element in root.iter():
        if element.text and not element.text.strip():
            element.text = None
        element.tail = None
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        attributes = {name.removeprefix(f"{{{XLINK}}}"): value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({name: _attribute(name, value, prefix) for name, value in attributes.items()})
        if attributes.get("id") not in used:
            element.attrib.pop("id", None)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", printable(alternative))
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href":
        return "#" + prefix + value.removeprefix("#")
    if name == "d":
        return re.sub(r"-?\d+\.\d+", lambda number: f"{_rounded(number.group())}", " ".join(value.split()))
    value = re.sub(r"url\(#", f"url(#{prefix}", value)
    if name == "style":
        value = re.sub(r"#[0-9a-f]{6}", lambda colour: VARIABLES.get(colour.group(), colour.group()), value)
        # The measured font first; Verdana has nearly its widths where it is missing.
        value = value.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif").replace(", sans-serif,", ",")
    return value


def _rounded(number: str) -> str:
    value = round(float(number), 2)
    return f"{value:g}" if math.isfinite(value) and abs(value) < 1e5 else number
