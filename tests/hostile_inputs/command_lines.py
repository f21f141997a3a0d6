"""Command lines with missing, unknown or out-of-range options."""

from collections.abc import Callable
from pathlib import Path

from hostile_inputs.corpus import CORPUS, Case, World
from hostile_inputs.prepared_data import select_arguments


def line_case(name: str, command: str, arguments: Callable[[Path, World], tuple], *words: str) -> None:
    """Adds a command line that must be refused with `words` in the error."""
    CORPUS[name] = ("command lines", lambda folder, world: Case(command, arguments(folder, world), words))


COMMANDS = ("prepare", "train", "generate", "select", "evaluate", "predict", "report", "interop.convert")
for command in COMMANDS:
    line_case(f"unknown_option_of_{command}", command, lambda *_: ("--no-such-option=1",), "--")
for command in ("generate", "evaluate", "predict", "select"):
    line_case(f"nothing_for_{command}", command, lambda *_: (), "required")
for command, option in (
    ("prepare", "out"),
    ("generate", "workdir"),
    ("evaluate", "workdir"),
    ("select", "pool"),
    ("predict", "out"),
    ("interop.convert", "out"),
    ("report", "out"),
):
    line_case(
        f"empty_path_for_{command}",
        command,
        lambda folder, world, option=option: (f"--{option}=", "x"),
        f"argument --{option}: the path is empty",
    )
line_case(
    "empty_workdir_for_train",
    "train",
    lambda folder, world: (f"--config={world.config}", "--workdir="),
    "--workdir is missing",
)
line_case("nothing_for_prepare", "prepare", lambda folder, world: (f"--out={folder / 'out'}",), "give --source")
line_case("nothing_for_report", "report", lambda *_: (), "required")


def gan_options(*options: str) -> Callable[[Path, World], tuple]:
    return lambda folder, world: (f"--workdir={world.gan}", f"--out={folder / 'pool'}", *options)


def prepare_options(*options: str) -> Callable[[Path, World], tuple]:
    return lambda folder, world: (f"--source={world.slides}", f"--out={folder / 'out'}", *options)


def phantom_options(*options: str) -> Callable[[Path, World], tuple]:
    return lambda folder, world: ("--source=phantom", f"--out={folder / 'out'}", *options)


line_case("huge_number_of_images", "generate", gan_options(f"--num={10**12}"), "--num=1000000000000")
line_case("text_for_a_number_of_images", "generate", gan_options("--num=many"), "invalid int value: 'many'")
line_case("seed_beyond_32_bits", "generate", gan_options(f"--first-seed={2**31 - 1}", "--num=2"), "--first-seed=")
line_case("truncation_of_nan", "generate", gan_options("--truncation=nan"), "--truncation=nan must be")
line_case("infinite_truncation", "generate", gan_options("--truncation=inf"), "--truncation=inf must be")
line_case("class_that_the_gan_does_not_generate", "generate", gan_options("--label=normal"), "generates only polyp")
line_case(
    "run_of_a_classifier_to_generate_from",
    "generate",
    lambda folder, world: (f"--workdir={world.classifier}", f"--out={folder / 'pool'}"),
    "not of a GAN",
)
line_case(
    "run_of_a_gan_to_evaluate", "evaluate", lambda folder, world: (f"--workdir={world.gan}",), "not of a classifier"
)
line_case(
    "unknown_split_to_evaluate",
    "evaluate",
    lambda folder, world: (f"--workdir={world.classifier}", "--split=dev"),
    "invalid choice: 'dev'",
)
line_case("tiny_image_size", "prepare", prepare_options("--image-size=-5"), "--image-size=-5")
line_case("huge_image_size", "prepare", prepare_options("--image-size=1000000"), "--image-size=1000000")
line_case("huge_number_of_folds", "prepare", prepare_options("--split=kfold", f"--folds={10**9}"), "--folds=1000000000")
line_case("validation_of_nan", "prepare", prepare_options("--validation=nan"), "--validation=nan")
line_case("scale_of_nan", "prepare", phantom_options("--scale=nan"), "--scale=nan")
line_case("scale_of_a_billion", "prepare", phantom_options("--scale=1e9"), "--scale=1000000000.0")
line_case("invalid_group_regex", "prepare", prepare_options("--group-regex=(["), "is not a regular expression")
line_case("empty_class_name", "prepare", prepare_options("--classes=normal,"), "empty or repeated name")
line_case(
    "out_below_a_file",
    "prepare",
    lambda folder, world: (f"--source={world.slides}", f"--out={world.config / 'x'}"),
    "classifier.py",
)
line_case(
    "out_of_a_long_name",
    "prepare",
    lambda folder, world: (f"--source={world.slides}", f"--out={folder / ('x' * 5000)}"),
    "name too long",
)
line_case("keep_of_0", "select", lambda folder, world: (*select_arguments(folder, world), "--keep=0"), "--keep=0")
line_case(
    "probability_of_nan",
    "select",
    lambda folder, world: (*select_arguments(folder, world), "--least-probability=nan"),
    "least_probability=nan",
)
line_case(
    "batch_size_of_0",
    "predict",
    lambda folder, world: (
        str(world.slides),
        f"--workdir={world.classifier}",
        f"--out={folder / 'out'}",
        "--batch-size=0",
    ),
    "--batch-size=0",
)
line_case(
    "no_such_images",
    "predict",
    lambda folder, world: ("a\x1b[2J.png", f"--workdir={world.classifier}", f"--out={folder / 'out'}"),
    "a\\x1b[2J.png: no such file or folder",
)
line_case("report_of_a_folder_without_run", "report", lambda folder, world: (str(folder),), "is not a run directory")
line_case("report_of_a_run_twice", "report", lambda folder, world: (str(world.classifier),) * 2, "given twice")
line_case(
    "export_of_a_folder_without_run",
    "interop.convert",
    lambda folder, world: (str(folder), "--to=torch", f"--out={folder}/a"),
    "holds no run",
)
line_case(
    "text_for_the_mean",
    "interop.convert",
    lambda folder, world: ("x.pth", f"--out={folder / 'run'}", "--mean=a,b,c"),
    "--mean=a,b,c must be three numbers",
)
line_case("workdir_that_is_not_utf8", "evaluate", lambda *_: ("--workdir=\udcff",), "is not valid UTF-8")
