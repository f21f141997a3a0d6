"""Which labels look wrong? A ranked CSV with pictures, from predictions for images that were not trained on."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dim_jax.cli import command_line, huge_pages

SUMMARY = """\
Ranks images whose label disagrees with the predictions of networks that were not trained on them, by confident learning
(Northcutt et al. 2021). Writes OUT/label_issues.html with pictures and OUT/label_issues.csv. Look at the images;
correct their labels in the source, or drop the lines of those that are right and give the CSV to prepare as
--exclude-list. An experiment judges every image, several runs judge those of their test parts."""
EXAMPLES = """  python -m dim_jax.label_issues runs/dim --out=issues
  python -m dim_jax.label_issues runs/fold0 runs/fold1 runs/fold2 --out=issues
  python -m dim_jax.prepare --source=slides --out=data/cleaned --exclude-list=issues/label_issues.csv"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("label_issues", SUMMARY, EXAMPLES)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", type=command_line.path, help="an experiment, or runs of one prepared dataset")
    add("--out", required=True, type=command_line.path, help="output folder")
    add("--arm", default="", help="arm of the experiment (default: the first one that is finished)")
    options = parser.parse_args(arguments)
    command_line.start_logging()
    from dim_jax.evaluation.label_issues import find_label_issues
    from dim_jax.evaluation.out_of_fold import pool_runs
    from dim_jax.experiment.finished import is_experiment, open_experiments, pool_arm
    from dim_jax.reporting import label_issues_page

    experiments = [run for run in options.runs if is_experiment(run)]
    if experiments and len(options.runs) > 1:
        raise ValueError(f"{experiments[0]} is an experiment; give it alone")
    if options.arm and not experiments:
        raise ValueError(f"--arm={options.arm} is of an experiment; drop it")
    if experiments:
        opened = open_experiments(experiments[0])
        sources = [(experiment.site.name, *pool_arm(experiment, options.arm)) for experiment in opened]
    else:
        sources = [("", f"{len(options.runs)} run(s)", pool_runs(options.runs))]
    for name, source, pooled in sources:
        issues = find_label_issues(pooled.manifest.labels[pooled.rows], pooled.probability)
        out = Path(options.out, name) if len(sources) > 1 else Path(options.out)
        label_issues_page.write(out, pooled, issues, source)
        command_line.say(label_issues_page.summary(pooled, issues))
        command_line.say(out / label_issues_page.HTML)


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
