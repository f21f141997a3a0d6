"""Licence of a source of images, as far as its folder states one."""

import hashlib
import re
from pathlib import Path

LICENCE_FILE = re.compile(r"(licen[cs]e|copying)([-_. ].*)?", re.IGNORECASE)
README_FILE = re.compile(r"readme([-_. ].*)?", re.IGNORECASE)
LICENCE_WORD = re.compile(r"\blicen[cs]e", re.IGNORECASE)
MOST_BYTES = 1 << 16  # of a file, read as text
LONGEST_TEXT = 200  # characters


def find_licence(root: str | Path) -> dict[str, str] | None:
    """Returns what the folder of a source says on its licence, or None if it says nothing.

    A file LICENSE, LICENCE or COPYING counts first, by its first line; then the first line of a README that has the
    word in it.

    Args:
      root: folder of the source.

    Returns:
      "file", "text" (one line of at most 200 characters) and "sha256" of the file.
    """
    try:
        paths = sorted(path for path in Path(root).iterdir() if path.is_file())
    except OSError:
        return None
    for pattern, word in ((LICENCE_FILE, None), (README_FILE, LICENCE_WORD)):
        for path in paths:
            if pattern.fullmatch(path.name) and (record := _record(path, word)):
                return record
    return None


def _record(path: Path, word: re.Pattern[str] | None) -> dict[str, str] | None:
    try:
        with path.open("rb") as file:
            head = file.read(MOST_BYTES)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    lines = (" ".join(line.split()).strip("#*= ") for line in head.decode("utf-8", "replace").splitlines())
    text = next((line for line in lines if line and (word is None or word.search(line))), None)
    return None if text is None else {"file": path.name, "text": text[:LONGEST_TEXT], "sha256": digest}
