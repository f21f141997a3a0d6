"""Chooses the images of a pool that are worth training on, and says of every other one why not.

Writes selected.json (for config.data.generated), rejected.json, report.html and closest_pairs.png."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dim_jax.cli import command_line

EXAMPLES = """  python -m dim_jax.select --pool=pool --data=DATA --classifier=runs/a --keep=20 --out=selected
  python -m dim_jax.select --pool=pool/normal --data=DATA --classifier=runs/a --out=selected --distance-slack=1.2"""


def main(arguments: Sequence[str]) -> None:
    from dim_jax.gan.selection_rules import CLASSIFIER, LITE0, Rules

    defaults = Rules()
    parser = command_line.parser("select", __doc__, EXAMPLES)
    add = parser.add_argument
    add(
        "--pool",
        type=command_line.path,
        required=True,
        metavar="FOLDER",
        help="what generate wrote: all classes, or POOL/<class>",
    )
    add(
        "--data",
        type=command_line.path,
        required=True,
        metavar="FOLDER",
        help="prepared data that GAN and classifier were trained on",
    )
    add(
        "--classifier",
        type=command_line.path,
        required=True,
        metavar="RUN",
        help="run of a classifier trained on real images alone",
    )
    add(
        "--out",
        type=command_line.path,
        required=True,
        metavar="FOLDER",
        help="folder to write; an earlier selection in it is replaced",
    )
    add("--keep", type=int, default=20, metavar="N", help="most images to keep of each class (default: %(default)s)")
    add(
        "--features",
        default=LITE0,
        choices=(LITE0, CLASSIFIER),
        help="space of the distances: EfficientNet-Lite0's, or the classifier's own (default: %(default)s)",
    )
    add(
        "--inception-weights",
        default="",
        metavar="FILE",
        help="pytorch-fid's pt_inception-2015-12-05-6726825d.pth: with it FID, KID and the inception score are shown "
        "too; they decide nothing",
    )
    for name, text in (
        ("least_probability", "least probability of its class by the classifier, or the median of real images if less"),
        ("distance_quantile", "quantile of real images' distances to their class that may not be exceeded"),
        ("distance_slack", "multiplies that quantile"),
        ("copy_quantile", "quantile of real images' distances to the nearest one of another case; nearer is a copy"),
    ):
        option = "--" + name.replace("_", "-")
        add(option, type=float, default=getattr(defaults, name), metavar="X", help=f"{text} (default: %(default)s)")
    options = vars(parser.parse_args(arguments))
    command_line.start_logging()
    rules = Rules(**{name: options[name] for name in asdict(defaults)})
    names = ("pool", "data", "classifier", "out", "keep", "features", "inception_weights")
    given = {name: options[name] for name in names}
    from dim_jax.gan.pool_selection import REPORT, select_images, summary

    command_line.say(summary(select_images(rules=rules, **given)))
    command_line.say(f"report: {Path(options['out']) / REPORT}")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
