"""What every command shares: one clear line and exit code 2 for bad input, the full trace only with --debug."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> None:
        raise ValueError(f"{message}; {self.prog} --help lists the options")


def parser(program: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """Returns an argument parser with `--debug`, a summary and worked examples in its help."""
    result = _Parser(
        prog=f"python -m dim_jax.{program}",
        description=summary,
        epilog="examples:\n" + examples.rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--debug", action="store_true", help="print the full trace of an error")
    return result


def comma_separated(text: str) -> list[str]:
    """Returns the names in "A, B,C", without the spaces around them; none of an empty text."""
    return [name.strip() for name in text.split(",") if name.strip()]


def start_logging() -> None:
    """Sends this package's log lines to stderr with the time; other packages speak up from warnings on."""
    # TensorFlow only decodes images here; at its start it would print a page about the CPU's instructions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("dim_jax").setLevel(logging.INFO)


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs `main(arguments)` and returns the exit code.

    ValueError and OSError are what the user can mend: they are printed as one line and give exit code 2. A run that
    diverges (ArithmeticError) is told in one line too and gives exit code 1.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        main(arguments)
    except (ValueError, OSError, ArithmeticError) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        else:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
        # An ArithmeticError is a training run that diverged, which nobody could tell beforehand.
        return FAILED if isinstance(error, ArithmeticError) else BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    return 0
