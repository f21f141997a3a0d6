"""Scores of a blind review: who tells generated from real images, how readers agree, and which images fool whom."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import mean, median_low
from typing import Any

from dim_jax.cli.command_line import printable
from dim_jax.evaluation.agreement import cohen_kappa, fleiss_kappa, proportion
from dim_jax.gan.review_answers import QUESTIONS, Answer, Reader
from dim_jax.gan.review_key import FORMAT, GENERATED, NO_CLASS, REAL, UNSURE, ReviewImage, ReviewKey

MAJORITY = "majority of the readers"
MOST_NAMED = 5


def score(key: ReviewKey, readers: Sequence[Reader]) -> dict[str, Any]:
    """Scores the answers of all readers.

    Exact intervals assume independent answers, so they are given for each reader, and for the majority of the readers,
    and never for answers of several readers together.

    Args:
      key: the key of the page.
      readers: one or more readers of that page.

    Returns:
      A JSON object: `readers`, `scores` (reader -> scores over all classes and per class), `majority`
      (the same of the majority's answers), `agreement` and `images`.
    """
    answers = {reader.name: reader.answers for reader in readers}
    return {
        "format": FORMAT,
        "review": key.digest,
        "split_sha256": key.split_sha256,
        "models": key.models,
        "classes": list(key.classes),
        "num_images": {truth: sum(image.truth == truth for image in key.images) for truth in (GENERATED, REAL)},
        "readers": [
            {
                "name": reader.name,
                "file": reader.path.name,
                "complete": reader.num_complete,
                "missing": {name: _values(reader.answers, name).count(None) for name in QUESTIONS},
            }
            for reader in readers
        ],
        "scores": {name: _reader_scores(key.images, given) for name, given in answers.items()},
        "majority": _reader_scores(key.images, majority(list(answers.values()))) if len(readers) > 1 else None,
        "agreement": _agreement(answers) if len(readers) > 1 else {},
        "images": [_image(number, image, answers) for number, image in enumerate(key.images)],
    }


def majority(answers: Sequence[Sequence[Answer]]) -> tuple[Answer, ...]:
    """The answers of more than half of those who answered: UNSURE, or no class, where there is no such majority.

    The quality is the lower median.

    Args:
      answers: R readers x N images.
    """
    return tuple(
        Answer(
            verdict=_most(_values(given, "verdict"), UNSURE),
            quality=median_low(qualities) if (qualities := _given(_values(given, "quality"))) else None,
            label=_most(_values(given, "class"), NO_CLASS),
        )
        for given in zip(*answers, strict=True)
    )


def _most(values: Sequence[str | None], otherwise: str) -> str | None:
    given = _given(values)
    if not given:
        return None
    value, count = Counter(given).most_common(1)[0]
    return value if 2 * count > len(given) else otherwise


def _values(answers: Sequence[Answer], question: str) -> list[Any]:
    return [getattr(answer, "label" if question == "class" else question) for answer in answers]


def _given(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _reader_scores(images: Sequence[ReviewImage], answers: Sequence[Answer]) -> dict[str, Any]:
    pairs = list(zip(images, answers, strict=True))
    labels = dict.fromkeys(image.label for image in images)
    by_class = {label: _scores([pair for pair in pairs if pair[0].label == label]) for label in sorted(labels)}
    return {"all": _scores(pairs), "classes": by_class}


def _scores(pairs: Sequence[tuple[ReviewImage, Answer]]) -> dict[str, Any]:
    """Scores of some images: the verdicts that are not UNSURE, the class where one is named, and mean quality."""

    def share(
        is_right: Callable[[ReviewImage, Answer], bool], is_counted: Callable[[Answer], bool], truths: Sequence[str]
    ) -> dict[str, Any]:
        counted = [pair for pair in pairs if pair[0].truth in truths and is_counted(pair[1])]
        return asdict(proportion(sum(is_right(*pair) for pair in counted), len(counted)))

    def verdicts(*truths: str) -> dict[str, Any]:
        return share(
            lambda image, answer: answer.verdict == image.truth,
            lambda answer: answer.verdict in (REAL, GENERATED),
            truths,
        )

    def classes(truth: str) -> dict[str, Any]:
        return share(
            lambda image, answer: answer.label == image.label, lambda answer: answer.label is not None, [truth]
        )

    def quality(truth: str) -> float | None:
        given = _given([answer.quality for image, answer in pairs if image.truth == truth])
        return mean(given) if given else None

    return {
        "accuracy": verdicts(REAL, GENERATED),
        "generated_recognised": verdicts(GENERATED),
        "real_recognised": verdicts(REAL),
        "unsure": sum(answer.verdict == UNSURE for _, answer in pairs),
        "unanswered": sum(answer.verdict is None for _, answer in pairs),
        "class_named": {truth: classes(truth) for truth in (GENERATED, REAL)},
        "mean_quality": {truth: quality(truth) for truth in (GENERATED, REAL)},
    }


def _agreement(answers: dict[str, tuple[Answer, ...]]) -> dict[str, Any]:
    """Kappa of each pair of readers, and of three or more together, over the images that all of them answered."""

    def common(names: Sequence[str], question: str) -> list[tuple[Any, ...]]:
        rows = zip(*(_values(answers[name], question) for name in names), strict=True)
        return [row for row in rows if None not in row]

    def cohen(pair: tuple[str, str], question: str) -> dict[str, Any]:
        rows = common(pair, question)
        kappa = cohen_kappa(*zip(*rows, strict=True), is_ordinal=question == "quality") if rows else None
        return {"images": len(rows), "kappa": kappa}

    pairs = [
        {"readers": list(pair), **{question: cohen(pair, question) for question in QUESTIONS}}
        for pair in itertools.combinations(answers, 2)
    ]
    record: dict[str, Any] = {"cohen": pairs}
    if len(answers) > 2:
        record["fleiss"] = {}
        for question in ("verdict", "class"):
            rows = common(list(answers), question)
            record["fleiss"][question] = {"images": len(rows), "kappa": fleiss_kappa(rows) if rows else None}
    return record


def _image(number: int, image: ReviewImage, answers: dict[str, tuple[Answer, ...]]) -> dict[str, Any]:
    given = {name: of_reader[number] for name, of_reader in answers.items()}
    mistaken = {REAL: GENERATED, GENERATED: REAL}[image.truth]
    return {
        "number": number + 1,
        "truth": image.truth,
        "label": image.label,
        "path": image.path,
        "sha256": image.sha256,
        "part": image.part,
        "case": image.case,
        "answers": {
            name: {"verdict": one.verdict, "quality": one.quality, "class": one.label, "note": one.note}
            for name, one in given.items()
        },
        "fooled": [name for name, one in given.items() if one.verdict == mistaken],
    }


def warnings(scores: dict[str, Any]) -> list[str]:
    """One sentence about every reader who left something out.

    Args:
      scores: result of `score`.
    """
    total = sum(scores["num_images"].values())
    return [
        f"{reader['name']} answered {reader['complete']} of {total} images in full; missing: "
        + ", ".join(f"{count} {name}" for name, count in reader["missing"].items() if count)
        for reader in scores["readers"]
        if reader["complete"] < total
    ]


def percentage(share: dict[str, Any]) -> str:
    """Text of a proportion, for example "25 of 36 (69 %, 52 to 84)"."""
    if share["value"] is None:
        return "none"
    low, high = 100 * share["low"], 100 * share["high"]
    return f"{share['count']} of {share['total']} ({100 * share['value']:.0f} %, {low:.0f} to {high:.0f})"


def readers_text(scores: dict[str, Any]) -> str:
    """Text of the number of readers."""
    number = len(scores["readers"])
    return "1 reader" if number == 1 else f"{number} readers"


def kappa_text(kappa: float | None) -> str:
    """Text of a kappa, "undefined" for None."""
    return "undefined" if kappa is None else f"{kappa:.2f}"


def summary(scores: dict[str, Any]) -> str:
    """Text for the screen: accuracy of each reader and per class, agreement, and the images that fool most readers.

    Args:
      scores: result of `score`.
    """
    counts = scores["num_images"]
    lines = [
        f"{readers_text(scores)}, {counts[GENERATED]} generated and {counts[REAL]} real images; exact 95 % intervals"
    ]
    for name, record in score_rows(scores):
        lines.append(f"{name}: right for {percentage(record['all']['accuracy'])}")
        total = record["all"]
        lines.append(
            f"  generated recognised {percentage(total['generated_recognised'])}, real recognised "
            f"{percentage(total['real_recognised'])}, unsure {total['unsure']}"
        )
        if len(record["classes"]) > 1:
            lines += [f"  {label}: {percentage(one['accuracy'])}" for label, one in record["classes"].items()]
    for pair in scores["agreement"].get("cohen", []):
        values = ", ".join(f"{question} {kappa_text(pair[question]['kappa'])}" for question in QUESTIONS)
        lines.append(f"Cohen's kappa of {' and '.join(pair['readers'])}: {values}")
    if "fleiss" in scores["agreement"]:
        values = ", ".join(f"{name} {kappa_text(one['kappa'])}" for name, one in scores["agreement"]["fleiss"].items())
        lines.append(f"Fleiss' kappa of all readers: {values}")
    for truth, words in ((GENERATED, "generated images taken for real"), (REAL, "real images taken for generated")):
        images = fooling(scores, truth)
        lines.append(f"{words}: {len(images)} of {counts[truth]}")
        lines += [f"  {one['path']} by {', '.join(one['fooled'])}" for one in images[:MOST_NAMED]]
    return "\n".join(map(printable, lines))


def score_rows(scores: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and scores of the readers, and of their majority if there are several.

    Args:
      scores: result of `score`.
    """
    return [*scores["scores"].items(), *([(MAJORITY, scores["majority"])] if scores["majority"] else [])]


def fooling(scores: dict[str, Any], truth: str) -> list[dict[str, Any]]:
    """The images of one truth that fooled a reader, those that fooled most readers first.

    Args:
      scores: result of `score`.
      truth: REAL or GENERATED.
    """
    images = [image for image in scores["images"] if image["truth"] == truth and image["fooled"]]
    return sorted(images, key=lambda image: -len(image["fooled"]))
