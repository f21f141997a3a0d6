"""Turns checkpoints of the published PyTorch code into run directories, and the weights of a run into such files."""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dim_jax.cli import command_line
from dim_jax.runs import files

if TYPE_CHECKING:
    from dim_jax.interop.imported_runs import Wanted
    from dim_jax.interop.published_files import PublishedCheckpoint

SUMMARY = """\
Turns a checkpoint of the published PyTorch code (.pth or .safetensors; LRF-CNN, or a GCGAN's pair of networks) into a
run directory, and with --to the weights of a run into such a file. A file is read without PyTorch, and nothing that it
asks for is run. What a file does not tell is taken as published: 299 px, the published mean and std, and the five
classes in the order of the published results; check with evaluate that the order is that of your file.

With --data, evaluate and report work on the run too. With --config and --data, train goes on with it: from the step of
the optimizer's state where the file holds one, otherwise from step 0 with these weights."""
EXAMPLES = """  python -m dim_jax.interop.convert best_model.pth --out=runs/imported                 # then predict
  python -m dim_jax.interop.convert best_model.pth --out=runs/imported --data=DATA     # then evaluate and report too
  python -m dim_jax.interop.convert checkpoint_epoch_20.pth --out=runs/imported --data=DATA \\
      --config=configs/published.py                                                    # then train --workdir=...
  python -m dim_jax.interop.convert all_40000.pth --out=runs/gan_normal --label=normal # then generate
  python -m dim_jax.interop.convert runs/a --to=torch --out=model.pth                  # or --to=safetensors"""
FORMATS = ("torch", "safetensors")


def import_file(path: str | Path, out: str | Path, wanted: "Wanted") -> str:
    """Writes the run directory `out` from a checkpoint of the published code.

    Args:
      path: .pth or .safetensors.
      out: where nothing is yet.
      wanted: what the file does not tell.

    Returns:
      What was found and written, in words.

    Raises:
      FileNotFoundError: the file or the data are not there.
      ValueError: the file is not what it should be, or something does not fit; nothing is written then.
    """
    from dim_jax.interop import imported_runs, published_files

    out = Path(os.path.abspath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out={out} exists already; give a folder that does not")
    saved = published_files.read(path)
    is_classifier = published_files.CLASSIFIER in saved.networks
    contents = (imported_runs.classifier if is_classifier else imported_runs.gan)(saved, wanted)
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with files.replacement(out, is_folder=True) as temporary:
        imported_runs.write(temporary, contents, {"imported from": f"{Path(path).name} SHA-256 {digest}"})
    return _told(saved, wanted, contents.states, out)


def _told(saved: "PublishedCheckpoint", wanted: "Wanted", states: dict[str, tuple[int, Any]], out: Path) -> str:
    from dim_jax.interop import published_files
    from dim_jax.training import loop

    lines = []
    for kind, network in saved.networks.items():
        count = sum(tensor.size for tensor in published_files.parameters(network.tensors).values())
        optimizer = f", {network.optimizer.name} at step {network.optimizer.step}" if network.optimizer else ""
        lines.append(f"{kind}: {count:,} parameters, step {network.step}{optimizer}")
    if saved.average:
        lines.append(f"moving average of the generator's {len(saved.average)} parameters")
    if published_files.CLASSIFIER in saved.networks:
        lines.append(f"outputs, in order: {', '.join(wanted.classes)}" + (", new" if wanted.reset_head else ""))
    if wanted.config:
        lines.append(f"train --workdir={out} goes on at step {states[loop.CHECKPOINTS][0]}")
    return "\n".join([*lines, str(out)])


def export(run: str | Path, out: str | Path, to: str, checkpoint: str = "best") -> str:
    """Writes the weights of a run as the published code saves them.

    Args:
      run: run directory.
      out: the file.
      to: "torch" or "safetensors".
      checkpoint: of a classifier: "best" by validation, or "newest"; of a GAN always the newest.

    Returns:
      What was written, in words.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint.
      ValueError: the published code has no such network.
    """
    from dim_jax.runs import configuration
    from dim_jax.weights import safetensor_files, torch_writer

    if Path(out).is_dir():
        raise ValueError(f"--out={out} is a folder; give the name of a file, for example {Path(out, 'model.pth')}")
    is_gan = configuration.read(run)["trainer"] == "gan"
    content, told = _gan(run) if is_gan else _classifier(run, checkpoint)
    if to == "torch":
        torch_writer.write(out, content)
    elif is_gan:
        safetensor_files.write(
            out, {f"{key}.{name}": tensor for key, part in content.items() for name, tensor in part.items()}
        )
    else:
        safetensor_files.write(out, content)
    return f"{told}\n{out}"


def _classifier(run: str | Path, checkpoint: str) -> tuple[dict[str, Any], str]:
    """Returns the state dict of a classifier's run, and what its user must know."""
    from dim_jax.evaluation import classifier_run
    from dim_jax.interop import published_files
    from dim_jax.models.lrf_cnn import LRFCNN
    from dim_jax.weights import torch_names

    opened = classifier_run.open_classifier_run(run, checkpoint)
    if not isinstance(opened.model, LRFCNN):
        name = opened.config["model"]["name"]
        raise ValueError(f"{run} is {name}, which the published code does not have; only LRF-CNN goes over")
    tensors = torch_names.to_torch(opened.variables, torch_names.lrf_cnn_names(opened.model))
    data = opened.config["data"]
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (opened.mean, opened.std))
    told = (
        f"LRF-CNN at step {opened.step}; outputs, in order: {', '.join(opened.classes)}\n"
        f"for images of {data['image_size']} px ({data['resize']}), scaled to [0, 1], mean {mean}, std {std}"
    )
    return published_files.with_counters(tensors, opened.step), told


def _gan(run: str | Path) -> tuple[dict[str, dict[str, Any]], str]:
    """Returns the two state dicts of a GAN's run, the generator's of averaged parameters, as the published N.pth."""
    from dim_jax.interop import published_files
    from dim_jax.models import make_gan
    from dim_jax.runs import configuration
    from dim_jax.training import checkpoints, loop
    from dim_jax.weights import gcgan_names

    config = configuration.read(run)
    restored = checkpoints.restore(Path(run, loop.CHECKPOINTS))
    if restored is None:
        raise FileNotFoundError(f"{run} holds no checkpoint yet; train the run first")
    if config["gan"]["conditional"]:
        raise ValueError(f"{run} is a class-conditional GAN, which the published code does not have")
    models = make_gan(config["data"]["image_size"], 0, **config["model"])
    content = {}
    for kind, model in zip((published_files.GENERATOR, published_files.DISCRIMINATOR), models, strict=True):
        if kind in restored.state:
            make = gcgan_names.generator_names if kind == published_files.GENERATOR else gcgan_names.discriminator_names
            variables = {name: restored.state[kind][name] for name in ("params", "batch_stats", "spectral")}
            if kind == published_files.GENERATOR:
                variables["params"] = restored.state["ema_params"]
            tensors = gcgan_names.to_torch(variables, make(model))
            content[published_files.KEYS[kind]] = published_files.with_counters(tensors, restored.step)
    return content, f"GCGAN of {config['gan']['label']} at step {restored.step}, averaged generator"


def _wanted(options: Any, overrides: Sequence[str]) -> "Wanted":
    """Returns what the command line says of an import.

    Raises:
      FileNotFoundError, ValueError: options that do not go together, or a configuration that cannot be read.
    """
    from dim_jax.data.manifest import load
    from dim_jax.interop.imported_runs import CLASSES, IMAGE_SIZE, MEAN, STD, Wanted
    from dim_jax.runs import config_flags

    if options.classes and options.label:
        raise ValueError("--classes names the outputs of a classifier, --label the class of a GAN; give one of them")
    if bool(options.config) and not options.data:
        raise ValueError("--config goes on training, which needs images; give a prepared dataset with --data=DATA")
    if (options.reset_head or overrides) and not options.config:
        option = "--reset-head" if options.reset_head else overrides[0]
        raise ValueError(f"{option} is for going on training; give --config=configs/published.py and --data=DATA too")
    if options.config and (options.image_size or options.mean or options.std):
        raise ValueError("with --config give size, mean and std as --config.data.image_size, .mean and .std")
    config = None
    if options.config:
        given = [f"--config={options.config}", f"--config.data.path={options.data}", f"--workdir={options.out}"]
        given += [f"--config.gan.label={options.label}"] if options.label else []
        config, *_ = config_flags.parse_flags([*given, *overrides])
    classes = tuple(command_line.comma_separated(options.classes or options.label or ""))
    if not classes:
        classes = load(options.data).classes if options.reset_head else CLASSES
    if len(set(classes)) != len(classes):
        raise ValueError(f"--classes={options.classes} names a class twice")
    return Wanted(
        source=options.source,
        classes=classes,
        data=options.data,
        image_size=options.image_size or IMAGE_SIZE,
        mean=_three_numbers("--mean", options.mean) or MEAN,
        std=_three_numbers("--std", options.std) or STD,
        config=config,
        reset_head=options.reset_head,
    )


def _three_numbers(option: str, text: str) -> tuple[float, ...]:
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
    add("--classes", help="names of the outputs, in order, with commas (default: the published ones, as in phantom)")
    add("--label", help="the class that an imported GAN draws")
    add("--data", default="", help="prepared dataset; of a GAN the one whose training images it saw, which is believed")
    add("--image-size", type=int, help="side of the images in px (default: 299)")
    add("--mean", default="", help="per channel in [0, 1], with commas (default: the published one)")
    add("--std", default="", help="per channel, with commas (default: the published one)")
    add("--config", help="configuration to go on training with; its fields as --config.FIELD=VALUE")
    add("--reset-head", action="store_true", help="new outputs for the classes of --data, to train further")
    options, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if not argument.startswith("--config.") or options.to:
            raise ValueError(f"{argument} is not an option; python -m dim_jax.interop.convert --help lists them")
    command_line.start_logging()
    if options.to:
        command_line.say(export(options.source, options.out, options.to, options.checkpoint))
        return
    if Path(options.source).is_dir():
        raise ValueError(f"{options.source} is a folder; export a run with --to=torch, or give the file to import")
    command_line.say(import_file(options.source, options.out, _wanted(options, rest)))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
