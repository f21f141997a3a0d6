"""The report command: one self-contained HTML page of run directories; and the curves of runs, for notebooks."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dim_jax.cli import command_line
from dim_jax.reporting.bands import confidence_band
from dim_jax.reporting.curves import load_curves

__all__ = ["confidence_band", "load_curves", "main"]

SUMMARY = """\
Writes one self-contained HTML page about one run, or several side by side: data, learning curves, confusion matrices,
per-class results, features, examples with Grad-CAM, time per stage, configuration and environment; for a GAN, generated
and reconstructed images instead of predictions. The page works offline and can be printed; the numbers of each figure
are written as CSV to the folder <page>_data. An unfinished run is reported as far as it is. The page of an experiment
states its conclusions in sentences, with the results they are based on; of several experiments, also side by side."""
EXAMPLES = """\
  python -m dim_jax.report runs/a                                  # writes runs/a/report.html and runs/a/report_data/
  python -m dim_jax.report runs/ce runs/fafl --out=compare.html    # side by side, with what differs in configuration
  python -m dim_jax.report runs/gan_normal                         # images and learning curves of a GAN
  python -m dim_jax.report runs/dim                                # an experiment and its conclusions
  python -m dim_jax.report runs/recipe runs/oscc --out=both.html   # experiments on several data sets, side by side
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
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
    from dim_jax.reporting.report_files import write_report

    # RUNS/*/ also matches the CSV folder of an earlier page in RUNS.
    path = write_report([run for run in options.runs if not tables.is_written_here(Path(run))], options.out)
    command_line.say(f"{path} ({path.stat().st_size / 1024:.0f} KB)")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
