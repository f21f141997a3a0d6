"""Page of one run, or of several runs with a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dim_jax.reporting import comparison, gan_view, pages, run_directory, run_view, tables
from dim_jax.reporting.tables import Table


def render(folders: Mapping[str, Path]) -> tuple[str, list[list[Table]], list[str]]:
    """HTML page of runs, and its tables.

    Args:
      folders: name of a run -> its run directory, as returned by `curves.run_directories`.

    Returns:
      A complete HTML document; the tables of each section; and the names of the sections, which are "comparison" for
      several runs and the name of each run.
    """
    runs = [run_directory.read(name, folder) for name, folder in folders.items()]
    views = [
        tables.owned((gan_view if run.generator else run_view).view(number, run), run.name)
        for number, run in enumerate(runs, start=1)
    ]
    compared = tables.owned(comparison.view(runs), "comparison") if len(runs) > 1 else None
    sections = [("comparison", compared)] if compared else []
    sections += [(view["name"], view) for view in views]
    names, contents = [name for name, _ in sections], [tables.collect(section) for _, section in sections]
    return _page(views, compared), contents, names


def _page(views: Sequence[dict[str, Any]], compared: dict[str, Any] | None) -> str:
    scripts = _scripts() if any("figure" in view.get("embedding", {}) for view in views) else []
    template = pages.environment().get_template("page.html")
    page = template.render(runs=views, comparison=compared, scripts=scripts)
    return page.strip() + "\n"


def _scripts() -> list[dict[str, Any]]:
    """Returns plotly.js, from the plotly package, and embedding.js."""
    from plotly.offline import get_plotlyjs

    return [pages.script(get_plotlyjs()), pages.script_file("embedding.js")]
