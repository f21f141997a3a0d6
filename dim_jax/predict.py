"""Classifies new images with a trained or imported run: predictions.csv, predictions.json and Grad-CAM overlays."""

import sys
from collections.abc import Sequence

from dim_jax.cli import command_line

SUMMARY = """\
Classifies images, anywhere below folders or single files, with a trained or imported classifier. They are shrunk and
normalised as the run was trained. Writes OUT/predictions.csv and OUT/predictions.json: path, status, predicted class
and the probability of every class; and Grad-CAM overlays into OUT/overlays/. A file that cannot be read has its own
line with the reason, in these files and on the screen; the exit code is 2 only if no file can be read.

Research software, not a medical device."""
EXAMPLES = """  python -m dim_jax.predict --workdir=runs/a images/ --out=predictions
  python -m dim_jax.predict --workdir=runs/a field1.png field2.png --out=predictions --overlays=-1
  python -m dim_jax.predict --workdir=runs/a images/ --out=predictions --calibrate --coverage=0.9"""


def main(arguments: Sequence[str]) -> None:
    parser = command_line.parser("predict", SUMMARY, EXAMPLES)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGES", help="folders, searched to any depth, or files")
    add(
        "--workdir",
        type=command_line.path,
        required=True,
        help="run directory of a classifier; its best checkpoint is used",
    )
    add("--out", type=command_line.path, required=True, help="folder of the results")
    add("--batch-size", type=int, help="any number; changes speed alone (default: as the run is evaluated)")
    add("--overlays", type=int, default=16, help="Grad-CAM overlays to write, -1: all (default: %(default)s)")
    add("--calibrate", action="store_true", help="scale the temperature of the probabilities on validation images")
    add("--coverage", type=float, help="withhold unsure answers: this share of validation images would get one")
    options = parser.parse_args(arguments)
    command_line.start_logging()
    from dim_jax.prediction.new_images import UNREADABLE, predict_images, summary

    content = predict_images(
        options.workdir,
        options.images,
        options.out,
        batch_size=options.batch_size,
        overlays=options.overlays,
        calibrate=options.calibrate,
        coverage=options.coverage,
    )
    for line in content["images"]:
        if line["status"] == UNREADABLE:
            command_line.say(f"unreadable: {line['path']}: {line['reason']}", file=sys.stderr)
    command_line.say(summary(content))
    command_line.say(options.out)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
