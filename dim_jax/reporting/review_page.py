"""Pages of a blind review: the one that readers answer, and the one with their scores."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dim_jax.reporting import pages, thumbnails

# Letters of other keys (real, generated, unsure, note) are left out, and x, which is "none of these".
LETTERS, NONE_LETTER = "abcdefhijklmopqstvwyz", "x"
NONE_VALUE, NONE_TEXT = "none", "none of these"
MOST_PICTURES = 48  # of each kind in the page of scores


def render(
    digest: str,
    pictures: Sequence[str],
    classes: Sequence[str],
    image_size: int,
    verdicts: Sequence[str],
    qualities: Sequence[int],
    answer_format: int,
) -> str:
    """HTML page that shows the images one by one and saves a reader's answers.

    Args:
      digest: digest of the key, which the answers repeat.
      pictures: N JPEGs as base64, in order.
      classes: class names to choose from.
      image_size: side of the pictures in px.
      verdicts, qualities: answers to choose from.
      answer_format: format of the file of answers.

    Returns:
      A complete HTML document.
    """
    letters = [*LETTERS[: len(classes)], *[""] * (len(classes) - len(LETTERS))]
    choices = [(str(number), name, letter) for number, (name, letter) in enumerate(zip(classes, letters, strict=True))]
    data = {"format": answer_format, "digest": digest, "classes": list(classes), "pictures": list(pictures)}
    page = (
        pages.environment()
        .get_template("review.html")
        .render(
            num_images=len(pictures),
            image_size=image_size,
            digest=digest,
            verdicts=verdicts,
            qualities=qualities,
            classes=[*choices, (NONE_VALUE, NONE_TEXT, NONE_LETTER)],
            review=pages.script_safe(data),
            scripts=[pages.script_file("review.js")],
        )
    )
    return page.strip() + "\n"


def render_scores(
    view: Mapping[str, Any], fooling: Mapping[str, Sequence[Mapping[str, Any]]], file: Callable[[str], Path]
) -> str:
    """HTML page of the scores of a review.

    Args:
      view: template data: facts, warnings and tables.
      fooling: title -> the images that fooled a reader, those that fooled most first.
      file: returns the file of an image by its path in the key.

    Returns:
      A complete HTML document.
    """
    groups = []
    for title, entries in fooling.items():
        items = []
        for entry in entries[:MOST_PICTURES]:
            pixels = thumbnails.read(file(entry["path"]))
            items.append({
                "uri": None if pixels is None else thumbnails.data_uri(pixels),
                "path": entry["path"],
                "label": entry["label"],
                "number": entry["number"],
                "readers": ", ".join(entry["fooled"]),
            })  # fmt: skip
        groups.append({"title": title, "entries": items, "more": len(entries) - len(items)})
    page = pages.environment().get_template("review_score.html").render(**view, groups=groups, scripts=())
    return page.strip() + "\n"
