"""Share of planted label errors that `dim_jax.label_issues` finds on the phantom."""

import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dim_jax.cli import command_line

SUMMARY = """\
Draws the phantom, changes a share of its labels to other classes at random, trains a linear head on frozen
EfficientNet-Lite0 features in every fold of a cross-validation by case with the wrong labels, and counts how many of
them are among the labels that look wrong, and among as many of the most doubtful ones as were changed."""
EXAMPLES = """\
  python benchmarks/label_issues.py
  python benchmarks/label_issues.py --scale=0.1 --folds=3 --flipped=0.1
"""


def write_phantom(folder: Path, scale: float, flipped: float, seed: int) -> set[str]:
    """Writes the phantom and a manifest.csv with wrong labels into `folder`; returns the paths of those images."""
    from dim_jax.data import phantom

    rows = sorted(phantom.write(folder, 224, scale, seed))
    rng = np.random.default_rng(seed)
    changed = rng.choice(len(rows), round(flipped * len(rows)), replace=False)
    shifts = dict(zip(changed.tolist(), rng.integers(1, len(phantom.CLASSES), len(changed)).tolist(), strict=True))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "group"))
        for number, (path, label, case) in enumerate(rows):
            shifted = phantom.CLASSES.index(label) + shifts.get(number, 0)
            writer.writerow((path, phantom.CLASSES[shifted % len(phantom.CLASSES)], case))
    return {rows[number][0] for number in changed}


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark with its command-line arguments."""
    parser = command_line.parser("label_issues", SUMMARY, EXAMPLES)
    parser.prog = "python benchmarks/label_issues.py"
    parser.add_argument("--scale", type=float, default=0.5, help="size of the phantom (default: %(default)s)")
    parser.add_argument("--flipped", type=float, default=0.05, help="share of wrong labels (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom and the errors (default: %(default)s)")
    options = parser.parse_args(arguments)
    from dim_jax.data.preparation import prepare_dataset
    from dim_jax.evaluation.label_issues import find_label_issues
    from dim_jax.evaluation.out_of_fold import pool_runs
    from dim_jax.runs import config_flags
    from dim_jax.trainers import classifier

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        changed = write_phantom(folder / "images", options.scale, options.flipped, options.seed)
        data = prepare_dataset(
            folder / "images", folder / "data", image_size=224, split="kfold", folds=options.folds, seed=options.seed
        )
        runs = [folder / f"fold{fold}" for fold in range(options.folds)]
        for fold, run in enumerate(runs):
            config = config_flags.load_file("classifier:linear")
            config.data.path, config.data.fold = str(data), fold
            config.loss.name, config.train.report = "cross_entropy", False
            classifier.train(config.to_dict(), run, describe=False)
        pooled = pool_runs(runs)
    labels = pooled.manifest.labels[pooled.rows]
    issues = find_label_issues(labels, pooled.probability)
    doubtful = [pooled.manifest.rows[pooled.rows[place]].path for place in issues.places]
    num_found, first = (len(changed & set(paths)) for paths in (doubtful, doubtful[: len(changed)]))
    command_line.say(
        f"{len(changed)} of {len(labels)} labels changed; {len(doubtful)} look wrong, {num_found} of them are "
        f"({num_found / len(changed):.0%} found); of the {len(changed)} most doubtful {first} are"
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main))
