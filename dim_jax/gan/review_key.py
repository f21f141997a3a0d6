"""Key of a blind review: which images were shown in which order, and which of them are real."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dim_jax.runs import files

FORMAT = 1
REAL, GENERATED, UNSURE = "real", "generated", "unsure"
VERDICTS = (REAL, GENERATED, UNSURE)
QUALITIES = range(1, 6)
NO_CLASS = ""  # the answer "none of these classes"


@dataclass(frozen=True)
class ReviewImage:
    """One image of a review.

    Attributes:
      picture_sha256: SHA-256 of the picture in the page.
      truth: REAL or GENERATED.
      label: class name.
      path: POSIX path of the source file, relative to the folder of the key.
      sha256: SHA-256 of the source file.
      part: "val" or "train" of a real image, "" of a generated one.
      case: patient or case of a real image, "" if unknown or generated.
    """

    picture_sha256: str
    truth: str
    label: str
    path: str
    sha256: str
    part: str
    case: str


@dataclass(frozen=True)
class ReviewKey:
    """The key of one page.

    Attributes:
      seed: seed of the choice and the order of the images.
      classes: class names that the page offers.
      split_sha256: Dataset.split_sha256 of the split that the GAN was trained on.
      image_size: side of the square pictures in px.
      resize: policy by which real images were made square (data.images.resize).
      models: class name -> the GAN that generated its images, as far as it is recorded.
      images: the images, in the order of the page.
    """

    seed: int
    classes: tuple[str, ...]
    split_sha256: str
    image_size: int
    resize: str
    models: dict[str, Any]
    images: tuple[ReviewImage, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the whole key, which the page and its answers repeat: they belong to this key and no other."""
        return _digest(asdict(self))


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def text(key: ReviewKey) -> str:
    """Returns the key as JSON text."""
    record = {"format": FORMAT, "digest": key.digest, **asdict(key)}
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"


def load(path: str | Path) -> ReviewKey:
    """Reads the key of a review.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not the key of a review, or was changed since it was written.
    """
    record = files.read_object(path)
    if record.get("format") != FORMAT or "images" not in record or "digest" not in record:
        raise ValueError(
            f"{path} is not the key of a review; give the file REVIEW_key.json that was written with the page"
        )
    digest = record.pop("digest")
    record.pop("format")
    if _digest(record) != digest:
        raise ValueError(f"{path} was changed since the review was made (its digest differs); restore it")
    if set(record) != {field.name for field in fields(ReviewKey)}:
        raise ValueError(f"{path} is the key of another version of dim_jax; make the review again")
    try:
        images = tuple(ReviewImage(**entry) for entry in record["images"])
    except TypeError:
        raise ValueError(f"{path} is the key of another version of dim_jax; make the review again") from None
    return ReviewKey(**{**record, "classes": tuple(record["classes"]), "images": images})
