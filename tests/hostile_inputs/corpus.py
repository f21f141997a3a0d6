"""Types of the corpus, the decorator that adds a case, and checks and helpers for cases."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dim_jax.runs import files

SIDE = 24
EVIL = ("<script>alert(1)</script>", "a\x1b[2J\x1b]0;owned\x07b", "q\"'&<b>", "=HYPERLINK(1)", "line\nbreak\ttab")


@dataclass(frozen=True)
class World:
    """Valid inputs that cases copy and modify.

    Attributes:
      slides: two class folders of six small images each.
      data: prepared data of five classes.
      classifier, gan: imported runs on these data; the GAN generates one class.
      pool: generated images of one class of the data.
      config: path of a small classifier configuration.
    """

    slides: Path
    data: Path
    classifier: Path
    gan: Path
    pool: Path
    config: Path


@dataclass(frozen=True)
class Case:
    """A command line and its expected outcome.

    Attributes:
      command: module below dim_jax.
      arguments: arguments of the command.
      words: texts that the one-line error must have; () if the command must succeed.
      check: called after a success; raises if the result is wrong.
    """

    command: str
    arguments: tuple[str, ...]
    words: tuple[str, ...] = ()
    check: Callable[[], None] | None = None


Make = Callable[[Path, World], Case]
CORPUS: dict[str, tuple[str, Make]] = {}


def hostile(group: str) -> Callable[[Make], Make]:
    """Returns a decorator that adds a function to a group of the corpus."""

    def add(make: Make) -> Make:
        CORPUS[make.__name__] = (group, make)
        return make

    return add


def write_pictures(folder: Path, number: int, first: int) -> None:
    """Writes smooth random images with the seeds from `first` on, named 0.png, 1.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        coarse = np.random.default_rng(first + index).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(folder / f"{index}.png")


def changed(path: Path, change: Callable[[dict], object]) -> Path:
    """Applies `change` to the object in a JSON file and returns its path."""
    record = files.read_json(path)
    change(record)
    path.write_text(json.dumps(record))
    return path


def assert_harmless(text: str, *, is_page: bool = False) -> None:
    """Checks that a text has no control characters, and that no name in EVIL is an element of an HTML page."""
    assert not set(text) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}
    if is_page:
        assert "<script" not in text and "<b>" not in text and "<img src=x" not in text


def renamed(value: object, names: dict[str, str]) -> object:
    """Returns a JSON value with names replaced, in keys and within strings too."""
    if isinstance(value, dict):
        return {renamed(key, names): renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [renamed(item, names) for item in value]
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
    return value
