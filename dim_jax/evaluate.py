"""Evaluates a checkpoint on every image of a split, exactly once: eval/<split>/predictions.npz and metrics.json."""

import sys
from collections.abc import Sequence

from dim_jax.cli import command_line

EXAMPLES = """  python -m dim_jax.evaluate --workdir=runs/a --split=test
  python -m dim_jax.evaluate --workdir=runs/a --split=val --checkpoint=newest"""
SPLITS = ("train", "val", "test")


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("evaluate", __doc__, EXAMPLES)
    parser.add_argument("--workdir", type=command_line.path, required=True, help="run directory of a classifier")
    parser.add_argument("--split", default="test", choices=SPLITS, help="split to evaluate on (default: %(default)s)")
    parser.add_argument(
        "--checkpoint",
        default="best",
        choices=("best", "newest"),
        help="the best on validation, or the newest (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    command_line.start_logging()
    from dim_jax.evaluation.split_evaluation import evaluate_split, summary
    from dim_jax.training import hosts

    hosts.join()
    command_line.say(summary(evaluate_split(options.workdir, options.split, options.checkpoint)))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
