"""The visible files below a folder, with links to files and folders."""

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from dim_jax.data.spellings import plain

# Folders that disk stations, desktops and archives add: previews, deleted files, copies of attributes.
SYSTEM_FOLDERS = frozenset({
    "@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "#snapshot", "@recently-snapshot", "lost+found",
    "system volume information", "__macosx", "__pycache__",
})  # fmt: skip


@dataclass(frozen=True)
class FolderWalk:
    """Files and folders below a folder.

    Attributes:
      files: the visible files. Where several paths lead to a folder, its files have the path without a link, else the
        first one.
      folders: the visible folders, without those of `repeats`.
      system: folders of the system (`SYSTEM_FOLDERS`), which are not entered.
      repeats: path of a file that a link leads to again -> the path of the same file that comes first in `files`. Links
        to a folder that they are in are left out.
    """

    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    system: list[Path] = field(default_factory=list)
    repeats: dict[Path, Path] = field(default_factory=dict)


def walk(root: Path, must_be_readable: bool = True) -> FolderWalk:
    """Walks the folders below `root` once each; links are followed, hidden files and folders are skipped.

    Args:
      root: the folder.
      must_be_readable: whether a folder that cannot be read is an error, as skipping it could lose images silently.

    Raises:
      OSError: a folder below `root` cannot be read.
    """
    result = FolderWalk()
    folders, links = deque([root]), deque[Path]()
    visited: dict[str, Path] = {}  # real path of a folder -> path
    repeated: list[tuple[Path, Path]] = []
    real_files: dict[str, Path] = {}
    linked_files: list[tuple[Path, str]] = []
    while folders or links:
        is_link = not folders
        folder = links.popleft() if is_link else folders.popleft()
        real = os.path.realpath(folder)
        if real in visited:
            if not f"{os.path.realpath(folder.parent)}{os.sep}".startswith(real.rstrip(os.sep) + os.sep):
                repeated.append((folder, visited[real]))
            continue
        visited[real] = folder
        if folder != root:
            result.folders.append(folder)
        for entry in _entries(folder, must_be_readable):
            path = Path(folder, entry.name)
            if _is_folder(entry):
                if plain(entry.name) in SYSTEM_FOLDERS:
                    result.system.append(path)
                else:
                    (links if entry.is_symlink() else folders).append(path)
                continue
            result.files.append(path)
            if entry.is_symlink():
                linked_files.append((path, os.path.realpath(path)))
            else:
                real_files[os.path.join(real, entry.name)] = path
    for path, real in linked_files:
        if real_files.setdefault(real, path) != path:
            result.repeats[path] = real_files[real]
    for folder, first in repeated:
        for path in result.files:
            if path.is_relative_to(first):
                result.repeats[folder / path.relative_to(first)] = path
    return result


def _entries(folder: Path, must_be_readable: bool) -> list[os.DirEntry[str]]:
    """Returns the visible entries of a folder by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        if not must_be_readable:
            return []
        raise type(error)(
            f"{error.filename}: the folder cannot be read ({error.strerror}); correct its permissions or move it"
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
