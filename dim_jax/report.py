"""Turns run directories into one HTML page that needs nothing but itself: `python -m dim_jax.report runs/a runs/b`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dim_jax.cli import command_line
from dim_jax.reporting.bands import confidence_band
from dim_jax.reporting.curves import load_curves

__all__ = ["confidence_band", "load_curves", "main"]

SUMMARY = """\
Writes one self-contained HTML page about one run or several side by side: data, learning curves, confusion matrices,
per-class results, features, examples with Grad-CAM, time per stage, configuration and environment; of a GAN the images
it draws and rebuilds instead of predictions. The page opens offline and prints; the numbers of every figure lie beside
it as CSV, in the folder <page>_data. A run that is not finished or not tested yet is reported as far as it is. An
experiment has a page of its own: what it found in sentences, and what they rest on."""
EXAMPLES = """\
  python -m dim_jax.report runs/a                                  # writes runs/a/report.html and runs/a/report_data/
  python -m dim_jax.report runs/ce runs/fafl --out=compare.html    # side by side, with what differs in configuration
  python -m dim_jax.report runs/gan_normal                         # the images a GAN draws, and how it learned
  python -m dim_jax.report runs/dim                                # an experiment: does it help here?
"""


def main(arguments: Sequence[str]) -> None:
    """Parses the command line and writes the page."""
    parser = command_line.parser("report", SUMMARY, EXAMPLES)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", type=command_line.path, help="run directory, the --workdir of train"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=command_line.path,
        help="the page to write (default: report.html in the first run)",
    )
    options = parser.parse_args(arguments)
    from dim_jax.reporting import tables
    from dim_jax.reporting.run_page import write_report

    # RUNS/*/ also finds the CSV files of an earlier page in RUNS.
    path = write_report([run for run in options.runs if not tables.is_written_here(Path(run))], options.out)
    command_line.say(f"{path} ({path.stat().st_size / 1024:.0f} KB)")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
