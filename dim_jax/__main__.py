"""The commands of dim_jax: `python -m dim_jax` lists them, `python -m dim_jax COMMAND ...` runs one."""

import importlib
import sys
from collections.abc import Sequence

from dim_jax.cli import command_line, huge_pages
from dim_jax.runs import fields

# Module below dim_jax -> what it does.
COMMANDS = {
    "prepare": "check a folder of images and split it into training, validation and test",
    "train": "train a classifier, a GAN or a whole experiment from a configuration",
    "generate": "generate images with a trained GAN",
    "select": "choose the generated images that are worth training on",
    "review": "let pathologists tell generated from real images, blind",
    "evaluate": "evaluate a classifier on a split",
    "ensemble": "average several classifiers of one split",
    "predict": "classify new images",
    "label_issues": "rank images whose labels look wrong",
    "report": "write an HTML report of one or more runs",
    "export": "export a run to ONNX, StableHLO or safetensors, to use it without this package",
    "interop.convert": "convert checkpoints from and to the published PyTorch code",
}


def main(arguments: Sequence[str]) -> None:
    """Lists the commands, or runs the one that is named first.

    Args:
      arguments: name of a command and its options; empty for the list.

    Raises:
      ValueError: there is no such command.
    """
    name, *options = arguments or ["--help"]
    if name in ("-h", "--help"):
        command_line.say(_help())
        return
    if name not in COMMANDS:
        hint = fields.nearest(name, COMMANDS) or f"; choose one of {', '.join(COMMANDS)}"
        raise ValueError(f"{name!r} is not a command of dim_jax{hint}")
    importlib.import_module(f"dim_jax.{name}").main(options)


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: python -m dim_jax COMMAND [OPTIONS]",
            "",
            "commands:",
            *(f"  {name:<{width}}  {phrase}" for name, phrase in COMMANDS.items()),
            "",
            "python -m dim_jax COMMAND --help shows the options of a command and examples.",
        ]
    )


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
