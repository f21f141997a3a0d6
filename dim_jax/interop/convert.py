"""Command that imports checkpoints of the published PyTorch code as run directories, and exports runs to such files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dim_jax.cli import command_line

if TYPE_CHECKING:
    from dim_jax.interop.imported_runs import ImportOptions

SUMMARY = """\
Imports a checkpoint of the published PyTorch code (.pth or .safetensors; LRF-CNN, or a GCGAN's pair of networks) as a
run directory, or with --to exports the weights of a run to such a file. Files are read without PyTorch, and nothing in
them is executed. An export of this package knows its classes and preprocessing. What a file does not record is assumed
to be as published: 299 px, the published mean and std, and the five classes in the order of the published results;
where --data has another order, --classes must say that of the outputs.

With --data, evaluate and report work on the run too. With --config and --data, train continues it: from the step of the
optimizer's state if the file has one, otherwise from step 0 with these weights."""
EXAMPLES = """  python -m dim_jax.interop.convert best_model.pth --out=runs/imported                 # then predict
  python -m dim_jax.interop.convert best_model.pth --out=runs/imported --data=DATA     # then evaluate and report too
  python -m dim_jax.interop.convert checkpoint_epoch_20.pth --out=runs/imported --data=DATA \\
      --config=configs/published.py                                                    # then train --workdir=...
  python -m dim_jax.interop.convert all_40000.pth --out=runs/gan_normal --label=normal # then generate
  python -m dim_jax.interop.convert runs/a --to=torch --out=model.pth                  # or --to=safetensors"""
FORMATS = ("torch", "safetensors")


def _import_options(options: argparse.Namespace, overrides: Sequence[str]) -> "ImportOptions":
    """Returns the options of an import.

    Args:
      options: parsed command line.
      overrides: arguments of the form --config.FIELD=VALUE.

    Raises:
      FileNotFoundError: the configuration or the data do not exist.
      ValueError: options contradict each other, or the configuration cannot be read.
    """
    from dim_jax.data.manifest import load
    from dim_jax.interop import export_record
    from dim_jax.interop.imported_runs import CLASSES, IMAGE_SIZE, MEAN, RESIZE, STD, ImportOptions
    from dim_jax.runs import config_flags

    if options.classes and options.label:
        raise ValueError("--classes names the outputs of a classifier, --label the class of a GAN; give one of them")
    if bool(options.config) and not options.data:
        raise ValueError(
            "--config is for continuing training, which needs images; give a prepared dataset with --data=DATA"
        )
    if (options.reset_head or overrides) and not options.config:
        option = "--reset-head" if options.reset_head else overrides[0]
        raise ValueError(f"{option} is for continuing training; give --config=configs/published.py and --data=DATA too")
    if options.config and (options.image_size or options.resize or options.mean or options.std):
        raise ValueError("with --config give them as --config.data.image_size, .resize, .mean and .std")
    record = export_record.read(options.source)
    config = None
    if options.config:
        flags = [f"--config={options.config}", f"--config.data.path={options.data}", f"--workdir={options.out}"]
        label = options.label or (record.classes[0] if record and record.trainer == "gan" else "")
        flags += [f"--config.gan.label={label}"] if label else []
        config, *_ = config_flags.parse_flags([*flags, *overrides])
        if record:
            export_record.complete(config, record, {name.split("=")[0] for name in overrides})
    classes = tuple(command_line.comma_separated(options.classes or options.label or ""))
    if len(set(classes)) != len(classes):
        raise ValueError(f"--classes={options.classes} names a class twice")
    if record and not options.reset_head and classes != record.classes and set(classes) == set(record.classes):
        raise ValueError(
            f"--classes={options.classes} is another order than that of the outputs of {options.source}, which are "
            f"{', '.join(record.classes)}; leave out --classes"
        )
    published: dict[str, Any] = {
        "classes": CLASSES,
        "image_size": IMAGE_SIZE,
        "resize": RESIZE,
        "mean": MEAN,
        "std": STD,
    }
    given: dict[str, Any] = {
        "classes": classes or (load(options.data).classes if options.reset_head else ()),
        "image_size": options.image_size,
        "resize": options.resize,
        "mean": _three_numbers("--mean", options.mean),
        "std": _three_numbers("--std", options.std),
    }
    recorded: dict[str, Any] = {name: getattr(record, name) for name in published} if record else {}
    return ImportOptions(
        source=options.source,
        **{name: given[name] or recorded.get(name) or published[name] for name in published},
        data=options.data,
        config=config,
        reset_head=options.reset_head,
        record=record,
        assumed=tuple(
            name
            for name in published
            if not given[name] and not recorded.get(name) and (name == "classes" or not options.config)
        ),
    )


def _three_numbers(option: str, text: str) -> tuple[float, ...]:
    """Parses three numbers in (0, 1], separated by commas; an empty text gives none."""
    try:
        numbers = tuple(float(number) for number in text.split(",")) if text else ()
    except ValueError:
        numbers = (0.0,)
    if len(numbers) not in (0, 3) or not all(0 < number <= 1 for number in numbers):
        raise ValueError(f"{option}={text} must be three numbers above 0 and up to 1, as in {option}=0.5,0.4,0.6")
    return numbers


def main(arguments: Sequence[str]) -> None:
    parser = command_line.parser("interop.convert", SUMMARY, EXAMPLES)
    add = parser.add_argument
    add(
        "source",
        metavar="FILE|RUN",
        type=command_line.path,
        help="checkpoint to import, or with --to the run directory to export",
    )
    add(
        "--out",
        type=command_line.path,
        required=True,
        help="run directory to write, which must not exist; with --to the file to write",
    )
    add("--to", choices=FORMATS, help="export a run in this format")
    add("--checkpoint", default="best", choices=("best", "newest"), help="to export (default: %(default)s)")
    add("--label", type=command_line.class_name, help="the class that an imported GAN generates")
    add(
        "--data",
        default="",
        help="prepared dataset; for a GAN the one that it was trained on (verified for exports of this package)",
    )
    add(
        "--classes",
        help="names of the outputs, in order, with commas (default: what the file records, or those of phantom)",
    )
    add("--image-size", type=int, help="side of the images in px (default: likewise, or 299)")
    add("--resize", choices=("squash", "crop", "pad"), help="how they are made square (default: likewise, or squash)")
    add("--mean", default="", help="per channel in [0, 1], with commas (default: likewise, or the published one)")
    add("--std", default="", help="per channel, with commas (default: likewise, or the published one)")
    add("--config", help="configuration to continue training with; its fields as --config.FIELD=VALUE")
    add("--reset-head", action="store_true", help="new outputs for the classes of --data, to continue training")
    options, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if not argument.startswith("--config.") or options.to:
            raise ValueError(f"{argument} is not an option; python -m dim_jax.interop.convert --help lists them")
    command_line.start_logging()
    if options.to:
        from dim_jax.interop.exports import export_run

        command_line.say(export_run(options.source, options.out, options.to, options.checkpoint))
        return
    if Path(options.source).is_dir():
        raise ValueError(f"{options.source} is a folder; export a run with --to=torch, or give the file to import")
    import_options = _import_options(options, rest)
    from dim_jax.interop.imports import import_file

    command_line.say(import_file(options.source, options.out, import_options))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
