"""Answers of the readers of a blind review, as the page exports them."""

import glob
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dim_jax.gan.review_key import FORMAT, NO_CLASS, QUALITIES, VERDICTS, ReviewKey
from dim_jax.runs import files

QUESTIONS = ("verdict", "quality", "class")


@dataclass(frozen=True)
class Answer:
    """What a reader said of one image; None where the reader did not answer.

    Attributes:
      verdict: REAL, GENERATED or UNSURE.
      quality: 1 (unusable) to 5 (excellent).
      label: class name, or NO_CLASS.
      note: free text.
    """

    verdict: str | None = None
    quality: int | None = None
    label: str | None = None
    note: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether all three questions are answered."""
        return None not in (self.verdict, self.quality, self.label)


@dataclass(frozen=True)
class Reader:
    """One reader's answers, in the order of the page.

    Attributes:
      name: name of the reader.
      path: the file.
      answers: N answers.
    """

    name: str
    path: Path
    answers: tuple[Answer, ...]

    @property
    def num_complete(self) -> int:
        """Number of images with an answer to all three questions."""
        return sum(answer.is_complete for answer in self.answers)


def answer_files(patterns: Sequence[str]) -> list[Path]:
    """Returns the files that paths or patterns such as answers/*.json name.

    Raises:
      FileNotFoundError: a path does not exist, or no file matches a pattern.
    """
    paths: dict[Path, None] = {}
    for pattern in patterns:
        matches = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern))
        if not matches:
            raise FileNotFoundError(f"--score={pattern}: no such file; give the files that the readers saved")
        paths |= dict.fromkeys(map(Path, matches))
    return list(paths)


def load_readers(paths: Sequence[str | Path], key: ReviewKey) -> list[Reader]:
    """Reads the answers of all readers.

    Args:
      paths: one file per reader.
      key: the key of the page that they answered.

    Returns:
      The readers, by name.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a file is broken, is of another page or without answers, or two files are of one reader.
    """
    readers = [_load(Path(path), key) for path in paths]
    by_name: dict[str, Reader] = {}
    for reader in readers:
        other = by_name.setdefault(reader.name.casefold(), reader)
        if other is not reader:
            raise ValueError(f"{other.path} and {reader.path} are both of reader {reader.name!r}; give one of them")
    return sorted(readers, key=lambda reader: reader.name.casefold())


def _load(path: Path, key: ReviewKey) -> Reader:
    record = files.read_object(path)
    name, entries = record.get("reader"), record.get("answers")
    if record.get("format") != FORMAT or not isinstance(name, str) or not isinstance(entries, list):
        raise ValueError(f"{path} does not hold the answers of a review; give the file that the page saved")
    if record.get("review") != key.digest:
        raise ValueError(
            f"{path} answers another page ({str(record.get('review'))[:12]}) than that of this key "
            f"({key.digest[:12]}); give the key of that page"
        )
    name = " ".join(unicodedata.normalize("NFC", name).split())
    if not name:
        raise ValueError(f"{path}: 'reader' is empty; fill in who answered")
    answers = [Answer()] * len(key.images)
    numbers: set[int] = set()
    for place, entry in enumerate(entries):
        number, answer = _entry(entry, key, f"{path}, answer {place}")
        if number in numbers:
            raise ValueError(f"{path}, answer {place}: image {number} is answered twice; save the answers again")
        numbers.add(number)
        answers[number - 1] = answer
    if all(answer == Answer(note=answer.note) for answer in answers):
        raise ValueError(f"{path}: reader {name!r} answered none of the {len(answers)} images; leave the file out")
    return Reader(name, path, tuple(answers))


def _entry(entry: Any, key: ReviewKey, where: str) -> tuple[int, Answer]:
    """Returns the number of an image and the answer."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object; save the answers again")
    allowed = {
        "number": (lambda value: type(value) is int and 1 <= value <= len(key.images), f"1 to {len(key.images)}"),
        "verdict": (lambda value: value is None or value in VERDICTS, f"{', '.join(VERDICTS)} or null"),
        "quality": (lambda value: value is None or (type(value) is int and value in QUALITIES), "1 to 5 or null"),
        "class": (lambda value: value in (None, NO_CLASS, *key.classes), f"{', '.join(key.classes)}, '' or null"),
        "note": (lambda value: value is None or isinstance(value, str), "text"),
    }
    for name, (is_valid, words) in allowed.items():
        if not is_valid(entry.get(name)):
            raise ValueError(f"{where}: {name!r} must be {words}, not {entry.get(name)!r}; save the answers again")
    answer = Answer(entry.get("verdict"), entry.get("quality"), entry.get("class"), entry.get("note") or "")
    return entry["number"], answer
