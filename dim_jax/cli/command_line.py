"""Command-line arguments, messages and exit codes: bad input is one line and exit code 2."""

import argparse
import contextlib
import contextvars
import csv
import errno
import itertools
import logging
import os
import re
import shlex
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

from dim_jax.cli import errors, stopping

# FAULT and STOPPED are EX_SOFTWARE and EX_TEMPFAIL of sysexits.h: after the latter the same command continues the work.
DIVERGED, BAD_INPUT, FAULT, STOPPED = 1, 2, 70, 75
_FREE_SPACE = "free space on that disk and run the same command again; files written before are complete"
_ALLOW_WRITING = "allow this user to write there, or choose another place"
REMEDIES = {
    errno.ENOSPC: _FREE_SPACE, errno.EDQUOT: _FREE_SPACE, errno.EFBIG: _FREE_SPACE,
    errno.EROFS: _ALLOW_WRITING, errno.EACCES: _ALLOW_WRITING, errno.EPERM: _ALLOW_WRITING,
}  # fmt: skip
LONGEST_ERROR = 2000  # characters: an over-long name may be the error
# Also URLs with an error; a folder of such a name is given as ./s3:...
BUCKET_URL = re.compile(r"(s3a?|gs|gcs):", re.IGNORECASE)
log = logging.getLogger(__name__)
_is_brief = contextvars.ContextVar("is_brief", default=False)
_command = contextvars.ContextVar("command", default="")
_shown_as: dict[str, str] = {}  # beginning of a path -> what is shown instead
BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff")


def printable(text: str) -> str:
    """Returns `text` with unprintable characters written as escapes.

    Control characters can drive a terminal and are invalid in SVG, lone surrogates (file names that are not UTF-8)
    cannot be encoded, and bidirectional marks can make a name look like another.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDIRECTIONAL
        else character
        for character in text
    )


def show_as(beginning: str, name: str) -> None:
    """Shows paths that begin with `beginning` as beginning with `name`, in all messages and in `shown`."""
    _shown_as[beginning] = name


def shown(path: object) -> str:
    """Returns a text with its paths as the user knows them: for a local copy of a bucket's folder, the URL."""
    text = str(path)
    for beginning, name in _shown_as.items():
        text = text.replace(beginning, name)
    return text


def say(text: object, file: TextIO | None = None) -> None:
    """Prints lines of text, with unprintable characters in them (such as those of file names) as escapes.

    Args:
      text: the text; its newlines are kept.
      file: the output stream; None is standard output, which is silent after `log_warnings_only`, and replaced by the
        log within `brief`.
    """
    if file is None and not is_verbose():
        return
    text = shown(text)
    if file is None and _is_brief.get():
        for line in text.split("\n"):
            log.info("%s", line)
        return
    print("\n".join(map(printable, text.split("\n"))), file=file, flush=True)


def say_next(command: str, *arguments: object) -> None:
    """Prints the command of the next stage, quoted for a shell; words in capitals in it are for the user to fill in."""
    say("next: " + shlex.join(["python", "-m", f"dim_jax.{command}", *map(str, arguments)]))


class LogFormatter(logging.Formatter):
    """Log formatter that keeps each record on one line and escapes unprintable characters."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(shown(super().formatMessage(record)))


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that refuses empty values, as from an unset shell variable."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        for before, argument in itertools.pairwise(["", *arguments]):
            option, equals, value = argument.partition("=")
            if not argument.strip():
                self.error(f"the argument after {before or 'the command'} is empty; give a value, or leave it out")
            # Fields of a configuration (--config.model.name=) may be empty.
            if option.startswith("--") and equals and not value.strip() and "." not in option:
                self.error(f"argument {option}: the value is empty; give one, or leave out the option")
        return super().parse_known_args(arguments, namespace)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help lists the options")


def parser(program: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """Returns an argument parser with `--debug`.

    Args:
      program: module of the command below `dim_jax`.
      summary: description in the help.
      examples: example command lines in the help, one a line.
    """
    result = _Parser(
        prog=f"python -m dim_jax.{program}",
        description=summary,
        epilog="examples:\n" + examples.rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--debug", action="store_true", help="print the full trace of an error")
    return result


def is_bucket_url(text: object) -> bool:
    """Whether an argument is meant as the URL of a folder in a bucket, right or wrong."""
    return isinstance(text, str) and BUCKET_URL.match(text) is not None


def path_or_url(text: str) -> str:
    """Returns the path or the URL of a bucket's folder in an option; a `type` for `add_argument`.

    Raises:
      argparse.ArgumentTypeError: the path is not valid UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} is not valid UTF-8; rename it") from None
    return text


def path(text: str) -> str:
    """Returns the path in an option; a `type` for `add_argument`.

    Raises:
      argparse.ArgumentTypeError: the path is not valid UTF-8, or the URL of a bucket.
    """
    if is_bucket_url(text):
        raise argparse.ArgumentTypeError(f"{text!a} is in a bucket, and this option is for paths on disk")
    return path_or_url(text)


def add_take_over(parser: argparse.ArgumentParser) -> None:
    """Adds the option --take-over to a command that writes into a folder, which may be in a bucket."""
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="with an --out in a bucket: replace the process that is recorded as its owner and has crashed",
    )


def class_name(text: str) -> str:
    """Returns a class name in an option in Unicode's composed form, as labels are; a `type` for `add_argument`."""
    return unicodedata.normalize("NFC", text)


def names(text: str) -> list[str]:
    """Returns the names in A, B, "C, with a comma", without surrounding spaces and in Unicode's composed form.

    Raises:
      ValueError: a quote is not closed.
    """
    text = class_name(text)
    if '"' not in text:
        return [name.strip() for name in text.split(",")]
    try:
        return [name.strip() for name in next(csv.reader([text], skipinitialspace=True, strict=True))]
    except csv.Error as error:
        raise ValueError(f'{text!a} is not a list of names ({error}); quote names as A,"B, with a comma"') from None


def comma_separated(text: str) -> list[str]:
    """Returns the names in a text (see `names`) that are not empty; none for an empty text.

    Raises:
      ValueError: a quote is not closed, or a text such as "," has no names.
    """
    filled = [name for name in names(text) if name]
    if text and not filled:
        raise ValueError(f"{text!a} has no names; give A,B,C or leave it out")
    return filled


def start_logging() -> None:
    """Logs this package from level INFO and other packages from WARNING on, to stderr with the time."""
    # Hides the messages about CPU features that TensorFlow prints at import.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("dim_jax").setLevel(logging.INFO)
    # Orbax logs the traces of errors that it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Pillow warns of oddities in files that it can read; files that it cannot read are errors.
    warnings.filterwarnings("ignore", module=r"PIL\.")


def log_warnings_only() -> None:
    """Hides results, progress and log lines below WARNING, in processes other than the first."""
    logging.getLogger("dim_jax").setLevel(logging.WARNING)


@contextlib.contextmanager
def brief() -> Iterator[None]:
    """Within the block, results go to log files and not to standard output, and the console logs warnings alone."""
    consoles = [handler for handler in logging.getLogger().handlers if handler.level < logging.WARNING]
    before, outer = [handler.level for handler in consoles], _is_brief.set(True)
    for handler in consoles:
        handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _is_brief.reset(outer)
        for handler, level in zip(consoles, before, strict=True):
            handler.setLevel(level)


def is_verbose() -> bool:
    """Returns whether results and progress are shown."""
    return logging.getLogger("dim_jax").level <= logging.INFO


def _shortened(text: str) -> str:
    """Returns `text` without its middle if it is too long: the problem comes first, the remedy last."""
    half = LONGEST_ERROR // 2
    return text if len(text) <= LONGEST_ERROR else f"{text[:half]} ... {text[-half:]}"


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in REMEDIES and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}; {REMEDIES[error.errno]}"
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}); use a smaller batch or smaller images"
    return str(error)


def command() -> str:
    """Returns the command line that `run` runs, quoted for a shell; "" outside of `run`."""
    return _command.get()


def _command_text(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> str:
    spec = getattr(sys.modules.get(main.__module__), "__spec__", None)
    module = spec.name if spec else main.__module__
    return shlex.join(["python", "-m", module.removesuffix(".__main__"), *map(str, arguments)])


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Runs `main(arguments)` and returns the exit code.

    Errors that the user can fix (errors.is_reported) are printed as one line, with exit code 2, and a training run that
    diverges as one line with exit code 1. Any other error is a fault of the program: its trace is printed, with exit
    code 70. SIGTERM and SIGINT stop the program at a point from which it can continue, with exit code 75; a second
    signal ends it at once.

    Args:
      main: the command, a function of its arguments.
      arguments: command-line arguments; None for sys.argv[1:].
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    outer = _command.set(_command_text(main, arguments))
    try:
        with stopping.on_signals():
            main(arguments)
    except Exception as error:
        is_reported = errors.is_reported(error)
        if "--debug" in arguments or not is_reported:
            say(traceback.format_exc().rstrip(), file=sys.stderr)
        else:
            say("error: " + _shortened(" ".join(_message(error).split())), file=sys.stderr)
        if not is_reported:
            say("this is a fault of dim_jax and not of your input; please report it with the trace", file=sys.stderr)
            return FAULT
        return DIVERGED if isinstance(error, errors.Diverged) else BAD_INPUT
    except KeyboardInterrupt as stopped:
        position = f" {stopped}" if str(stopped) else ""
        say(f"stopped{position}; run the same command again to continue", file=sys.stderr)
        return STOPPED
    finally:
        _command.reset(outer)
    return 0
