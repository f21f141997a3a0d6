"""Files of a blind review: the page and its key, and the scores of its readers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dim_jax.gan import review_answers, review_key, review_scores
from dim_jax.gan.review_images import Review, make_review
from dim_jax.gan.review_key import GENERATED, QUALITIES, REAL, VERDICTS
from dim_jax.reporting import review_page, wording
from dim_jax.runs import files, outputs

KEY_SUFFIX, SCORE_SUFFIX = "_key.json", "_score.html"


def write_review(
    pool: str | Path, data: str | Path, out: str | Path, num: int = 20, seed: int = 0
) -> tuple[Review, Path]:
    """Writes the page of a blind review, and its key beside it: REVIEW.html and REVIEW_key.json.

    The same arguments write the same files. Another review is refused, because the answers to a page are lost with its
    key.

    Args:
      pool, data, num, seed: as for `review_images.make_review`.
      out: path of the page.

    Returns:
      The review, and the path of its key.

    Raises:
      FileNotFoundError: as for `make_review`.
      ValueError: as for `make_review`, or `out` or its key exists and is not of this review.
    """
    page = _page_path(out)
    key = page.with_name(page.stem + KEY_SUFFIX)
    _check_key(key, page, None)
    review = make_review(pool, data, page.parent, num, seed)
    text = review_page.render(
        review.key.digest, review.pictures, review.key.classes, review.key.image_size, VERDICTS, QUALITIES,
        review_key.FORMAT,
    )  # fmt: skip
    with files.turn(key):
        _check_key(key, page, review.key.digest)
        # The key first: a page without a key can't be scored.
        files.write_text(key, review_key.text(review.key))
        files.write_text(page, text)
    return review, key


def _page_path(out: str | Path) -> Path:
    page = Path(os.path.abspath(out))
    outputs.check(out, is_folder=False, example="review.html")
    if page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out={out} must end in .html; it is a page for a browser")
    return page


def _check_key(key: Path, page: Path, digest: str | None) -> None:
    """Raises ValueError if files exist that are not of the review with this digest, or of any review for None."""
    if not key.is_file():
        files.check_replaceable([page, key])
        return
    earlier = review_key.load(key).digest
    if digest is not None and earlier != digest:
        raise ValueError(
            f"{key} is of another review ({earlier[:12]}), and answers to its page can't be scored without it; choose "
            "another --out"
        )


def write_scores(key: str | Path, patterns: Sequence[str], out: str | Path = "") -> tuple[dict[str, Any], Path]:
    """Scores the answers of readers and writes the page of scores, and the same numbers as JSON beside it.

    Args:
      key: REVIEW_key.json, written with the page.
      patterns: the readers' files, or patterns such as answers/*.json.
      out: path of the page; "" for REVIEW_score.html beside the key.

    Returns:
      The scores (review_scores.score), and the path of their JSON file.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a file is broken or of another review, or there is a file in the place of the output that no earlier
        call wrote.
    """
    key_path = Path(os.path.abspath(key))
    name = key_path.name.removesuffix(KEY_SUFFIX).removesuffix(".json")
    page = _page_path(out or key_path.with_name(name + SCORE_SUFFIX))
    record_path = page.with_suffix(".json")
    _check_scores(page, record_path)
    opened = review_key.load(key_path)
    paths = review_answers.answer_files(patterns)
    scores = review_scores.score(opened, review_answers.load_readers(paths, opened))
    fooling = {
        f"{title} ({len(images)} of {scores['num_images'][truth]})": images
        for truth, title in ((GENERATED, "Generated images taken for real"), (REAL, "Real images taken for generated"))
        for images in [review_scores.fooling(scores, truth)]
    }
    text = review_page.render_scores(
        _view(scores, opened), fooling, lambda path: Path(os.path.normpath(key_path.parent / path))
    )
    with files.turn(record_path):
        _check_scores(page, record_path)
        # A list of what may be replaced, so it is written first.
        files.write_json(record_path, scores)
        files.write_text(page, text)
    return scores, record_path


def _check_scores(page: Path, record_path: Path) -> None:
    files.check_replaceable([page, record_path], [page, record_path] if _is_score(record_path) else [])


def _is_score(path: Path) -> bool:
    try:
        record = files.read_object(path)
    except (OSError, ValueError):
        return False
    return {"review", "scores", "images"} <= record.keys()


def _view(scores: dict[str, Any], key: review_key.ReviewKey) -> dict[str, Any]:
    """Template data of the page of scores."""
    counts = scores["num_images"]
    rows = review_scores.score_rows(scores)
    labels = list(rows[0][1]["classes"])
    share = review_scores.percentage
    kappas = [
        (" and ".join(pair["readers"]), [_kappa(pair[question]) for question in review_answers.QUESTIONS])
        for pair in scores["agreement"].get("cohen", [])
    ]
    if "fleiss" in scores["agreement"]:
        fleiss = scores["agreement"]["fleiss"]
        kappas.append(("all readers (Fleiss)", [_kappa(fleiss["verdict"]), wording.MISSING, _kappa(fleiss["class"])]))
    cases = len({image.case or image.path for image in key.images if image.truth == REAL})
    parts = [image.part for image in key.images]
    source = f"{parts.count('val')} validation, {parts.count('train')} training"
    return {
        "title": f"{review_scores.readers_text(scores)} of {sum(counts.values())} images",
        "warnings": review_scores.warnings(scores),
        "facts": [
            ("Generated images", counts[GENERATED]),
            ("Real images", f"{counts[REAL]}, of {cases} cases; {source}"),
            ("Side in px", key.image_size),
            ("GAN", "; ".join(sorted(f"{name}: {model.get('workdir')}" for name, model in key.models.items()))),
            ("Split", key.split_sha256[:12]),
            ("Review", key.digest[:12]),
        ],
        "verdict_columns": ("right", "generated recognised", "real recognised", "unsure", "not answered"),
        "verdicts": [
            (name, [share(one["all"][part]) for part in ("accuracy", "generated_recognised", "real_recognised")]
             + [one["all"]["unsure"], one["all"]["unanswered"]])
            for name, one in rows
        ],
        "class_columns": labels,
        "classes": [(name, [share(one["classes"][label]["accuracy"]) for label in labels]) for name, one in rows],
        "quality_columns": ("quality, generated", "quality, real", "class, generated", "class, real"),
        "qualities": [
            (name, [wording.number(one["all"]["mean_quality"][truth], 2) for truth in (GENERATED, REAL)]
             + [share(one["all"]["class_named"][truth]) for truth in (GENERATED, REAL)])
            for name, one in rows
        ],
        "kappa_columns": [f"{question}" for question in review_answers.QUESTIONS],
        "kappas": kappas,
    }  # fmt: skip


def _kappa(entry: dict[str, Any]) -> str:
    return f"{review_scores.kappa_text(entry['kappa'])} ({entry['images']} images)"
