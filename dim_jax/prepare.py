"""The prepare command: checks and splits a folder of images for training."""

import sys
from collections.abc import Sequence

from dim_jax.cli import command_line

EXAMPLES = """\
  python -m dim_jax.prepare --source=phantom --out=data/phantom --scale=0.2 --image-size=96
  python -m dim_jax.prepare --source=slides --out=data/slides --group-regex='^[^/]+/([0-9]+)-'
  python -m dim_jax.prepare --manifest=slides/manifest.csv --out=data/slides --split=kfold --folds=5
  python -m dim_jax.prepare --source=tfds:colorectal_histology --out=data/kather --group-regex='HE-([0-9]+)'
  python -m dim_jax.prepare --source=slides --out=data/slides --image-size=224 --pack
"""


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser("prepare", "Checks and splits a folder of images, once, for training.", EXAMPLES)
    add = parser.add_argument
    add(
        "--source",
        metavar="FOLDER",
        type=command_line.path_or_url,
        help="one folder per class, or images with a manifest.csv, phantom (synthetic tissue) or tfds:NAME[/CONFIG]",
    )
    add(
        "--out",
        metavar="FOLDER",
        type=command_line.path,
        required=True,
        help="output folder, new or empty: manifest, split, report, converted images",
    )
    add(
        "--manifest",
        metavar="FILE",
        type=command_line.path,
        help="CSV of path,label[,group][,split]; paths relative to --source or to the CSV",
    )
    add(
        "--group-regex",
        metavar="REGEX",
        help="regular expression of the patient or case in a path: its part (?P<group>...), else its first group, or "
        "the match",
    )
    add(
        "--class-folder",
        metavar="N",
        type=int,
        help="folder below --source that names the class: 1 for the first, 2, ..., or -1 for the innermost",
    )
    add("--classes", metavar="A,B,C", help="class names in label order (sorted by default); quote a name with a comma")
    add("--exclude", metavar="A,B", default="", help="classes to leave out")
    add(
        "--exclude-list",
        metavar="FILE",
        type=command_line.path,
        help="CSV with the columns path and label of images to leave out, such as that of label_issues",
    )
    add("--image-size", metavar="N", type=int, default=299, help="side at which mean and std are measured (299)")
    add("--split", metavar="METHOD", help="group (default), kfold, random_image (ignores patients), or manifest")
    add("--folds", metavar="K", type=int, default=5, help="number of folds of kfold (5)")
    add("--validation", metavar="SHARE", type=float, default=0.2, help="share of the images (0.2)")
    add("--test", metavar="SHARE", type=float, default=0.2, help="share of the images (0.2)")
    add("--seed", metavar="N", type=int, default=0, help="seed of the split and the phantom (0)")
    add("--scale", metavar="X", type=float, default=1.0, help="size of the phantom set relative to 1,741 images (1.0)")
    add(
        "--pack",
        metavar="POLICY",
        nargs="?",
        const="squash",
        help="also write the pixels at --image-size, for config.data.backend=resident: squash (default), crop or pad",
    )
    add("--strict", action="store_true", help="refuse unreadable images instead of leaving them out")
    add("--overwrite", action="store_true", help="prepare again, in place of what was prepared in --out before")
    add(
        "--data-root",
        metavar="FOLDER",
        type=command_line.path,
        help="where the images of --out, prepared data or a run, are now, if they were moved; compared by SHA-256",
    )
    add("--data-dir", metavar="FOLDER", help="folder of built TensorFlow Datasets (default: that of TFDS)")
    add("--manual-dir", metavar="FOLDER", help="folder of manual downloads, for tfds:ebhi and others that need them")
    options = vars(parser.parse_args(arguments))
    command_line.start_logging()
    del options["debug"]
    if options["classes"] is not None:
        options["classes"] = command_line.names(options["classes"])
    options["exclude"] = command_line.comma_separated(options["exclude"])
    data_root = options.pop("data_root")
    if data_root:
        from dim_jax.data.relocation import relocate

        if options["source"] or options["manifest"]:
            raise ValueError("--data-root is for data that are prepared already; give it with --out alone")
        relocate([options["out"]], data_root)
        return
    from dim_jax.data.preparation import prepare_dataset

    out = options.pop("out")
    prepare_dataset(options.pop("source"), out, **options)
    if options["split"] == "kfold":
        arguments = ("--config=experiment:recipe", f"--config.data.path={out}", "--workdir=runs/recipe", "--dry-run")
    else:
        arguments = ("--config=classifier:finetune", f"--config.data.path={out}", "--workdir=runs/a")
    command_line.say_next("train", *arguments)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
