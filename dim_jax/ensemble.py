"""Averages trained classifiers of one split: the output is evaluated, reported and used for predictions like a run."""

import sys
from collections.abc import Sequence

from dim_jax.cli import command_line

EXAMPLES = """  python -m dim_jax.ensemble runs/a runs/b runs/c --out=runs/all
  python -m dim_jax.predict --workdir=runs/all images/ --out=predictions --adjust"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("ensemble", __doc__, EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=command_line.path, help="run directory of a classifier")
    parser.add_argument("--out", required=True, type=command_line.path, help="directory of the ensemble")
    options = parser.parse_args(arguments)
    command_line.start_logging()
    from dim_jax.evaluation.ensembles import make_ensemble
    from dim_jax.evaluation.split_evaluation import evaluate_split, summary
    from dim_jax.reporting.run_cards import write_run_card
    from dim_jax.runs import files, outputs

    outputs.check(options.out, is_folder=True)
    with files.turn(options.out):  # the evaluations are of these members
        make_ensemble(options.runs, options.out)
        for split in ("val", "test"):
            command_line.say(summary(evaluate_split(options.out, split)))
        write_run_card(options.out)
    command_line.say_next("predict", "NEW_IMAGES", f"--workdir={options.out}", "--out=predictions", "--adjust")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
