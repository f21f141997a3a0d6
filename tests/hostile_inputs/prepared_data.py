"""Changed manifests, splits and packed pixels, for `train`."""

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dim_jax.data import manifest as manifests
from hostile_inputs.corpus import CORPUS, Case, World, changed, hostile


def data_of(folder: Path, world: World) -> Path:
    return shutil.copytree(world.data, folder / "data")


def trained(folder: Path, world: World, data: Path, words: tuple[str, ...], *options: str) -> Case:
    """Returns a case of `train` on `data` that must be refused before compilation."""
    config = (f"--config={world.config}:test", f"--config.data.path={data}", "--config.optimizer.warmup_epochs=0")
    sizes = ("--config.train.global_batch_size=8", "--config.train.eval_batch_size=16")
    return Case("train", (*config, *sizes, f"--workdir={folder / 'run'}", *options), words)


def select_arguments(folder: Path, world: World, **changes: Path) -> tuple[str, ...]:
    inputs = {"pool": world.pool, "data": world.data, "classifier": world.classifier, "out": folder / "selected"}
    return (*(f"--{name}={path}" for name, path in (inputs | changes).items()), "--features=classifier")


def data_case(name: str, file: str, change: Callable[[dict], object] | bytes, *words: str) -> None:
    """Adds prepared data with one changed file, for `train`."""

    def make(folder: Path, world: World) -> Case:
        data = data_of(folder, world)
        if isinstance(change, bytes):
            (data / file).write_bytes(change)
        else:
            changed(data / file, change)
        return trained(folder, world, data, (file, *words))

    CORPUS[name] = ("splits and manifests", make)


def first_fold(change: Callable[[dict], object]) -> Callable[[dict], object]:
    return lambda record: change(record["folds"][0])


SPLIT, MANIFEST = "split.json", "manifest.json"
data_case("empty_split", SPLIT, b"", "is not valid JSON", "restore it")
data_case("split_of_bytes", SPLIT, bytes(range(256)), "is not valid JSON")
data_case("split_nested_100_000_deep", SPLIT, b"[" * 100_000, "nested too deeply")
data_case("split_of_a_number_of_10_000_digits", SPLIT, b"1" * 10_000, "is not valid JSON")
data_case("split_that_is_a_list", SPLIT, b"[1, 2]", "version None")
data_case("split_for_too_few_images", SPLIT, first_fold(lambda fold: fold["assignment"].pop()), "divides")
data_case("split_of_unknown_parts", SPLIT, first_fold(lambda fold: fold["assignment"].append("dev")), "divides")
data_case(
    "split_that_names_parts_wrong",
    SPLIT,
    first_fold(lambda fold: fold["assignment"].__setitem__(0, "dev")),
    "unknown split 'dev'",
)
data_case(
    "split_with_a_list_for_a_part",
    SPLIT,
    first_fold(lambda fold: fold["assignment"].__setitem__(0, ["val"])),
    "fold 0: 'assignment' must be a list",
)
data_case("split_by_one_word", SPLIT, first_fold(lambda fold: fold.update(assignment="train")), "must be a list")
data_case("split_by_a_number", SPLIT, first_fold(lambda fold: fold.update(assignment=7)), "must be a list")
data_case(
    "split_with_nan_for_the_mean",
    SPLIT,
    first_fold(lambda fold: fold["mean"].__setitem__(0, float("nan"))),
    "fold 0: 'mean' must be three numbers",
)
data_case("split_with_two_channels", SPLIT, first_fold(lambda fold: fold["std"].pop()), "'std' must be three numbers")
data_case("split_with_a_std_of_0", SPLIT, first_fold(lambda fold: fold.update(std=[0, 1, 1])), "'std' must be three")
data_case("split_of_no_fold", SPLIT, lambda record: record.update(folds=[]), "has no folds")
data_case("split_of_another_manifest", SPLIT, lambda record: record.update(manifest="0" * 64), "another manifest")
data_case("split_with_a_list_for_a_seed", SPLIT, lambda record: record.update(seed=[0]), "'seed' an integer")
data_case(
    "manifest_with_a_path_outside",
    MANIFEST,
    lambda record: record["rows"][0].update(path="../../etc/passwd"),
    "row 0: path '../../etc/passwd' leaves the image folder",
)
data_case(
    "manifest_of_absolute_paths",
    MANIFEST,
    lambda record: record["rows"][0].update(path="/etc/passwd"),
    "row 0: path '/etc/passwd' leaves the image folder",
)
data_case(
    "manifest_with_half_a_character",
    MANIFEST,
    lambda record: record["classes"].__setitem__(0, "\ud800"),
    "is not valid JSON",
    "surrogates",
)
data_case("manifest_of_no_classes", MANIFEST, lambda record: record.update(classes=[]), "'classes' must be a list")
data_case("manifest_with_a_row_of_text", MANIFEST, lambda record: record["rows"].append("x"), "'rows' must be")


@hostile("splits and manifests")
def split_of_another_order(folder, world):
    """The rows of the manifest are reversed, so that the split refers to other images."""
    data = data_of(folder, world)
    changed(data / MANIFEST, lambda record: record["rows"].reverse())
    return trained(folder, world, data, (SPLIT, "was drawn for another manifest"))


@hostile("splits and manifests")
def manifest_that_is_a_pipe(folder, world):
    data = data_of(folder, world)
    (data / MANIFEST).unlink()
    os.mkfifo(data / MANIFEST)
    return Case("select", select_arguments(folder, world, data=data), ("manifest.json: no such file",))


@hostile("splits and manifests")
def packed_pixels_with_a_header_of_a_terabyte(folder, world):
    data = data_of(folder, world)
    changed(data / MANIFEST, lambda record: record.update(packed="packed.npz"))
    fingerprint = manifests.load(data).fingerprint
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 32, 32, 3 * 2**18)}
    )
    with zipfile.ZipFile(data / "packed.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        for name, text in (("resize", "squash"), ("fingerprint", fingerprint)):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.array(text))
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return trained(folder, world, data, ("packed.npz", "prepare the data again"), "--config.data.backend=resident")
