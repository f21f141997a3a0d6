"""Selection of the images of a pool that are worth training on, with one reason for every rejected image.

Writes selected.json (for config.data.generated), rejected.json, diagnosis.json, report.html, closest_pairs.png and the
selection's card.
"""

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli import command_line
from dim_jax.gan import generated_cards, generative_metrics, inception_scores, judges, pools, review_votes, selection
from dim_jax.gan.candidates import (
    CandidateFeatures,
    Candidates,
    InceptionOutputs,
    extract_features,
    open_candidates,
)
from dim_jax.gan.diagnosis import check_sizes, diagnose
from dim_jax.gan.selection_rules import CLASSIFIER, DEFAULT_FEATURES, FEATURES, INCEPTION, Rules
from dim_jax.reporting import closest_pairs, selection_page
from dim_jax.runs import files, outputs
from dim_jax.runs.workdir import package_versions
from dim_jax.training import compilation

SELECTED, REJECTED, DIAGNOSIS = "selected.json", "rejected.json", "diagnosis.json"
REPORT, CLOSEST = "report.html", "closest_pairs.png"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassSelection:
    """The selection of one class: its pool, scores, thresholds, decision and metrics."""

    pool: pools.Pool
    scores: selection.Scores
    reference: selection.Reference
    limits: selection.Limits
    decision: selection.Decision
    metrics: dict[str, Any]


def select_images(
    pool: str | Path,
    data: str | Path,
    classifier: str | Path,
    out: str | Path,
    keep: int = 20,
    rules: Rules = Rules(),  # noqa: B008 (it is frozen)
    features: str = DEFAULT_FEATURES,
    inception_weights: str | Path = "",
    reviews: str | Path = "",
    diagnosis: bool | None = None,
    enlarge_to: int = 0,
) -> dict[str, Any]:
    """Selects images of every class of a pool and writes the folder `out`.

    Args:
      pool: what `generate` wrote: a folder of classes, or one class of it.
      data: the prepared data that the generators and the classifier were trained on.
      classifier: run directory of a classifier that was trained on real images only.
      out: folder to write; new, empty, or of an earlier selection, which is replaced.
      keep: maximum number of images per class, at least 1.
      rules: strictness of the selection.
      features: feature space of the distances: "efficientnet_lite2" or "efficientnet_lite0" (ImageNet weights), or
        "classifier" for the features of that run.
      inception_weights: weight file of the Inception network of FID (pretrained.inception_v3). With it FID, KID and the
        inception score are reported too; the selection does not depend on them.
      reviews: scores of a blind review, written by `review --score`; only images that its readers judged and do not
        reject are selected (review_votes.RULE). "" for none.
      diagnosis: also compare the images with real ones in all feature spaces that may judge them, and write
        diagnosis.json (diagnosis.diagnose); None: if every class has enough images.
      enlarge_to: of diagnosis.diagnose.

    Returns:
      The contents of selected.json.

    Raises:
      FileNotFoundError: there is no pool, no data, no run or no such weight file, or an image is missing.
      ValueError: pool, data and classifier differ in split, the classifier was trained on generated images, a
        discriminator used the features, a class has too few images for the diagnosis, a file is broken, or the review
        is of another split or of none of the images.
    """
    out = Path(os.path.abspath(out))
    if keep < 1:
        raise ValueError(f"--keep={keep} must be at least 1")
    if features not in FEATURES:
        raise ValueError(f"--features={features} is unknown; choose {', '.join(FEATURES)}")
    if enlarge_to and diagnosis is False:
        raise ValueError(f"--enlarge-to={enlarge_to} belongs to the diagnosis; leave out --no-diagnosis")
    outputs.check(out, is_folder=True)
    _check_folder(out)
    compilation.configure_compilation()
    votes = review_votes.load(reviews, out) if reviews else None
    candidates = open_candidates(pool, data, classifier)
    if votes:
        _check_votes(votes, candidates)
    judges.check_space(features, candidates.classifier, candidates.pools)
    spaces, not_used = _judges(candidates, inception_weights, diagnosis, enlarge_to)
    candidate_features = extract_features(candidates, features, inception_weights)
    selections = [
        _select_class(candidates, candidate_features, class_pool, keep, rules, votes) for class_pool in candidates.pools
    ]
    selected, rejected = _records(candidates, candidate_features, selections, out, keep, rules, features)
    if votes:
        selected["reviews"] = rejected["reviews"] = votes.record
    diagnosed = None
    if spaces:
        chosen = {choice.pool.label: choice.decision.selected for choice in selections}
        diagnosed = diagnose(candidates, candidate_features, features, chosen, spaces, enlarge_to)
        diagnosed["not_used"] = not_used
    pages = _pages(candidates, selections, selected, rejected, diagnosed, out)
    for warning in judges.unrecorded(candidates.pools):
        log.warning("%s", warning)
    with files.turn(out):
        _check_folder(out)
        # Identifies the folder as that of a selection if this call is interrupted; selected.json means that it is done.
        files.write_json(out / REJECTED, rejected)
        for name, page in pages.items():
            files.write_bytes(out / name, page)
        if diagnosed:
            files.write_json(out / DIAGNOSIS, diagnosed)
        elif _is_ours(out / DIAGNOSIS):
            (out / DIAGNOSIS).unlink()
        files.write_json(out / SELECTED, selected)
        generated_cards.write_selection_card(out)
    return selected


def _judges(
    candidates: Candidates, inception_weights: str | Path, diagnosis: bool | None, enlarge_to: int
) -> tuple[list[judges.Judge], dict[str, str]]:
    """Returns the feature spaces of the diagnosis, none if there is to be none, and the reasons against the others."""
    if diagnosis is False:
        return [], {}
    try:
        check_sizes(candidates, enlarge_to)
    except ValueError as error:
        if diagnosis or enlarge_to:
            raise
        log.warning("there is no diagnosis: %s", error)
        return [], {}
    run = candidates.classifier
    not_used = judges.unused_spaces(run, candidates.pools, inception_weights)
    names = [name for name in (*FEATURES, INCEPTION) if name not in not_used]
    if len(names) < 2:
        log.warning("only %s may judge these images; a --classifier of another network would be a second space", names)
    try:
        return judges.open_judges(names, run, inception_weights), not_used
    except ValueError as error:
        raise ValueError(f"{error}; or use --features={CLASSIFIER} --no-diagnosis, which does not need them") from None


def _check_folder(out: Path) -> None:
    """Raises ValueError if the folder holds anything and no selection, or a file that no selection wrote."""
    ours = [name for name in (SELECTED, REJECTED, DIAGNOSIS) if _is_ours(out / name)]
    if out.is_dir() and not {*out.iterdir()} <= {*files.leftovers(out)} and not ours:
        raise ValueError(f"--out={out} is not empty and holds no selection; choose another --out")
    names = [SELECTED, REJECTED, REPORT, CLOSEST]
    # Every selection has a rejected.json; a selected.json alone may be a copy. Not every one has a diagnosis.
    listed = {*ours, *(names if REJECTED in ours else ())}
    files.check_replaceable([out / name for name in (*names, DIAGNOSIS)], {out / name for name in listed})


def _is_ours(path: Path) -> bool:
    try:
        return "split_sha256" in files.read_object(path)
    except (OSError, ValueError):
        return False


def _check_votes(votes: review_votes.Votes, candidates: Candidates) -> None:
    """Raises ValueError if a review is of another split, or of none of the images of the pool."""
    if votes.split_sha256 != candidates.dataset.split_sha256:
        raise ValueError(f"--reviews={votes.path} is of a pool of another split; give the review of this pool")
    if not any(image.sha256 in votes.objections for pool in candidates.pools for image in pool.images):
        raise ValueError(f"--reviews={votes.path} is of no image of this pool; give the review of this pool")


def _select_class(
    candidates: Candidates,
    outputs: CandidateFeatures,
    pool: pools.Pool,
    keep: int,
    rules: Rules,
    votes: review_votes.Votes | None,
) -> ClassSelection:
    """Scores the images of one class and selects among them."""
    dataset = candidates.dataset
    label = dataset.classes.index(pool.label)
    train, held_out = dataset.rows("train"), dataset.rows("val")
    held_out = held_out[dataset.labels[held_out] == label]
    rows = np.flatnonzero(dataset.is_generated & (dataset.labels == label))
    is_class = dataset.labels[train] == label
    if is_class.sum() < 2:
        raise ValueError(f"class {pool.label!r} has {is_class.sum()} training images, too few to compare with")
    groups = [dataset.manifest.rows[row].group or f"image {row}" for row in train]
    reference = selection.reference(
        outputs.features[train], outputs.thumbnails[train], groups, is_class, outputs.features[held_out],
        outputs.thumbnails[held_out], outputs.probabilities[held_out, label],
    )  # fmt: skip
    scores = selection.score(
        np.array([image.seed for image in pool.images]), outputs.probabilities[rows, label], outputs.features[rows],
        outputs.thumbnails[rows], outputs.features[train], outputs.thumbnails[train], is_class,
    )  # fmt: skip
    limits = selection.limits(rules, reference)
    by_readers = [votes.reason(image.sha256) for image in pool.images] if votes else []
    decision = selection.decide(scores, keep, limits, by_readers)
    real = outputs.features[train[is_class]]
    class_groups = [group for group, is_member in zip(groups, is_class, strict=True) if is_member]
    metrics = {}
    for name, generated in (("pool", rows), ("kept", rows[list(decision.selected)])):
        metrics[name] = _compare(real, outputs.features[generated], class_groups, outputs.space)
        if outputs.inception:
            metrics[name]["inception"] = _compare_inception(outputs.inception, train[is_class], generated, class_groups)
    return ClassSelection(pool, scores, reference, limits, decision, metrics)


def _compare(real: np.ndarray, generated: np.ndarray, groups: list[str], space: str) -> dict[str, Any]:
    """Returns the metrics of some images, or the reason why there are none."""
    try:
        return generative_metrics.compare(real, generated, groups=groups, space=space)
    except ValueError as error:
        return {"space": space, "num_real": len(real), "num_generated": len(generated), "refused": str(error)}


def _compare_inception(
    inception: InceptionOutputs, real: np.ndarray, generated: np.ndarray, groups: list[str]
) -> dict[str, Any]:
    """Returns the metrics of some rows in the feature space of FID, and their inception score."""
    record = _compare(inception.features[real], inception.features[generated], groups, inception.space)
    if "metrics" in record:
        logits = inception.logits
        record["inception_score"] = inception_scores.inception_scores(logits[real], logits[generated], groups=groups)
    return record


def _records(
    candidates: Candidates,
    outputs: CandidateFeatures,
    selections: list[ClassSelection],
    out: Path,
    keep: int,
    rules: Rules,
    features: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the contents of selected.json and rejected.json."""
    ranked, rejected = [], []
    for choice in selections:
        decision, entries = choice.decision, _entries(candidates, choice, out)
        ranked += [(rank, entries[index] | {"rank": rank}) for rank, index in enumerate(decision.selected)]
        for entry, reason, other in zip(entries, decision.reasons, decision.duplicate_of, strict=True):
            if reason is not None:
                duplicate = {"duplicate_of": entries[other]["path"]} if other >= 0 else {}
                rejected.append(entry | {"reason": reason} | duplicate)
    head = {
        "format": 1,
        "split_sha256": candidates.dataset.split_sha256,
        **pools.preprocessing(candidates.pools),
        "pool": {
            pool.label: asdict(pool.model)
            | {"folder": _relative(pool.folder, out), "kind": pool.kind, "sampling": pool.sampling}
            for pool in candidates.pools
        },
        "classifier": {
            "workdir": command_line.shown(candidates.classifier.workdir),
            "checkpoint_step": outputs.checkpoint_step,
        },
        "features": {"name": features, "space": outputs.space},
        "keep": keep,
        "rules": asdict(rules),
    }
    classes = {choice.pool.label: _class_record(choice) for choice in selections}
    # By rank, so that every prefix of the list is balanced over the classes.
    images = [entry for _, entry in sorted(ranked, key=lambda item: item[0])]
    origin = {"command": command_line.command() or None, "versions": package_versions()}
    return head | origin | {"classes": classes, "images": images}, head | {"rejected": rejected}


def _entries(candidates: Candidates, selected: ClassSelection, out: Path) -> list[dict[str, Any]]:
    """Returns one record per image of a class's pool."""
    dataset, scores = candidates.dataset, selected.scores
    manifest, train = dataset.manifest, dataset.rows("train")
    return [
        {
            "path": _relative(image.path, out),
            "label": selected.pool.label,
            "seed": image.seed,
            "sha256": image.sha256,
            "probability": float(scores.probability[index]),
            "class_distance": float(scores.class_distance[index]),
            "feature_distance": float(scores.feature_distance[index]),
            "feature_nearest": manifest.rows[train[scores.feature_row[index]]].path,
            "pixel_distance": float(scores.pixel_distance[index]),
            "pixel_nearest": manifest.rows[train[scores.pixel_row[index]]].path,
        }
        for index, image in enumerate(selected.pool.images)
    ]


def _class_record(selected: ClassSelection) -> dict[str, Any]:
    """Returns the entry of one class in selected.json."""
    reasons, number = selected.decision.reasons, len(selected.scores)
    of_readers = (review_votes.NOT_REVIEWED, review_votes.OBJECTED)
    counts = {name: reasons.count(name) for name in selection.REASONS if name not in of_readers or name in reasons}
    failed = sum(count for reason, count in counts.items() if reason not in selection.PASSED)
    reference = {
        name: {"images": len(values), "median": float(np.median(values))} if len(values) else {"images": 0}
        for name, values in vars(selected.reference).items()
    }
    return {
        "generated": number,
        "kept": len(selected.decision.selected),
        "reject_rate": failed / number,
        "rejected": counts,
        "limits": asdict(selected.limits),
        "real": reference,
        "metrics": selected.metrics,
    }


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path, out)).as_posix()


def _pages(
    candidates: Candidates,
    selections: list[ClassSelection],
    selected: dict[str, Any],
    rejected: dict[str, Any],
    diagnosed: dict[str, Any] | None,
    out: Path,
) -> dict[str, bytes]:
    """Returns the HTML report and the sheet of closest pairs by file name."""
    manifest = candidates.dataset.manifest
    rows = {row.path: number for number, row in enumerate(manifest.rows)}
    # Normalised by text: `out` may not exist yet.
    pairs = closest_pairs.Pictures(
        lambda path: Path(os.path.normpath(out / path)), lambda path: manifest.file(rows[path])
    )
    nearest = {}
    for choice in selections:
        reference, scores = choice.reference, choice.scores
        nearest[choice.pool.label] = {
            "validation images": (reference.held_out_feature, reference.held_out_pixel),
            "training images, to other cases": (reference.train_feature, reference.train_pixel),
            "all generated images": (scores.feature_distance, scores.pixel_distance),
        }
    return {
        REPORT: selection_page.render(selected, rejected["rejected"], nearest, pairs, diagnosed).encode("utf-8"),
        CLOSEST: closest_pairs.closest_sheet(selected, rejected["rejected"], pairs),
    }


def summary(selected: dict[str, Any]) -> str:
    """Returns a short text on a selection: per class, the numbers of selected and rejected images.

    Args:
      selected: contents of selected.json.
    """
    lines = []
    for label, entry in selected["classes"].items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in entry["rejected"].items() if count)
        lines.append(
            f"{command_line.printable(label)}: selected {entry['kept']} of {entry['generated']}, reject rate "
            f"{entry['reject_rate']:.1%}" + (f" ({reasons})" if reasons else "")
        )
        threshold = entry["limits"]["probability"]
        if threshold < selected["rules"]["least_probability"]:
            lines.append(
                f"  the classifier gives real validation images of the class a median probability of only "
                f"{threshold:.2f}, so the threshold is lowered to that; a better classifier would select better"
            )
        if entry["kept"] < selected["keep"]:
            lines.append(
                f"  fewer than the {selected['keep']} of --keep: generate more images, train the generator longer, "
                "or read the report before relaxing a rule"
            )
    return "\n".join(lines)
