"""What every command shares: one clear line and exit code 2 for bad input, the full trace only with --debug."""

import argparse
import errno
import logging
import os
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

from dim_jax.cli import stopping

# The last is what sysexits.h calls a temporary failure: the same command again goes on.
FAILED, BAD_INPUT, STOPPED = 1, 2, 75
_ROOM = "make room on that disk and run the same command again; what was whole before still is"
_RIGHTS = "allow this user to write there, or choose another place"
MENDING = {
    errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EFBIG: _ROOM, errno.EROFS: _RIGHTS, errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
}  # fmt: skip
LONGEST_ERROR = 2000  # characters: what is wrong may be the length of a name
BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff")


def printable(text: str) -> str:
    """Returns `text` with the characters that cannot or must not be shown written as escapes.

    Control characters command a terminal and break SVG, lone surrogates (file names that are not UTF-8) cannot be
    encoded, and bidirectional marks can make a name read as another.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDIRECTIONAL
        else character
        for character in text
    )


def say(text: object, file: TextIO | None = None) -> None:
    """Prints lines of text: whatever names from folders and files are in them, a terminal gets nothing but letters.

    Without a `file` they go to the standard output, and nowhere after `only_warn`.
    """
    if file is None and not tells_all():
        return
    print("\n".join(map(printable, str(text).split("\n"))), file=file, flush=True)


class LogFormatter(logging.Formatter):
    """A formatter of log lines that stay one line each and command no terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


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


def path(text: str) -> str:
    """Returns the path that an option gives; used as the `type` of an argument.

    Raises:
      argparse.ArgumentTypeError: it is empty, as a variable that was never set is, or no text.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; give one")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} is not valid UTF-8; rename it") from None
    return text


def comma_separated(text: str) -> list[str]:
    """Returns the names in "A, B,C", without the spaces around them; none of an empty text."""
    return [name.strip() for name in text.split(",") if name.strip()]


def start_logging() -> None:
    """Sends this package's log lines to stderr with the time; other packages speak up from warnings on."""
    # TensorFlow only decodes images here; at its start it would print a page about the CPU's instructions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("dim_jax").setLevel(logging.INFO)
    # Orbax logs with its trace what it raises anyway.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # What Pillow finds odd in a file and can read is no news; what it cannot read is an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def only_warn() -> None:
    """Tells nothing but warnings and errors from here on: another process speaks for this one."""
    logging.getLogger("dim_jax").setLevel(logging.WARNING)


def tells_all() -> bool:
    """Whether results and progress are to be told, too."""
    return logging.getLogger("dim_jax").level <= logging.INFO


def _shortened(text: str) -> str:
    """Returns `text` without its middle where it is too long: what is wrong comes first, how to mend it last."""
    half = LONGEST_ERROR // 2
    return text if len(text) <= LONGEST_ERROR else f"{text[:half]} ... {text[-half:]}"


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in MENDING and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}; {MENDING[error.errno]}"
    return str(error)


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs `main(arguments)` and returns the exit code.

    ValueError and OSError are what the user can mend: they are printed as one line and give exit code 2. A run that
    diverges (ArithmeticError) is told in one line too and gives exit code 1. SIGTERM and SIGINT stop the program where
    it can go on later, with exit code 75; a second one ends it at once.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with stopping.on_signals():
            main(arguments)
    except (ValueError, OSError, ArithmeticError) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        else:
            say("error: " + _shortened(" ".join(_told(error).split())), file=sys.stderr)
        # An ArithmeticError is a training run that diverged, which nobody could tell beforehand.
        return FAILED if isinstance(error, ArithmeticError) else BAD_INPUT
    except KeyboardInterrupt as stopped:
        told = f" {stopped}" if str(stopped) else ""
        say(f"stopped{told}; run the same command again to go on", file=sys.stderr)
        return STOPPED
    return 0
