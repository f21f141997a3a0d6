"""The decorator that adds an odd input, and the functions that run a command and check its outcome."""

import contextlib
import hashlib
import importlib
import io
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dim_jax.cli import command_line

OddInput = Callable[[Path], str]
ODD_INPUTS: dict[str, tuple[str, OddInput]] = {}  # name -> (group, function)


def odd_input(group: str, name: str = "") -> Callable[[OddInput], OddInput]:
    """Returns a decorator that adds a function to a group.

    The function gets an empty folder, draws its input there, gives it to a command, checks the result and returns the
    outcome as a phrase: what it was read as, the warning, or the error.

    Args:
      group: the group of inputs.
      name: name of the input; "" takes that of the function.
    """

    def add(check: OddInput) -> OddInput:
        key = name or check.__name__
        assert key not in ODD_INPUTS, f"two odd inputs are called {key}"
        ODD_INPUTS[key] = (group, check)
        return check

    return add


@dataclass(frozen=True)
class Result:
    """Result of a command.

    Attributes:
      code: exit code.
      output: what it printed and logged.
    """

    code: int
    output: str

    def succeeded(self) -> "Result":
        """Returns itself; raises unless the exit code is 0."""
        assert self.code == 0, self.output
        return self

    def warned(self, *words: str) -> str:
        """Returns the first line of a successful command that has all the words; raises if there is none."""
        self.succeeded()
        for line in self.output.splitlines():
            if all(word in line for word in words):
                return line.strip()
        raise AssertionError(f"no line has {', '.join(words)}:\n{self.output}")

    def refused(self, *words: str) -> str:
        """Returns the error line, which must have all the words; raises unless the exit code is 2."""
        lines = self.output.strip().splitlines() or [""]
        assert self.code == 2 and lines[-1].startswith("error: "), f"exit code {self.code}:\n{self.output}"
        missing = [word for word in words if word not in lines[-1]]
        assert not missing, f"the error lacks {', '.join(missing)}: {lines[-1]}"
        return lines[-1]


def run(command: str, *arguments: object) -> Result:
    """Runs a command of the package in this process."""
    main = importlib.import_module(f"dim_jax.{command}").main
    sys.modules.pop("config_config", None)  # config_flags keeps the first configuration file that a process loads
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(command_line.LogFormatter("%(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            code = command_line.run(main, [str(argument) for argument in arguments])
    finally:
        logging.getLogger().removeHandler(handler)
    return Result(code, stream.getvalue())


def tissue(seed: int, side: int = 32) -> np.ndarray:
    """Returns a smooth random image in the colours of tissue, uint8 of shape (side, side, 3)."""
    coarse = np.random.default_rng(seed).integers(60, 240, (8, 8, 3), np.uint8)
    coarse[..., 1] = coarse[..., 1] // 2 + 40
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def write_image(path: Path, seed: int, side: int = 32) -> Path:
    """Writes `tissue(seed)` to a new file, whose suffix is its format, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tissue(seed, side)).save(path)
    return path


def write_classes(folder: Path, count: int = 12, classes: tuple[str, ...] = ("benign", "malignant")) -> Path:
    """Writes `count` images per class as folder/CLASS/tile00.png and so on, and returns the folder."""
    for number, name in enumerate(classes):
        for index in range(count):
            write_image(folder / name / f"tile{index:02d}.png", number * count + index)
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
