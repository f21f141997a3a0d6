"""Evaluates a checkpoint on every image of a split, exactly once: eval/<split>/predictions.npz and metrics.json."""

import argparse
import sys
from collections.abc import Sequence

from dim_jax.cli import command_line, huge_pages

EXAMPLES = """  python -m dim_jax.evaluate --workdir=runs/a --split=test
  python -m dim_jax.evaluate --workdir=runs/a --split=val --checkpoint=newest
  python -m dim_jax.evaluate --workdir=runs/a --split=test --choose-by=g_mean --offsets=class
  python -m dim_jax.evaluate --workdir=runs/a --split=test --cost=COSTS.csv"""
SPLITS = ("train", "val", "test")
CRITERIA = ("macro_f1", "g_mean", "balanced_accuracy", "mcc", "accuracy")


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("evaluate", __doc__, EXAMPLES)
    parser.add_argument(
        "--workdir", type=command_line.path_or_url, required=True, help="run directory of a classifier, or its URL"
    )
    parser.add_argument("--split", default="test", choices=SPLITS, help="split to evaluate on (default: %(default)s)")
    parser.add_argument(
        "--checkpoint",
        default="best",
        choices=("best", "newest"),
        help="the best on validation, or the newest (default: %(default)s)",
    )
    parser.add_argument(
        "--choose-by",
        choices=CRITERIA,
        help="score of validation images that chooses the adjustment of the logits (default: macro_f1, or as before)",
    )
    parser.add_argument(
        "--cost",
        metavar="CSV",
        type=command_line.path,
        help="choose the adjustment by the mean cost instead: a table of truth x answer; a column abstain is optional",
    )
    parser.add_argument(
        "--offsets",
        choices=("prior", "class"),
        help="adjust by the class frequencies with one strength, or by a free offset per class (default: prior)",
    )
    parser.add_argument(
        "--views",
        action=argparse.BooleanOptionalAction,
        help="average over the flips and turns that the run was trained on (default: config.augment.test_time_views)",
    )
    parser.add_argument(
        "--data-root",
        metavar="FOLDER",
        type=command_line.path,
        help="where the images are now, if they were moved; compared by SHA-256, and remembered",
    )
    parser.add_argument(
        "--severity",
        default="",
        metavar="A,B,C",
        help="all classes from the least to the most severe: cases are then also answered by their worst image",
    )
    options = parser.parse_args(arguments)
    command_line.start_logging()
    from dim_jax.data.relocation import relocate
    from dim_jax.evaluation.costs import read_costs
    from dim_jax.evaluation.ensembles import open_classifier
    from dim_jax.evaluation.split_evaluation import evaluate_split, summary
    from dim_jax.reporting.run_cards import write_run_card
    from dim_jax.runs.local_paths import LocalPaths
    from dim_jax.training import hosts

    hosts.join()
    with LocalPaths(on_first_host=hosts.on_first_host) as paths:
        options.workdir = paths.update(options.workdir)
        if options.data_root:
            hosts.on_first_host(lambda: relocate([options.workdir], options.data_root))
        if options.cost and options.choose_by:
            raise ValueError("--cost and --choose-by both say what chooses the adjustment; give one of them")
        choice = {"criterion": options.choose_by, "offsets": options.offsets}
        if options.cost:
            choice["criterion"] = hosts.on_first_host(
                lambda: read_costs(options.cost, open_classifier(options.workdir).classes)
            )
        choice = {name: value for name, value in choice.items() if value is not None}
        metrics = evaluate_split(
            options.workdir,
            options.split,
            options.checkpoint,
            choice=choice or None,
            use_views=options.views,
            severity=command_line.comma_separated(options.severity),
        )
        hosts.on_first_host(lambda: write_run_card(options.workdir))
        command_line.say(summary(metrics))


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
