"""Errors that are reported as one line, as opposed to bugs of the program."""

import dis
import sysconfig
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
STANDARD_LIBRARY = sysconfig.get_path("stdlib")
LIBRARIES = {"site-packages", "dist-packages"}


class Diverged(FloatingPointError):
    """Training whose loss is no longer finite."""


def is_reported(error: BaseException) -> bool:
    """Whether an error is a message to the user, which names what is wrong and how to fix it.

    These are system errors, `Diverged`, a lack of memory, and any ValueError of a `raise` statement outside libraries.
    A ValueError of a library, or of an operation such as unpacking, comes from a fault of the program.
    """
    if isinstance(error, OSError | Diverged | MemoryError):
        return True
    trace = error.__traceback__
    if not isinstance(error, ValueError) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return not _is_library(code.co_filename) and dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def _is_library(name: str) -> bool:
    """Whether a source file is part of Python or of another installed package."""
    file = Path(name)
    if file.is_relative_to(PACKAGE):
        return False
    return name.startswith("<frozen") or file.is_relative_to(STANDARD_LIBRARY) or bool(LIBRARIES & set(file.parts))
