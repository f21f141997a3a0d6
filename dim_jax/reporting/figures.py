"""Matplotlib figures as inline SVG, coloured by the CSS variables of the page."""

import io
import math
import re
import threading
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

# Placeholder colours, replaced by CSS variables that the page defines for light, dark and print.
INK, GRID, TEXT = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{number:02x}" for number in range(6))
VARIABLES = {INK: "var(--ink-soft)", GRID: "var(--line)", TEXT: "var(--ink)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.5), (7, 2, 1.5, 2))
BEYOND_AXES = 1e300  # larger values would overflow the length of the axis
MOST_POINTS, MOST_MARKERS = 300, 40
SIZE = (3.9, 2.5)  # inches; makes 9-point text about 11 pixels high on the page
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dim_jax",
    "text.usetex": False,
    "text.parse_math": False,  # names come from the data: "$x_{" is a name, not a formula
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
_DRAWING = threading.Lock()  # the settings of matplotlib belong to the whole process
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Line:
    """A curve: `x` and `y` of equal length, index of its colour (0 to 5) and of its dash pattern (0 to 3)."""

    x: np.ndarray
    y: np.ndarray
    colour: int = 0
    dash: int = 0
    markers: bool = False


def style(number: int) -> dict[str, int]:
    """Colour and dash pattern of run `number`; the first 24 are distinct, and neighbours differ without colour too."""
    return {"colour": number % len(SERIES), "dash": (number + number // 12) % len(DASHES)}


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Downsamples a curve of more than `most` points to the means of `most` equal blocks, which bounds the page's size.

    Args:
      x, y: coordinates, (N,).
      most: largest number of points.
    """
    if len(x) <= most:
        return x, y
    blocks = np.array_split(np.arange(len(x)), most)
    return np.array([x[block].mean() for block in blocks]), np.array([y[block].mean() for block in blocks])


def curves(lines: Sequence[Line], x_label: str, prefix: str, alternative: str, marked: Mapping[float, int]) -> str:
    """Line plot over steps, epochs or another quantity.

    Args:
      lines: the curves; points that are not finite or exceed BEYOND_AXES are left out.
      x_label: label of the horizontal axis.
      prefix: start of the ids in the SVG, unique on the page.
      alternative: text alternative for screen readers.
      marked: x position of each vertical line -> index of its colour.

    Returns:
      An `<svg>` element.
    """

    def draw(axes: "Axes") -> None:
        for line in lines:
            finite = np.isfinite(line.x) & (np.abs(line.y) < BEYOND_AXES)
            x, y = thin(line.x[finite], line.y[finite])
            dotted = len(x) == 1 or (line.markers and len(x) <= MOST_MARKERS)
            dots: dict[str, Any] = {"marker": "o", "markersize": 2.6} if dotted else {}
            dashes: dict[str, Any] = {"dashes": DASHES[line.dash]} if DASHES[line.dash] else {}
            axes.plot(x, y, color=SERIES[line.colour], linewidth=1.5, **dots, **dashes)
        for position, colour in marked.items():
            axes.axvline(position, color=SERIES[colour], linewidth=1, dashes=(3, 2), alpha=0.8)
        axes.set_xlabel(printable(x_label))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")

    return svg(draw, prefix, alternative)


def reliability(bins: Sequence[Mapping[str, Any]], prefix: str, alternative: str) -> str:
    """Reliability diagram: accuracy against confidence; the area of a dot grows with the number of images in the bin.

    Args:
      bins: dicts of `confidence` and `accuracy` (in [0, 1]) and `count`; invalid bins are left out.
      prefix, alternative: as for `curves`.

    Returns:
      An `<svg>` element.

    Reference: Guo et al., "On calibration of modern neural networks", ICML 2017, figure 1.
    """
    triples = [[item.get(name) for name in ("confidence", "accuracy", "count")] for item in bins]
    points = [triple for triple in triples if _is_point(*triple)]

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, dashes=(3, 2))
        if points:
            confidence, accuracy, count = np.array(points, np.float64).T
            axes.vlines(confidence, confidence, accuracy, color=SERIES[1], linewidth=1.2)
            axes.plot(confidence, accuracy, color=SERIES[0], linewidth=1)
            axes.scatter(confidence, accuracy, s=8 + 72 * count / count.max(), color=SERIES[0], zorder=3)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.04, 1.04), xlabel="confidence", ylabel="accuracy")

    return svg(draw, prefix, alternative)


def _is_point(confidence: Any, accuracy: Any, count: Any) -> bool:
    are_numbers = all(is_number(value) for value in (confidence, accuracy, count))
    return are_numbers and 0 <= confidence <= 1 and 0 <= accuracy <= 1 and 0 < count < LARGEST_NUMBER


def colour_map(name: str) -> np.ndarray:
    """RGB values of a matplotlib colour map, uint8 (256, 3)."""
    import matplotlib

    return (255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).round().astype(np.uint8)


def svg(
    draw: Callable[["Axes"], None],
    prefix: str,
    alternative: str,
    size: tuple[float, float] = SIZE,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """SVG of a figure with one pair of axes.

    Args:
      draw: draws on the axes, using only the colours INK, GRID, TEXT and SERIES, and `printable` names.
      prefix, alternative: as for `curves`.
      size: width and height in inches; suits 9-point text on a figure shown at 96 pixels per inch.
      settings: further matplotlib settings for this figure.

    Returns:
      An `<svg>` element.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # A figure and canvas of our own instead of pyplot leave a notebook's figures and backend unchanged.
    with _DRAWING, matplotlib.rc_context({**SETTINGS, **dict[Any, Any](settings or {})}), warnings.catch_warnings():
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
    """Returns the figure as an `<svg>` element for a page with other figures: prefixed ids, no metadata, no URLs."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    used = set(re.findall(r"""["( ]#([\w.-]+)[")]""", buffer.getvalue().decode("utf-8")))
    for parent in root.iter():
        for child in list(parent):
            # The style sheet would apply to the whole page; the metadata contain matplotlib's name and URLs.
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
        # The layout was measured with DejaVu Sans; Verdana has nearly the same widths.
        value = value.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif").replace(", sans-serif,", ",")
    return value


def _rounded(number: str) -> str:
    value = round(float(number), 2)
    return f"{value:g}" if math.isfinite(value) and abs(value) < 1e5 else number
