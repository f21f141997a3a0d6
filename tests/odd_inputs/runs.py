"""Folders of any name, what exports know, files of the user's in output folders, and two calls into one folder."""

import contextlib
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from published_weights import small_state_dict, write_gan
from torch_pickles import write_state_dict

from dim_jax.data.dataset import open_dataset
from dim_jax.data.preparation import prepare_dataset
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.gan import generation, pools
from dim_jax.gan.gan_run import GanRun
from dim_jax.runs import files
from dim_jax.runs.config_flags import load_file
from dim_jax.runs.configuration import override, parse_config
from odd_inputs.corpus import Result, odd_input, run, snapshot, write_classes, write_image

CLASSES = "normal,polyp,low_grade_in,high_grade_in,adenocarcinoma"


def at_once(function: Callable[[int], Any], arguments: tuple[int, ...]) -> list[Any]:
    """Calls a function with all arguments at the same time, without what it prints."""
    silenced = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with silenced[0], silenced[1], ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(function, arguments))


def weights(folder: Path) -> Path:
    """Writes weights of a small LRF-CNN, which say nothing about classes and images."""
    return write_state_dict(folder / "weights.pth", small_state_dict())


def imported(folder: Path, out: Path) -> Path:
    """Imports them with other classes and preprocessing than the published ones."""
    facts = ("--classes=e,d,c,b,a", "--image-size=32", "--resize=pad", "--mean=0.5,0.4,0.3", "--std=0.3,0.2,0.1")
    run("interop.convert", weights(folder), f"--out={out}", *facts).succeeded()
    return out


def restored(folder: Path, name: str) -> str:
    """Saves a run in a folder of that name, restores it, and returns the step."""
    place = folder / name
    run("interop.convert", weights(folder), f"--out={place}").succeeded()
    assert open_classifier_run(place).step == 7
    assert sorted(os.listdir(folder)) == sorted([place.relative_to(folder).parts[0], "weights.pth"])
    return f"{name}: saved and restored at step 7"


@odd_input("runs")
def run_in_brackets(folder: Path) -> str:
    return restored(folder, "imported [v2]")


@odd_input("runs")
def run_below_a_glob(folder: Path) -> str:
    return restored(folder, "fold[1]/[a-z]*/run?")


@odd_input("runs")
def run_with_a_backslash(folder: Path) -> str:
    return restored(folder, "D:\\runs\\a")


@odd_input("runs")
def run_with_a_scheme(folder: Path) -> str:
    return restored(folder, "gs:/bucket/run")


def exported(folder: Path, suffix: str) -> str:
    """Exports and imports again; returns the outputs and the preprocessing that came back."""
    first, file = imported(folder, folder / "first"), folder / f"model.{suffix}"
    run("interop.convert", first, f"--to={'torch' if suffix == 'pth' else suffix}", f"--out={file}").succeeded()
    outcome = run("interop.convert", file, f"--out={folder / 'again'}").warned("images of 32 px (pad)")
    one, other = open_classifier_run(first), open_classifier_run(folder / "again")
    assert other.classes == tuple("edcba") and np.array_equal(one.mean, other.mean)
    assert np.array_equal(one.std, other.std) and one.config.data.resize == other.config.data.resize
    return f"outputs e, d, c, b, a; {outcome}"


@odd_input("exports")
def export_to_safetensors(folder: Path) -> str:
    return exported(folder, "safetensors")


@odd_input("exports")
def export_to_torch(folder: Path) -> str:
    return exported(folder, "pth")


@odd_input("exports")
def weights_of_unknown_order(folder: Path) -> str:
    """The classes of the data are in the order of the alphabet, and the file says nothing."""
    write_classes(folder / "slides", 6, tuple(CLASSES.split(",")))
    data = folder / "data"
    alphabetical = f"--classes={','.join(sorted(CLASSES.split(',')))}"
    run("prepare", f"--source={folder / 'slides'}", f"--out={data}", "--image-size=32", alphabetical).succeeded()
    command = ("interop.convert", weights(folder), f"--data={data}", f"--out={folder / 'run'}")
    before = snapshot(folder)
    outcome = run(*command).refused("does not record the order of its outputs", "--classes=adenocarcinoma,")
    assert snapshot(folder) == before
    run(*command, f"--classes={CLASSES}").succeeded()
    assert open_classifier_run(folder / "run").classes == tuple(CLASSES.split(","))
    return outcome


@odd_input("exports")
def pool_of_another_policy(folder: Path) -> str:
    with_facts = {"image_size": 32, "resize": "crop"}
    config = parse_config(load_file("classifier").to_dict())
    try:
        pools.check_preprocessing(with_facts, "selected.json", override(config, [("data.resize", "pad")]).data)
    except ValueError as error:
        return f"refused: {error}"
    raise AssertionError("accepted")


def refused_with_files(folder: Path, mine: list[Path], *command: object) -> str:
    """Runs a command into a folder with files of the user's, and checks that nothing changed."""
    for path in mine:
        files.write_text(path, "mine")
    before = snapshot(folder)
    result = run(*map(str, command))
    assert snapshot(folder) == before
    return result.refused("would overwrite", mine[0].name)


@odd_input("existing files")
def overlays_of_the_user(folder: Path) -> str:
    """Files that are named like overlays, and then one with the name of an overlay."""
    model = imported(folder, folder / "run")
    images = [write_image(folder / "images" / f"{name}.png", at) for at, name in enumerate("xy")]
    mine = [folder / "out" / "overlays" / name for name in ("12_x.png", "00009_x.png")]
    for path in mine:
        files.write_text(path, "mine")
    command = ("predict", *images, f"--workdir={model}", f"--out={folder / 'out'}", "--batch-size=8")
    for number in (2, 1):
        run(*command, f"--overlays={number}").succeeded()
        assert all(path.read_text() == "mine" for path in mine)
        assert len(list((folder / "out" / "overlays").iterdir())) == 2 + number
    taken = folder / "other" / "overlays" / "00001_x.png"
    command = (*command[:-2], f"--out={folder / 'other'}", "--batch-size=8")
    return "kept; " + refused_with_files(folder, [taken], *command, "--overlays=1")


@odd_input("existing files")
def page_of_the_user(folder: Path) -> str:
    imported(folder, folder / "run")
    page = folder / "page.html"
    return refused_with_files(folder, [page], "report", folder / "run", f"--out={page}")


@odd_input("existing files")
def export_over_a_file_of_the_user(folder: Path) -> str:
    imported(folder, folder / "run")
    file = folder / "thesis.pth"
    return refused_with_files(folder, [file], "interop.convert", folder / "run", "--to=torch", f"--out={file}")


@odd_input("existing files")
def pool_among_real_images(folder: Path) -> str:
    run("interop.convert", write_gan(folder / "all_1.pth"), f"--out={folder / 'gan'}", "--label=polyp").succeeded()
    write_image(folder / "slides" / "polyp" / "seed00001.png", 1)
    before = snapshot(folder)
    result = run("generate", f"--workdir={folder / 'gan'}", "--num=1", f"--out={folder / 'slides'}")
    assert snapshot(folder) == before
    return result.refused("seed00001.png is in no pool of this model")


@odd_input("existing files")
def run_in_a_prepared_folder(folder: Path) -> str:
    data = folder / "data"
    write_classes(folder / "slides", 12)
    run("prepare", f"--source={folder / 'slides'}", f"--out={data}", "--image-size=32").succeeded()
    before = snapshot(folder)
    result = run("train", "--config=classifier:test", f"--config.data.path={data}", f"--workdir={data}")
    assert snapshot(folder) == before
    return result.refused("is no run, and a run would replace its manifest.json")


@odd_input("preconditions")
def class_of_a_single_image(folder: Path) -> str:
    write_classes(folder / "slides", 12)
    write_image(folder / "slides" / "rare" / "only.png", 99)
    before = snapshot(folder)
    outcome = run(
        "train", "--config=experiment:test", f"--config.data.path={folder / 'slides'}", "--config.folds=()",
        "--config.only=cross_entropy,copies_30", f"--workdir={folder / 'dim'}",
    ).refused("class 'rare' has no training images")  # fmt: skip
    assert snapshot(folder) == before
    return outcome


@odd_input("preconditions")
def fault_of_the_program(folder: Path) -> str:
    from dim_jax import evaluate
    from dim_jax.cli import command_line

    main, evaluate.main = evaluate.main, lambda arguments: 1 // 0
    try:
        result: Result = run("evaluate")
    finally:
        evaluate.main = main
    assert result.code == command_line.FAULT and "Traceback" in result.output, result
    return f"exit code {result.code}: {result.output.strip().splitlines()[-1]}"


@odd_input("two calls")
def two_preparations_of_one_folder(folder: Path) -> str:
    write_classes(folder / "slides", 12)

    def prepare(number: int) -> str:
        try:
            return str(prepare_dataset(folder / "slides", folder / "data", image_size=16))
        except ValueError as error:
            return f"error: {error}"

    done, refused = sorted(at_once(prepare, (1, 2)), key=len)
    assert done == str(folder / "data") and len(open_dataset(folder / "data")) == 24
    assert sorted(os.listdir(folder)) == ["data", "slides"]
    assert "was written by another process meanwhile" in refused or refused == done, refused
    return f"one prepares; the other: {refused}"


@odd_input("two calls")
def two_calls_into_one_pool(folder: Path) -> str:
    """Seeds 8 to 15 and 16 to 23, of a generator of noise."""

    def noise(seeds, label, truncation):
        for seed in seeds:
            yield np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)

    synthesizer, open_run = SimpleNamespace(images=noise, model_hash="ab" * 32), generation.open_run
    generation.open_run = lambda workdir: GanRun(Path(workdir), 7, synthesizer, ("a",), "", "a", "squash", ())
    try:
        at_once(lambda first: generation.generate_pool("gan", folder / "pool", 8, first), (8, 16))
    finally:
        generation.open_run = open_run
    (made,) = pools.load(folder / "pool")
    assert {image.path for image in made.images} == set((folder / "pool" / "a").glob("*.png"))
    return f"{len(made.images)} of 16 images are listed"
