"""Turns run directories into one HTML page that needs nothing but itself: `python -m dim_jax.report runs/a runs/b`."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dim_jax.reporting import comparison, experiment_page, gan_view, pages, run_directory, run_view, tables
from dim_jax.reporting.curves import run_directories
from dim_jax.runs import files


def render_report(runs: Sequence[str | Path]) -> str:
    """Returns the page about the given run directories.

    Args:
      runs: run directories, finished or not. With several, a comparison comes first.

    Returns:
      A whole HTML document. Equal files give an equal page: no time of writing is in it.

    Raises:
      FileNotFoundError: a path is not a run directory.
      ValueError: a run is given twice, or none is given.
    """
    return _page(*_views(runs))


def write_report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Writes the page about `runs` and beside it, in the folder <page>_data, the numbers of every figure as CSV.

    Args:
      runs: as for `render`.
      out: the page to write (default: report.html in the first run).

    Returns:
      The path of the page. Each file is written atomically, the page last; CSV files of an earlier report that this
      one does not have are removed.

    Raises:
      FileNotFoundError: a path is not a run directory; nothing is written then.
      ValueError: a run is given twice, or `out` is a folder.
    """
    folders = list(run_directories(runs).values())
    experiments = [folder for folder in folders if _is_experiment(folder)]
    if experiments and len(folders) > 1:
        raise ValueError(f"{experiments[0]} is an experiment, which has a page of its own; give it alone")
    path = folders[0] / "report.html" if out is None else Path(out)
    if path.is_dir():
        raise ValueError(f"--out={out} is a folder; give the name of a file, for example {path / 'report.html'}")
    if experiments:
        page, contents, names = experiment_page.render(folders[0])
    else:
        views, compared = _views(runs)
        page = _page(views, compared)
        groups = [("comparison", compared)] if compared else []
        groups += [(view["name"], view) for view in views]
        names, contents = [name for name, _ in groups], [tables.collect(view) for _, view in groups]
    stems = tables.unique_stems(names)
    tables.write(path.with_name(f"{path.stem}_data"), dict(zip(stems, contents, strict=True)))
    return files.write_text(path, page)


def _is_experiment(folder: Path) -> bool:
    try:
        return files.read_object(folder / "config.json").get("trainer") == "experiment"
    except (OSError, ValueError):  # the page says so
        return False


def _views(runs: Sequence[str | Path]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Returns what the page shows of each run, and of all together when there are several."""
    read = [run_directory.read(name, folder) for name, folder in run_directories(runs).items()]
    views = [
        tables.owned((gan_view if run.is_gan else run_view).view(number, run), run.name)
        for number, run in enumerate(read, start=1)
    ]
    return views, tables.owned(comparison.view(read), "comparison") if len(read) > 1 else None


def _page(views: Sequence[dict[str, Any]], compared: dict[str, Any] | None) -> str:
    scripts = _scripts() if any("figure" in view.get("embedding", {}) for view in views) else []
    template = pages.environment().get_template("page.html")
    page = template.render(runs=views, comparison=compared, scripts=scripts)
    return page.strip() + "\n"


def _scripts() -> list[dict[str, Any]]:
    """Returns plotly.js, which lies within the Python package, and our use of it, with the digests that allow them."""
    import markupsafe
    from plotly.offline import get_plotlyjs

    ours = resources.files("dim_jax.reporting").joinpath("templates/embedding.js").read_text(encoding="utf-8")
    return [
        {
            "text": markupsafe.Markup(text),
            "digest": base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii"),
        }
        for text in (get_plotlyjs(), ours)
    ]
