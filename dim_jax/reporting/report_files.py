"""Report of runs or of an experiment: a self-contained HTML page, and a folder of CSV tables beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dim_jax.reporting import experiment_page, run_page, tables
from dim_jax.reporting.curves import run_directories
from dim_jax.reporting.tables import Table
from dim_jax.runs import files, outputs


def render_report(runs: Sequence[str | Path]) -> str:
    """HTML page of runs, or of experiments.

    Args:
      runs: run directories, finished or not; several are compared. All or none of them must be experiments.

    Returns:
      A complete HTML document. Equal files give equal pages: it does not contain the time of writing.

    Raises:
      FileNotFoundError: a path is not a run directory, or an experiment has no results yet.
      ValueError: `runs` is empty, contains a run twice, or experiments and other runs.
    """
    return _render(run_directories(runs))[0]


def write_report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Writes the page, and the numbers of every figure and table as CSV into the folder <page>_data beside it.

    Args:
      runs: as for `render_report`.
      out: path of the page; None: report.html in the first run directory.

    Returns:
      The path of the page. Files are written atomically, the page last. CSV files of an earlier report that this report
      does not have are removed.

    Raises:
      FileNotFoundError: as for `render_report`; nothing is written.
      ValueError: as for `render_report`, or `out` is a folder or a file that is no report of an earlier call.
    """
    folders = run_directories(runs)
    path = next(iter(folders.values())) / "report.html" if out is None else Path(out)
    outputs.check(path, is_folder=False, example="report.html")
    data = path.with_name(f"{path.stem}_data")
    _check_page(path, data)
    page, contents, names = _render(folders)
    stems = tables.unique_stems(names)
    with files.turn(data):
        _check_page(path, data)
        tables.write(data, dict(zip(stems, contents, strict=True)))
        return files.write_text(path, page)


def _check_page(path: Path, data: Path) -> None:
    """Raises ValueError if there is a page that was not written together with the folder `data`."""
    files.check_replaceable([path], [path] if tables.has_contents(data) else [])


def _render(folders: Mapping[str, Path]) -> tuple[str, list[list[Table]], list[str]]:
    """Returns the page, the tables of each of its sections, and the names of the sections."""
    experiments = [folder for folder in folders.values() if _is_experiment(folder)]
    if experiments and len(experiments) < len(folders):
        raise ValueError(
            f"{experiments[0]} is an experiment, and others of the folders are single runs; give runs of one kind"
        )
    return experiment_page.render(folders) if experiments else run_page.render(folders)


def _is_experiment(folder: Path) -> bool:
    try:
        return files.read_object(folder / "config.json").get("trainer") == "experiment"
    except (OSError, ValueError):  # reported on the page
        return False
