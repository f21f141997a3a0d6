"""What the readers of a blind review object to among generated images, for the selection."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dim_jax.gan.review_key import FORMAT, GENERATED, QUALITIES
from dim_jax.runs import files

NOT_REVIEWED, OBJECTED = "not_reviewed", "rejected_by_readers"
LEAST_QUALITY = 3
RULE = (
    f"only images that a reader judged are selected; a reader objects by a quality below {LEAST_QUALITY} or by naming "
    "another class, and an image to which at least half of its readers object is rejected; whether they took it for "
    "real does not matter"
)


@dataclass(frozen=True)
class Votes:
    """The votes of a review.

    Attributes:
      path: file of the scores.
      split_sha256: Dataset.split_sha256 of the split that the GAN was trained on.
      record: entry `reviews` of the selection.
      objections: SHA-256 of a generated image's file -> number of readers who object, and of readers who judged it.
    """

    path: Path
    split_sha256: str
    record: dict[str, Any]
    objections: dict[str, tuple[int, int]]

    def reason(self, sha256: str) -> str | None:
        """Returns why an image is rejected, NOT_REVIEWED or OBJECTED, or None.

        Args:
          sha256: SHA-256 of its file.
        """
        num_objecting, num_readers = self.objections.get(sha256, (0, 0))
        if not num_readers:
            return NOT_REVIEWED
        return OBJECTED if 2 * num_objecting >= num_readers else None


def load(path: str | Path, out: str | Path) -> Votes:
    """Reads the scores of a review, as `review --score` writes them.

    Args:
      path: REVIEW_score.json.
      out: folder of the selection, to which the path in the record is relative.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it does not hold the scores of a review.
    """
    scores = files.read_object(path)
    try:
        votes = [
            (image["sha256"], [_objects(answer, image["label"]) for answer in image["answers"].values()])
            for image in scores["images"]
            if image["truth"] == GENERATED
        ]
        record = {
            "path": Path(os.path.relpath(path, out)).as_posix(),
            "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
            "review": scores["review"],
            "readers": [reader["name"] for reader in scores["readers"]],
            "accuracy": {name: entry["all"]["accuracy"] for name, entry in scores["scores"].items()},
            "rule": RULE,
        }
        is_known = scores["format"] == FORMAT and all(isinstance(name, str) for name in record["readers"])
        split = scores["split_sha256"]
        objections = {sha256: (given.count(True), len(given) - given.count(None)) for sha256, given in votes}
    except (KeyError, TypeError, AttributeError):
        is_known = False
    if not is_known:
        raise ValueError(f"--reviews={path} does not hold the scores of a review; give what review --score wrote")
    return Votes(Path(path), split, record, objections)


def _objects(answer: dict[str, Any], label: str) -> bool | None:
    """Whether a reader objects to an image; None if they judged neither its quality nor its class."""
    quality, named = answer["quality"], answer["class"]
    if quality is not None and quality not in QUALITIES:
        raise TypeError
    if quality is None and named is None:
        return None
    return (quality is not None and quality < LEAST_QUALITY) or (named is not None and named != label)
