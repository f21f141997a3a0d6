"""Malformed pools of generated images, and lists of generated images for training."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from hostile_inputs.corpus import CORPUS, EVIL, Case, World, changed
from hostile_inputs.odd_images import png
from hostile_inputs.prepared_data import select_arguments, trained


def pool_case(name: str, change: Callable[[dict, Path], object] | bytes, *words: str) -> None:
    """Adds a pool with a changed pool.json, for `select`."""

    def make(folder: Path, world: World) -> Case:
        pool = shutil.copytree(world.pool, folder / "pool")
        path = pool / "polyp" / "pool.json"
        if isinstance(change, bytes):
            path.write_bytes(change)
        else:
            changed(path, lambda record: change(record, pool / "polyp"))
        return Case("select", select_arguments(folder, world, pool=pool), words)

    CORPUS[name] = ("pools", make)


def swapped(encoded: bytes) -> Callable[[dict, Path], None]:
    """Returns a change that replaces an image file, and its digest in the list."""

    def change(listed: dict, folder: Path) -> None:
        (folder / "seed00000.png").write_bytes(encoded)
        listed["images"][0]["sha256"] = hashlib.sha256(encoded).hexdigest()

    return change


def tagged(width: int, height: int) -> bytes:
    return png(width, height, 8, 2, zlib.compress(bytes(1000)), (b"tEXt", b"synthetic\0true"))


def whole_pixels(side: int, *chunks: tuple[bytes, bytes]) -> bytes:
    return png(side, side, 8, 2, zlib.compress(bytes(side * (1 + 3 * side))), *chunks)


pool_case("empty_pool_json", b"", "pool.json is not valid JSON")
pool_case("pool_json_nested_too_deeply", b'{"a":' * 50_000, "nested too deeply")
pool_case("pool_of_another_format", lambda record, _: record.update(format=99), "pool.json has format 99")
pool_case("pool_of_no_images", lambda record, _: record.update(images=[]), "lists no images")
pool_case("pool_of_another_split", lambda record, _: record.update(split_sha256="0" * 64), "another split")
pool_case("pool_of_an_unknown_class", lambda record, _: record.update({"class": EVIL[1]}), "unknown class", "\\x1b[2J")
pool_case(
    "pool_with_a_path_outside", lambda record, _: record["images"][0].update(path="../../a.png"), "leaves the folder"
)
pool_case("pool_with_an_edited_digest", lambda record, _: record["images"][0].update(sha256="0" * 64), "was changed")
pool_case("pool_of_wrong_size", lambda record, _: record.update(image_size=64), "32x32 pixels, its pool 64x64")
pool_case("pool_of_nan_truncation", lambda record, _: record.update(truncation=float("nan")), "'truncation'")
pool_case(
    "pool_of_a_discriminator_with_numbers",
    lambda record, _: record.update(discriminator_features=[1]),
    "'discriminator_features' must be a list of names",
)
pool_case("pool_with_a_negative_seed", lambda record, _: record["images"][0].update(seed=-5), "'seed'")
pool_case("pool_with_an_image_bomb", swapped(tagged(100_000, 100_000)), "seed00000.png", "too large")
pool_case("pool_with_a_text_for_an_image", swapped(b"no image"), "seed00000.png", "not an image of a known kind")
pool_case("pool_with_an_image_without_pixels", swapped(tagged(32, 32)), "seed00000.png", "cannot be decoded")
pool_case("pool_with_an_image_that_may_be_real", swapped(whole_pixels(32)), "is not marked as synthetic")


def list_case(name: str, entries: object, *words: str) -> None:
    """Adds a list of generated images for training, beside a text file named text.png and a pipe named pipe.png."""

    def make(folder: Path, world: World) -> Case:
        path = folder / "selected.json"
        path.write_text(json.dumps(entries))
        (folder / "text.png").write_bytes(b"no image")
        os.mkfifo(folder / "pipe.png")
        return trained(folder, world, world.data, words, f"--config.data.generated={path}")

    CORPUS[name] = ("pools", make)


def listed(path: str, label: str = "polyp", **more: object) -> dict:
    return {"images": [{"path": path, "label": label, **more}]}


list_case("list_that_is_no_object", [1, 2], "selected.json must hold")
list_case("list_of_numbers", {"images": [1]}, "selected.json must hold")
list_case("list_of_an_unknown_class", listed("text.png", "x"), "image 0: unknown label 'x'")
list_case("list_of_a_missing_image", listed("gone.png"), "image 0:", "gone.png does not exist")
list_case("list_of_a_pipe", listed("pipe.png"), "image 0:", "pipe.png does not exist")
list_case("list_of_a_very_long_name", listed("x" * 100_000), "image 0:", "does not exist")
list_case("list_of_a_text_file", listed("text.png"), "text.png: not an image of a known kind")
list_case("list_of_a_changed_image", listed("text.png", sha256="0" * 64), "text.png", "was changed")
