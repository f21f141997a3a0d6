"""Command lines with missing, unknown or out-of-range options."""

from collections.abc import Callable
from pathlib import Path

from dim_jax.__main__ import COMMANDS
from hostile_inputs.corpus import CORPUS, Case, World
from hostile_inputs.prepared_data import select_arguments


def line_case(name: str, command: str, arguments: Callable[[Path, World], tuple], *words: str) -> None:
    """Adds a command line that must be refused with `words` in the error."""
    CORPUS[name] = ("command lines", lambda folder, world: Case(command, arguments(folder, world), words))


for command in COMMANDS:
    line_case(f"unknown_option_of_{command}", command, lambda *_: ("--no-such-option=1",), "--")
for command in ("generate", "evaluate", "predict", "select", "report", "ensemble", "label_issues", "export"):
    line_case(f"nothing_for_{command}", command, lambda *_: (), "required")
for command, option in (
    ("prepare", "out"),
    ("generate", "workdir"),
    ("evaluate", "workdir"),
    ("select", "pool"),
    ("predict", "out"),
    ("interop.convert", "out"),
    ("report", "out"),
    ("ensemble", "out"),
    ("label_issues", "out"),
    ("review", "pool"),
    ("export", "out"),
    ("prepare", "group-regex"),
    ("prepare", "exclude"),
    ("prepare", "classes"),
    ("prepare", "split"),
    ("predict", "group-regex"),
    ("evaluate", "severity"),
    ("label_issues", "arm"),
    ("select", "reviews"),
    ("interop.convert", "label"),
    ("export", "images"),
):
    line_case(
        f"empty_{option}_for_{command}",
        command,
        lambda folder, world, option=option: (f"--{option}=", "x"),
        f"argument --{option}: the value is empty",
    )
line_case(
    "empty_workdir_for_train",
    "train",
    lambda folder, world: (f"--config={world.config}", "--workdir="),
    "--workdir is missing",
)
line_case("nothing_for_prepare", "prepare", lambda folder, world: (f"--out={folder / 'out'}",), "give --source")
line_case("nothing_for_review", "review", lambda *_: (), "--pool is missing")


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


# --- ensemble, label_issues, review, export --------------------------------------------------------------------------


def of_run(command: str, *options: str, run: str = "classifier") -> Callable[[Path, World], tuple]:
    """Returns the arguments of a command on a run of the world, with OUT for a path in the case's folder."""
    out = {"export": "model.onnx"}.get(command, "out")
    return lambda folder, world: (
        str(getattr(world, run)), *(option.replace("OUT", str(folder)) for option in options), f"--out={folder / out}"
    )  # fmt: skip


def of_review(*options: str, **changes: str) -> Callable[[Path, World], tuple]:
    """Returns the arguments of a page of a review, of which `changes` replace some; None drops one."""

    def make(folder: Path, world: World) -> tuple:
        given = {"pool": world.pool, "data": world.data, "out": folder / "review.html"} | changes
        return (*(f"--{name}={value}" for name, value in given.items() if value is not None), *options)

    return make


def in_place_of_out(command: str, *options: str, out: str, run: str = "classifier") -> Callable[[Path, World], tuple]:
    """Returns arguments whose output is something of the world."""
    return lambda folder, world: (str(getattr(world, run)), *options, f"--out={getattr(world, out)}")


def user_file(folder: Path, name: str, text: str = "mine") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


line_case("list_of_commas", "prepare", prepare_options("--exclude=,,"), "',,' has no names")
line_case("ensemble_of_no_run", "ensemble", of_run("ensemble", run="slides"), "holds no run")
line_case("ensemble_of_a_gan", "ensemble", of_run("ensemble", run="gan"), "not of a classifier")
line_case(
    "ensemble_of_a_run_twice",
    "ensemble",
    lambda folder, world: (str(world.classifier),) * 2 + (f"--out={folder / 'x'}",),
    "given twice",
)
line_case("ensemble_in_a_run", "ensemble", in_place_of_out("ensemble", out="classifier"), "holds no ensemble")
line_case("ensemble_in_a_file", "ensemble", in_place_of_out("ensemble", out="config"), "is a file")
line_case("ensemble_among_files", "ensemble", in_place_of_out("ensemble", out="slides"), "holds no ensemble")
line_case(
    "ensemble_of_a_name_with_escapes",
    "ensemble",
    lambda folder, world: ("a\x1b[2J", f"--out={folder / 'x'}"),
    "a\\x1b[2J",
)
line_case("label_issues_of_no_run", "label_issues", of_run("label_issues", run="slides"), "holds no run")
line_case("label_issues_without_evaluation", "label_issues", of_run("label_issues"), "dim_jax.evaluate --workdir=")
line_case(
    "label_issues_of_an_arm", "label_issues", of_run("label_issues", "--arm=dim"), "--arm=dim is of an experiment"
)
line_case("label_issues_of_a_gan", "label_issues", of_run("label_issues", run="gan"), "gan")
line_case("label_issues_of_prepared_data", "label_issues", of_run("label_issues", run="data"), "holds no run")
line_case("review_without_out", "review", of_review(out=None), "--out is missing")
line_case("review_without_data", "review", of_review(data=None), "--data is missing")
line_case("review_of_no_images", "review", of_review("--num=0"), "--num=0 must be at least 1")
line_case("review_of_many_images", "review", of_review("--num=many"), "invalid int value")
line_case(
    "review_and_scores_at_once", "review", of_review("--score", "a.json", "--key=a.json"), "can't be given with --score"
)
line_case("review_that_is_no_page", "review", of_review(out="review.pdf"), "must end in .html")
line_case("review_of_slides", "review", lambda folder, world: of_review(pool=world.slides)(folder, world), "pool")
line_case(
    "review_with_data_of_a_gan",
    "review",
    lambda folder, world: of_review(data=world.slides)(folder, world),
    "manifest.json: no such file",
)
line_case(
    "review_over_a_page",
    "review",
    lambda folder, world: of_review(out=user_file(folder, "mine.html"))(folder, world),
    "would overwrite",
)
line_case(
    "review_over_a_key",
    "review",
    lambda folder, world: (user_file(folder, "review_key.json", "{}"), of_review()(folder, world))[1],
    "is not the key of a review",
)
line_case("scores_without_a_key", "review", lambda *_: ("--score", "a.json"), "--key is missing")
line_case(
    "scores_of_no_key",
    "review",
    lambda folder, world: ("--score", "a.json", f"--key={folder / 'key.json'}"),
    "no such file",
)
line_case(
    "scores_of_another_key",
    "review",
    lambda folder, world: ("--score", "a.json", f"--key={user_file(folder, 'k.json', '[1]')}"),
    "k.json holds a list",
)
line_case("export_without_a_format", "export", of_run("export"), "required: --to")
line_case("export_in_another_format", "export", of_run("export", "--to=tflite"), "invalid choice: 'tflite'")
line_case("export_of_no_run", "export", of_run("export", "--to=stablehlo", run="slides"), "holds no run")
line_case(
    "export_of_weights_with_options",
    "export",
    of_run("export", "--to=safetensors", "--adjust"),
    "--adjust is for programs",
)
line_case(
    "export_of_a_gan_with_options",
    "export",
    of_run("export", "--to=stablehlo", "--calibrate", run="gan"),
    "is a GAN; --images",
)
line_case("export_without_an_adjustment", "export", of_run("export", "--to=stablehlo", "--adjust"), "has no adjustment")
line_case(
    "export_with_no_such_images",
    "export",
    of_run("export", "--to=stablehlo", "--images", "OUT/none"),
    "no such file or folder",
)
line_case("export_into_a_folder", "export", in_place_of_out("export", "--to=safetensors", out="slides"), "is a folder")
line_case(
    "export_over_a_file",
    "export",
    lambda folder, world: (str(world.classifier), "--to=safetensors", f"--out={user_file(folder, 'a.safetensors')}"),
    "would overwrite",
)
line_case(
    "export_below_a_file",
    "export",
    lambda folder, world: (str(world.classifier), "--to=safetensors", f"--out={user_file(folder, 'a')}/b.safetensors"),
    "which is a file",
)
