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
states its conclusions in sentences, with the results they are based on; of several experiments, also side by side.
--card writes card.md and card.json again instead, from what is recorded by now."""
EXAMPLES = """\
  python -m dim_jax.report runs/a                                  # writes runs/a/report.html and runs/a/report_data/
  python -m dim_jax.report runs/ce runs/fafl --out=compare.html    # side by side, with what differs in configuration
  python -m dim_jax.report runs/gan_normal                         # images and learning curves of a GAN
  python -m dim_jax.report runs/dim                                # an experiment and its conclusions
  python -m dim_jax.report runs/recipe runs/oscc --out=both.html   # experiments on several data sets, side by side
  python -m dim_jax.report --card runs/a pool/normal selected      # cards of a run, a pool and a selection
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("report", SUMMARY, EXAMPLES)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", type=command_line.path_or_url, help="run directory, the --workdir of train"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=command_line.path,
        help="the page to write (default: report.html in the first run)",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="write cards instead of a page: of runs, ensembles, folders POOL/<class> and selections",
    )
    options = parser.parse_args(arguments)
    if options.card and options.out:
        raise ValueError("--out is for a page; a card is written into the folder of each run")
    from dim_jax.runs.local_paths import LocalPaths

    with LocalPaths() as paths:
        if options.card:
            for path in [_write_card(Path(paths.update(run))) for run in options.runs]:
                command_line.say(path)
            return
        # Without --out the page is written into the first run.
        runs = [(paths.read if place or options.out else paths.update)(run) for place, run in enumerate(options.runs)]
        from dim_jax.reporting import tables
        from dim_jax.reporting.report_files import write_report

        # RUNS/*/ also matches the CSV folder of an earlier page in RUNS.
        path = write_report([run for run in runs if not tables.is_written_here(Path(run))], options.out)
        command_line.say(f"{path} ({path.stat().st_size / 1024:.0f} KB)")


def _write_card(folder: Path) -> Path:
    """Writes the card of a run, an ensemble, a class of a pool or a selection, and returns its path."""
    from dim_jax.gan.generated_cards import write_pool_card, write_selection_card
    from dim_jax.reporting.curves import run_directories
    from dim_jax.reporting.run_cards import write_run_card
    from dim_jax.runs import files

    if (folder / "pool.json").is_file():
        return write_pool_card(folder)
    if (folder / "selected.json").is_file():
        return write_selection_card(folder)
    run_directories([folder])
    if files.read_object(folder / "config.json").get("trainer") == "experiment":
        raise ValueError(f"{folder} is an experiment, which has no card; give its runs")
    return write_run_card(folder)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
