"""Turns run directories into one HTML page that needs nothing but itself: `python -m dim_jax.report runs/a runs/b`."""

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dim_jax import command_line, files
from dim_jax.reporting.curves import load_curves, run_directories

__all__ = ["load_curves", "main", "render", "write"]

SUMMARY = """\
Writes one self-contained HTML page about one run or several side by side: data, learning curves, confusion matrices,
per-class results, examples, configuration and environment. The page opens offline and prints. A run that is not
finished or not tested yet is reported as far as it is."""
EXAMPLES = """\
  python -m dim_jax.report runs/a                                  # writes runs/a/report.html
  python -m dim_jax.report runs/ce runs/fafl --out=compare.html    # side by side, with what differs in configuration
"""


def render(runs: Sequence[str | Path]) -> str:
    """Returns the page about the given run directories.

    Args:
      runs: run directories, finished or not. With several, a comparison comes first.

    Returns:
      A whole HTML document. Equal files give an equal page: no time of writing is in it.

    Raises:
      FileNotFoundError: a path is not a run directory.
      ValueError: a run is given twice, or none is given.
    """
    import jinja2

    from dim_jax.reporting import comparison, figures, run_directory, run_view

    read = [run_directory.read(name, folder) for name, folder in run_directories(runs).items()]
    views = [run_view.view(number, run) for number, run in enumerate(read, start=1)]

    def shown(value: Any) -> Any:
        # Markup (figures, macros) is finished; all other text passes here on its way into the page.
        return value if hasattr(value, "__html__") else figures.printable(str(value))

    # Names come from folders and files, so everything is escaped unless the code says that it is markup.
    environment = jinja2.Environment(
        autoescape=True, finalize=shown, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(resources.files("dim_jax").joinpath("report.html").read_text(encoding="utf-8"))
    compared = comparison.view(read) if len(read) > 1 else None
    return template.render(runs=views, comparison=compared).strip() + "\n"


def write(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Writes the page about `runs` atomically to `out` (default: report.html in the first run) and returns its path.

    Raises:
      FileNotFoundError: a path is not a run directory; nothing is written then.
      ValueError: a run is given twice, or `out` is a folder.
    """
    folders = list(run_directories(runs).values())
    path = folders[0] / "report.html" if out is None else Path(out)
    if path.is_dir():
        raise ValueError(f"--out={out} is a folder; give the name of a file, for example {path / 'report.html'}")
    return files.write_text(path, render(runs))


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and writes the page."""
    parser = command_line.parser("report", SUMMARY, EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory, the --workdir of train")
    parser.add_argument("--out", metavar="FILE", help="the page to write (default: report.html in the first run)")
    options = parser.parse_args(arguments)
    path = write(options.runs, options.out)
    print(f"{path} ({path.stat().st_size / 1024:.0f} KB)")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
