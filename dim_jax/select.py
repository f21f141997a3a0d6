"""Selects the images of a pool to train on, and lists the reasons against all others.

Writes selected.json (for config.data.generated), rejected.json, diagnosis.json, report.html and closest_pairs.png. The
diagnosis compares the images with real ones in several feature spaces and decides nothing."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dim_jax.cli import command_line, huge_pages

EXAMPLES = """  python -m dim_jax.select --pool=pool --data=DATA --classifier=runs/a --keep=20 --out=selected
  python -m dim_jax.select --pool=pool/normal --data=DATA --classifier=runs/a --out=selected --distance-slack=1.2
  python -m dim_jax.select --pool=pool --data=DATA --classifier=runs/a --out=selected --enlarge-to=224"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    from dim_jax.gan.selection_rules import DEFAULT_FEATURES, FEATURES, Rules

    defaults = Rules()
    parser = command_line.parser("select", __doc__, EXAMPLES)
    add = parser.add_argument
    add(
        "--pool",
        type=command_line.path_or_url,
        required=True,
        metavar="FOLDER",
        help="pool of images written by generate: all classes, or POOL/<class>",
    )
    add(
        "--data",
        type=command_line.path_or_url,
        required=True,
        metavar="FOLDER",
        help="prepared data that the generator and the classifier were trained on",
    )
    add(
        "--classifier",
        type=command_line.path_or_url,
        required=True,
        metavar="RUN",
        help="run directory of a classifier trained on real images only",
    )
    add(
        "--out",
        type=command_line.path_or_url,
        required=True,
        metavar="FOLDER",
        help="output folder; an earlier selection in it is replaced",
    )
    add(
        "--keep",
        type=int,
        default=20,
        metavar="N",
        help="largest number of images to select per class (default: %(default)s)",
    )
    add(
        "--features",
        default=DEFAULT_FEATURES,
        choices=FEATURES,
        help="features for distances, of a network that the GAN's discriminator did not learn from (default: "
        "%(default)s)",
    )
    add(
        "--inception-weights",
        default="",
        metavar="FILE",
        help="pytorch-fid's pt_inception-2015-12-05-6726825d.pth: also reports FID, KID and the inception score, "
        "which do not affect the selection",
    )
    add(
        "--diagnosis",
        action=argparse.BooleanOptionalAction,
        help="compare with real images in all feature spaces that may judge, at several resolutions (default: if every "
        "class has 10 generated and 10 training images)",
    )
    add(
        "--enlarge-to",
        type=int,
        default=0,
        metavar="PX",
        help="also measure how well a linear head tells generated images from real ones when enlarged to this size",
    )
    for name, text in (
        (
            "least_probability",
            "smallest probability of the class by the classifier, or the median of real images if less",
        ),
        ("distance_quantile", "quantile of the distances of real images to their class, the largest distance allowed"),
        ("distance_slack", "multiplies that quantile"),
        ("copy_quantile", "quantile of the distances of real images to the nearest of another case; closer is a copy"),
    ):
        option = "--" + name.replace("_", "-")
        add(option, type=float, default=getattr(defaults, name), metavar="X", help=f"{text} (default: %(default)s)")
    add(
        "--reviews",
        default="",
        metavar="JSON",
        help="scores of a blind review, written by review --score: selects only images that its readers judged, "
        "without those to which at least half of them object by a quality below 3 or another class",
    )
    command_line.add_take_over(parser)
    options = vars(parser.parse_args(arguments))
    command_line.start_logging()
    rules = Rules(**{name: options[name] for name in asdict(defaults)})
    names = ("pool", "data", "classifier", "out", "keep", "features", "inception_weights", "reviews")
    names += ("diagnosis", "enlarge_to")
    inputs = {name: options[name] for name in names}
    from dim_jax.data import bucket_images
    from dim_jax.gan.pool_selection import REPORT, SELECTED, select_images, summary
    from dim_jax.runs.local_paths import LocalPaths

    if len({_place(inputs["pool"]), _place(inputs["out"])}) > 1:
        raise ValueError(
            "--pool and --out must be in one bucket, or both on disk: a selection lists its images by relative paths"
        )
    with LocalPaths(options["take_over"]) as paths:
        inputs["pool"], inputs["classifier"] = paths.read(inputs["pool"]), paths.read(inputs["classifier"])
        inputs["data"] = bucket_images.local(inputs["data"])
        inputs["out"] = paths.write(inputs["out"])
        command_line.say(summary(select_images(rules=rules, **inputs)))
        out = Path(inputs["out"])
        command_line.say(f"report: {out / REPORT}")
        data, generated = f"--config.data.path={options['data']}", f"--config.data.generated={out / SELECTED}"
        command_line.say_next("train", "--config=classifier:finetune", data, generated, "--workdir=runs/b")


def _place(path: str) -> str:
    """Returns the scheme and bucket of a URL; "" for a path on disk."""
    return "/".join(path.split("/")[:3]) if command_line.is_bucket_url(path) else ""


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
