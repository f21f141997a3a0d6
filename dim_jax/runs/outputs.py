"""The place of a command's output, checked before there is anything to write."""

import errno
import os
import tempfile
from pathlib import Path

from dim_jax.runs import files


def check(
    out: str | Path, *, is_folder: bool, example: str = "", is_replaced: bool = False, option: str = "--out"
) -> None:
    """Checks that a file or folder can be written, by making an empty folder beside or in it and removing that.

    Args:
      out: the file or folder to write.
      is_folder: whether it is to be a folder.
      example: name of such a file, for the message.
      is_replaced: whether the folder is written beside its place and renamed, instead of in it.
      option: the option that gives `out`, for messages.

    Raises:
      ValueError: it is the root of the file system, exists as something else, is inside a file, or begins with a ~ that
        the shell left there.
      OSError: nothing can be written there.
    """
    path, name = Path(os.path.abspath(out)), f"{option}={out}"
    if path == path.parent:
        kind = "folder" if is_folder else "file"
        raise ValueError(f"{name} is the root of the file system; give a {kind} in it")
    first = next(place for place in (path, *path.parents) if os.path.lexists(place))
    missing = path.relative_to(first).parts
    if missing[:1] == ("~",):
        raise ValueError(f"{name} has a ~ that the shell did not replace; write {Path.home().joinpath(*missing[1:])}")
    if missing and not first.is_dir():
        raise ValueError(f"{name} is inside {first}, which is a file; choose another {option}")
    if first == path and is_folder and not path.is_dir():
        raise ValueError(f"{name} is a {'file' if path.exists() else 'broken link'}; choose a folder")
    if first == path and not is_folder and path.is_dir():
        raise ValueError(f"{name} is a folder; give the path of a file, for example {Path(out, example)}")
    if is_replaced and os.path.ismount(path):
        raise ValueError(f"{name} is a mounted volume, which cannot be replaced; choose a folder in it")
    place = first if first.is_dir() and not (is_replaced and first == path) else first.parent
    # Part of the name, so that one that is too long is refused now.
    beginning = missing[0] if missing else path.name
    with files.naming(path):
        try:
            os.rmdir(tempfile.mkdtemp(".tmp", f".{beginning}.", place))
        except FileNotFoundError:  # in /proc
            raise OSError(errno.EACCES, "no file can be created there", str(path)) from None
