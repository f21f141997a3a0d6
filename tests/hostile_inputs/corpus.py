"""What a hostile input is, and how one joins the corpus."""

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
    """Whole inputs that cases copy and spoil.

    Attributes:
      slides: two class folders of six small images each.
      data: prepared data of five classes.
      classifier, gan: runs that were imported with these data; the GAN draws its class alone.
      pool: generated images of one class of the data.
      config: a small configuration of a classifier.
    """

    slides: Path
    data: Path
    classifier: Path
    gan: Path
    pool: Path
    config: Path


@dataclass(frozen=True)
class Case:
    """A command line and what must come of it.

    Attributes:
      command: module below dim_jax.
      arguments: its command line.
      words: what the one line of an error must hold; () where the input is to be converted.
      check: called after a success, raises where the result is not what it must equal.
    """

    command: str
    arguments: tuple[str, ...]
    words: tuple[str, ...] = ()
    check: Callable[[], None] | None = None


Make = Callable[[Path, World], Case]
CORPUS: dict[str, tuple[str, Make]] = {}


def hostile(group: str) -> Callable[[Make], Make]:
    """Adds a function to the corpus."""

    def add(make: Make) -> Make:
        CORPUS[make.__name__] = (group, make)
        return make

    return add


def write_pictures(folder: Path, number: int, first: int) -> None:
    """Smooth pictures that no two seeds draw alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for at in range(number):
        coarse = np.random.default_rng(first + at).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(folder / f"{at}.png")


def changed(path: Path, change: Callable[[dict], object]) -> Path:
    """Changes the content of a JSON file."""
    content = files.read_json(path)
    change(content)
    path.write_text(json.dumps(content))
    return path


def assert_harmless(text: str, *, is_page: bool = False) -> None:
    """Checks that nothing in a text commands a terminal, and in a page nothing of EVIL became an element."""
    assert not set(text) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}
    if is_page:
        assert "<script" not in text and "<b>" not in text and "<img src=x" not in text


def renamed(value: object, names: dict[str, str]) -> object:
    """Returns a JSON value in which names, also as keys and within texts, are others."""
    if isinstance(value, dict):
        return {renamed(key, names): renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [renamed(item, names) for item in value]
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
    return value
