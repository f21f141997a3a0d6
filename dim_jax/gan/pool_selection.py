"""Chooses the images of a pool that are worth training on, and says of every other one why not.

Writes selected.json (for config.data.generated), rejected.json, report.html and closest_pairs.png."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli import command_line
from dim_jax.gan import generative_metrics, pools, selection
from dim_jax.gan.candidates import Candidates, Inception, Seen, gather, look
from dim_jax.gan.selection_rules import CLASSIFIER, LITE0, Rules
from dim_jax.reporting import selection_page
from dim_jax.runs import files
from dim_jax.training import compilation

SELECTED, REJECTED, REPORT, CLOSEST = "selected.json", "rejected.json", "report.html", "closest_pairs.png"


@dataclass(frozen=True)
class Chosen:
    """The decision on one class, and what it rests on."""

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
    features: str = LITE0,
    inception_weights: str | Path = "",
) -> dict[str, Any]:
    """Chooses images of every class of a pool and writes the folder `out`.

    Args:
      pool: what `generate` wrote: a folder of classes, or one class of it.
      data: the prepared data that the GANs and the classifier were trained on.
      classifier: run directory of a classifier that was trained on real images alone.
      out: folder to write; new, empty, or of an earlier selection, which is replaced.
      keep: the most images to keep of each class.
      rules: how strict to be.
      features: space of the distances: "efficientnet_lite0" (ImageNet weights), or "classifier" for that run's own.
      inception_weights: file of the Inception network of FID (pretrained.inception_v3). With it FID, KID and the
        inception score are written and shown too; they decide nothing.

    Returns:
      The content of selected.json.

    Raises:
      FileNotFoundError: there is no pool, no data, no run, no such weights, or an image is gone.
      ValueError: the three are not of one split, the classifier has seen generated images, or something is broken.
    """
    out = Path(os.path.abspath(out))
    if keep < 1:
        raise ValueError(f"--keep={keep} must be at least 1")
    if features not in (LITE0, CLASSIFIER):
        raise ValueError(f"--features={features} is unknown; choose {LITE0} or {CLASSIFIER}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={out} is a file; choose a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / SELECTED).is_file():
        raise ValueError(f"--out={out} is not empty and holds no selection; choose another --out")
    compilation.configure_compilation()
    found = gather(pool, data, classifier)
    seen = look(found, features, inception_weights)
    chosen = [_choose(found, seen, each, keep, rules) for each in found.pools]
    selected, rejected = _contents(found, seen, chosen, out, keep, rules, features)
    for name, content in _pages(found, chosen, selected, rejected, out).items():
        files.write_bytes(out / name, content)
    files.write_json(out / REJECTED, rejected)
    files.write_json(out / SELECTED, selected)
    return selected


def _choose(found: Candidates, seen: Seen, pool: pools.Pool, keep: int, rules: Rules) -> Chosen:
    """Scores and decides on one class."""
    dataset = found.dataset
    label = dataset.classes.index(pool.label)
    train, held_out = dataset.rows("train"), dataset.rows("val")
    held_out = held_out[dataset.labels[held_out] == label]
    rows = np.flatnonzero(dataset.is_generated & (dataset.labels == label))
    is_class = dataset.labels[train] == label
    if is_class.sum() < 2:
        raise ValueError(f"class {pool.label!r} has {is_class.sum()} training images, too few to compare with")
    groups = [dataset.manifest.rows[row].group or f"image {row}" for row in train]
    reference = selection.reference(
        seen.features[train], seen.thumbnails[train], groups, is_class, seen.features[held_out],
        seen.thumbnails[held_out], seen.probabilities[held_out, label],
    )  # fmt: skip
    scores = selection.score(
        np.array([image.seed for image in pool.images]), seen.probabilities[rows, label], seen.features[rows],
        seen.thumbnails[rows], seen.features[train], seen.thumbnails[train], is_class,
    )  # fmt: skip
    limits = selection.limits(rules, reference)
    decision = selection.decide(scores, keep, limits)
    real = seen.features[train[is_class]]
    own_groups = [group for group, own in zip(groups, is_class, strict=True) if own]
    metrics = {}
    for name, generated in (("pool", rows), ("kept", rows[list(decision.kept)])):
        metrics[name] = _compare(real, seen.features[generated], own_groups, seen.space)
        if seen.inception:
            metrics[name]["inception"] = _compare_inception(seen.inception, train[is_class], generated, own_groups)
    return Chosen(pool, scores, reference, limits, decision, metrics)


def _compare(real: np.ndarray, generated: np.ndarray, groups: list[str], space: str) -> dict[str, Any]:
    """The metrics of some images, or why there are none."""
    try:
        return generative_metrics.compare(real, generated, groups=groups, space=space)
    except ValueError as error:
        return {"space": space, "num_real": len(real), "num_generated": len(generated), "refused": str(error)}


def _compare_inception(
    inception: Inception, real: np.ndarray, generated: np.ndarray, groups: list[str]
) -> dict[str, Any]:
    """The metrics of some rows in the space of FID, and their inception score."""
    found = _compare(inception.features[real], inception.features[generated], groups, inception.space)
    if "metrics" in found:
        logits = inception.logits
        found["inception_score"] = generative_metrics.inception_scores(logits[real], logits[generated], groups=groups)
    return found


def _contents(
    found: Candidates, seen: Seen, chosen: list[Chosen], out: Path, keep: int, rules: Rules, features: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the contents of selected.json and rejected.json."""
    kept, rejected = [], []
    for each in chosen:
        entries = _entries(found, each, out)
        kept += [(rank, entries[place] | {"rank": rank}) for rank, place in enumerate(each.decision.kept)]
        for entry, reason, other in zip(entries, each.decision.reasons, each.decision.duplicate_of, strict=True):
            if reason is not None:
                duplicate = {"duplicate_of": entries[other]["path"]} if other >= 0 else {}
                rejected.append(entry | {"reason": reason} | duplicate)
    head = {
        "format": 1,
        "split_sha256": found.dataset.split_sha256,
        "pool": {each.pool.label: asdict(each.pool.model) | {"folder": _relative(each.pool.folder, out)}
                 for each in chosen},
        "classifier": {"workdir": str(found.classifier.workdir), "checkpoint_step": seen.checkpoint_step},
        "features": {"name": features, "space": seen.space},
        "keep": keep,
        "rules": asdict(rules),
    }  # fmt: skip
    classes = {each.pool.label: _class_content(each) for each in chosen}
    # The first of every class, then the second of every class: the beginning of the list is a selection too.
    images = [entry for _, entry in sorted(kept, key=lambda item: item[0])]
    return head | {"classes": classes, "images": images}, head | {"rejected": rejected}


def _entries(found: Candidates, chosen: Chosen, out: Path) -> list[dict[str, Any]]:
    manifest, train, scores = found.dataset.manifest, found.dataset.rows("train"), chosen.scores
    return [
        {
            "path": _relative(image.path, out),
            "label": chosen.pool.label,
            "seed": image.seed,
            "sha256": image.sha256,
            "probability": float(scores.probability[place]),
            "class_distance": float(scores.class_distance[place]),
            "feature_distance": float(scores.feature_distance[place]),
            "feature_nearest": manifest.rows[train[scores.feature_row[place]]].path,
            "pixel_distance": float(scores.pixel_distance[place]),
            "pixel_nearest": manifest.rows[train[scores.pixel_row[place]]].path,
        }
        for place, image in enumerate(chosen.pool.images)
    ]


def _class_content(chosen: Chosen) -> dict[str, Any]:
    reasons, number = chosen.decision.reasons, len(chosen.scores)
    counts = {reason: reasons.count(reason) for reason in selection.REASONS}
    failed = sum(count for reason, count in counts.items() if reason != selection.SPARE)
    reference = {
        name: {"images": len(values), "median": float(np.median(values))} if len(values) else {"images": 0}
        for name, values in vars(chosen.reference).items()
    }
    return {
        "generated": number,
        "kept": len(chosen.decision.kept),
        "reject_rate": failed / number,
        "rejected": counts,
        "limits": asdict(chosen.limits),
        "real": reference,
        "metrics": chosen.metrics,
    }


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path, out)).as_posix()


def _pages(
    found: Candidates, chosen: list[Chosen], selected: dict[str, Any], rejected: dict[str, Any], out: Path
) -> dict[str, bytes]:
    """Draws the page and the sheet of closest pairs."""
    rows = {row.path: number for number, row in enumerate(found.dataset.manifest.rows)}
    # Without the "..": `out` is not there yet.
    pairs = selection_page.Pictures(
        lambda path: Path(os.path.normpath(out / path)), lambda path: found.dataset.manifest.file(rows[path])
    )
    nearest = {
        each.pool.label: {
            "validation images": (each.reference.held_out_feature, each.reference.held_out_pixel),
            "training images, to other cases": (each.reference.train_feature, each.reference.train_pixel),
            "all generated images": (each.scores.feature_distance, each.scores.pixel_distance),
        }
        for each in chosen
    }
    return {
        REPORT: selection_page.render(selected, rejected["rejected"], nearest, pairs).encode("utf-8"),
        CLOSEST: selection_page.closest_sheet(selected, rejected["rejected"], pairs),
    }


def summary(selected: dict[str, Any]) -> str:
    """Returns what became of the pool as a short text with one line per class."""
    lines = []
    for label, entry in selected["classes"].items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in entry["rejected"].items() if count)
        lines.append(
            f"{command_line.printable(label)}: kept {entry['kept']} of {entry['generated']}, reject rate "
            f"{entry['reject_rate']:.1%}" + (f" ({reasons})" if reasons else "")
        )
        asked = entry["limits"]["probability"]
        if asked < selected["rules"]["least_probability"]:
            lines.append(
                f"  the classifier gives real validation images of the class only {asked:.2f} (median), so no more is "
                "asked; a better classifier would judge better"
            )
        if entry["kept"] < selected["keep"]:
            lines.append(
                f"  fewer than the {selected['keep']} that were asked for: generate more, train the GAN longer, or "
                "look at the report before relaxing a rule"
            )
    return "\n".join(lines)
