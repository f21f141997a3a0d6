"""Classifies new images with a trained or imported run: predictions.csv, predictions.json and Grad-CAM overlays."""

import argparse
import sys
from collections.abc import Sequence

from dim_jax.cli import command_line, huge_pages

SUMMARY = """\
Classifies images, in folders of any depth or as single files, with a trained or imported classifier or an ensemble.
They are resized and normalised as in training. Writes OUT/predictions.csv and OUT/predictions.json with the path,
status, predicted class and probability of each class, Grad-CAM overlays into OUT/overlays/, and with --group-regex
OUT/cases.csv. A file that cannot be read is listed with the reason, in these files and on the screen; the exit code is
2 only if no file can be read.

Research software, not a medical device."""
EXAMPLES = """  python -m dim_jax.predict --workdir=runs/a images/ --out=predictions
  python -m dim_jax.predict --model=ebhi-seg images/ --out=predictions
  python -m dim_jax.predict --workdir=runs/a field1.png field2.png --out=predictions --overlays=-1
  python -m dim_jax.predict --workdir=runs/a images/ --out=predictions --adjust --coverage=0.9
  python -m dim_jax.predict --workdir=runs/a images/ --out=predictions --group-regex='([0-9]+)-[0-9]+\\.png$'"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("predict", SUMMARY, EXAMPLES)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGES", help="folders, searched to any depth, or files")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--workdir",
        type=command_line.path_or_url,
        help="run directory of a classifier, or its URL; its best checkpoint is used",
    )
    which.add_argument(
        "--model", metavar="NAME", help="a trained model that comes with dim_jax (python -m dim_jax.zoo.catalog)"
    )
    add("--out", type=command_line.path_or_url, required=True, help="output folder")
    add(
        "--batch-size",
        type=int,
        help="images per batch; affects the speed only (default: that of the run's evaluation)",
    )
    add("--overlays", type=int, default=16, help="number of Grad-CAM overlays, -1 for all (default: %(default)s)")
    add(
        "--views",
        action=argparse.BooleanOptionalAction,
        help="average over the flips and turns that the run was trained on (default: config.augment.test_time_views)",
    )
    add(
        "--adjust",
        action="store_true",
        help="adjust the logits for the imbalance of the classes as chosen on validation images, and calibrate them",
    )
    add(
        "--calibrate",
        action="store_true",
        help="calibrate the probabilities by a temperature fitted on validation images",
    )
    add(
        "--coverage",
        type=float,
        help="abstain on uncertain images, so that this share of validation images gets an answer",
    )
    add(
        "--group-regex",
        metavar="REGEX",
        help="also answer by case: regular expression of the case in a listed path, its first group, or the match",
    )
    add(
        "--severity",
        default="",
        metavar="A,B,C",
        help="with --group-regex: all classes from the least to the most severe, to answer by the worst image too",
    )
    command_line.add_take_over(parser)
    options = parser.parse_args(arguments)
    command_line.start_logging()
    from dim_jax.data import bucket_images
    from dim_jax.prediction.new_images import predict_images
    from dim_jax.prediction.output_files import UNREADABLE, summary
    from dim_jax.runs.local_paths import LocalPaths
    from dim_jax.zoo import catalog

    workdir = options.workdir
    if options.model is not None:
        workdir = catalog.folder(options.model)
        command_line.say(catalog.notice(options.model))
    with LocalPaths(options.take_over) as paths:
        workdir, options.out = paths.read(workdir), paths.write(options.out)
        predictions = predict_images(
            workdir,
            [bucket_images.local(source) for source in options.images],
            options.out,
            batch_size=options.batch_size,
            overlays=options.overlays,
            use_views=options.views,
            adjust=options.adjust,
            calibrate=options.calibrate,
            coverage=options.coverage,
            group_regex=options.group_regex,
            severity=command_line.comma_separated(options.severity),
        )
        for image in predictions["images"]:
            if image["status"] == UNREADABLE:
                command_line.say(f"unreadable: {image['path']}: {image['reason']}", file=sys.stderr)
        command_line.say(summary(predictions))
        command_line.say(options.out)


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
