"""Diagnosis of a pool: what its images cover, what tells them from real ones, and whether they are copies.

Every number is in a named feature space that no discriminator used, beside the same number for real images where there
is one. Nothing here decides which images are selected. Only training and validation images are used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dim_jax.data import images
from dim_jax.gan import generative_metrics, linear_heads, memorisation, spectra
from dim_jax.gan.candidates import CandidateFeatures, Candidates
from dim_jax.gan.feature_sets import distances
from dim_jax.gan.judges import Judge, judge_features
from dim_jax.gan.resampling import LEAST_IMAGES

RESOLUTIONS = (16, 32, 64)  # px, as far as they are below the size of the generated images
NEIGHBOURS = 8  # images of either kind that are shown with their nearest ones
MOST_SIDE = 1024  # px, of --enlarge-to


def check_sizes(candidates: Candidates, enlarge_to: int) -> None:
    """Checks that a diagnosis is possible.

    Args:
      candidates: the pools and the real images.
      enlarge_to: as in `diagnose`.

    Raises:
      ValueError: a class has fewer than 10 generated or real training images, or `enlarge_to` is not above the size of
        the generated images.
    """
    dataset, train = candidates.dataset, candidates.dataset.rows("train")
    for pool in candidates.pools:
        label = dataset.classes.index(pool.label)
        for kind, count in (("generated", len(pool.images)), ("training", int((dataset.labels[train] == label).sum()))):
            if count < LEAST_IMAGES:
                raise ValueError(
                    f"class {pool.label!r} has {count} {kind} images, too few to diagnose its pool; {LEAST_IMAGES} are "
                    "needed: generate more images, or select with --no-diagnosis"
                )
    if enlarge_to and not candidates.image_size < enlarge_to <= MOST_SIDE:
        raise ValueError(
            f"--enlarge-to={enlarge_to} must be above the {candidates.image_size} px of the generated images and at "
            f"most {MOST_SIDE}"
        )


def diagnose(
    candidates: Candidates,
    outputs: CandidateFeatures,
    features: str,
    selected: Mapping[str, Sequence[int]],
    spaces: Sequence[Judge],
    enlarge_to: int = 0,
) -> dict[str, Any]:
    """Compares the generated images with real ones in several feature spaces.

    Args:
      candidates: pools, real images and classifier.
      outputs: features of the space of the selection.
      features: name of that space.
      selected: class -> positions of the selected images in its pool.
      spaces: the judges; for that of the selection, `outputs` are used at full size.
      enlarge_to: also measure how well generated images enlarged to this side in px are told from real ones; 0: no.

    Returns:
      A JSON-ready dict: "spaces" (name -> description), "image_size", "generated_to_real" (space -> result of
      linear_heads.generated_to_real, with class names), and "classes": class -> dict of "metrics" (space -> "pool" and
      "kept" -> generative_metrics.compare), "resolutions" (space -> side in px -> generative_metrics.at_equal_sizes
      and "separability"), "data_copying" (space -> memorisation.data_copying), "enlarged" (space -> "size", and the
      results of linear_heads.separability "before", "after" and "blur"; only with `enlarge_to`), "spectrum" and
      "neighbours". What cannot be computed is {"refused": reason}.
    """
    dataset = candidates.dataset
    classes = {pool.label: _ClassRows(candidates, pool.label) for pool in candidates.pools}
    record: dict[str, Any] = {
        "format": 1,
        "split_sha256": dataset.split_sha256,
        "image_size": candidates.image_size,
        "spaces": {judge.name: judge.space for judge in spaces},
        "generated_to_real": {},
        "classes": {label: {} for label in classes},
    }
    for judge in spaces:
        views = _make_views(candidates, judge, outputs.features if judge.name == features else None, enlarge_to)
        record["generated_to_real"][judge.name] = _tried(_transfer, candidates, views.full)
        for label, rows in classes.items():
            for name, result in _in_space(judge, views, rows, list(selected[label])).items():
                record["classes"][label].setdefault(name, {})[judge.name] = result
    for label, rows in classes.items():
        record["classes"][label] |= {
            "spectrum": _spectrum(candidates, rows),
            "neighbours": _neighbours(candidates, outputs.features, features, rows),
        }
    return record


@dataclass(frozen=True)
class _Views:
    """Features of images as they are seen in several ways, one row per row of the dataset.

    Attributes:
      full: at the size of the generated images.
      at_side: side in px -> shrunk to it and enlarged again.
      enlarged: brought to the side `enlarge_to`; None without it.
      shrunk: shrunk to the size of the generated images and enlarged to `enlarge_to`; None without it.
      enlarge_to: side in px, 0 for none.
    """

    full: np.ndarray
    at_side: dict[int, np.ndarray]
    enlarged: np.ndarray | None
    shrunk: np.ndarray | None
    enlarge_to: int


def _make_views(candidates: Candidates, judge: Judge, full: np.ndarray | None, enlarge_to: int) -> _Views:
    """Computes the features of a judge; those at full size only if they are None."""
    dataset, size = candidates.dataset, candidates.image_size
    train, generated = dataset.rows("train"), np.flatnonzero(dataset.is_generated)
    if full is None:
        full = _features(candidates, judge, np.concatenate([train, dataset.rows("val"), generated]), (size,))
    # The other views are of the classes of the pools alone.
    train = train[np.isin(dataset.labels[train], dataset.labels[generated])]
    compared = np.concatenate([train, generated])
    at_side = {side: _features(candidates, judge, compared, (size, side, size)) for side in RESOLUTIONS if side < size}
    enlarged = _features(candidates, judge, compared, (enlarge_to,)) if enlarge_to else None
    shrunk = _features(candidates, judge, train, (size, enlarge_to)) if enlarge_to else None
    return _Views(full, {**at_side, size: full}, enlarged, shrunk, enlarge_to)


def _in_space(judge: Judge, views: _Views, rows: "_ClassRows", selected: list[int]) -> dict[str, Any]:
    """Returns the results of one class in one space."""
    full, compare = views.full, generative_metrics.compare
    real = full[rows.train]
    about = {"groups": rows.groups, "space": judge.space}
    results = {
        "metrics": {
            "pool": _tried(compare, real, full[rows.generated], **about),
            "kept": _tried(compare, real, full[rows.generated[selected]], **about),
        },
        "resolutions": {str(side): _tried(_at_resolution, values, rows) for side, values in views.at_side.items()},
        "data_copying": _tried(memorisation.data_copying, real, full[rows.held_out], full[rows.generated]),
    }
    if views.enlarge_to:
        results["enlarged"] = {"size": views.enlarge_to} | _tried(_when_enlarged, views.enlarged, views.shrunk, rows)
    return results


class _ClassRows:
    """Rows of the images of one class in the dataset, and the cases of its training images."""

    def __init__(self, candidates: Candidates, label: str):
        dataset = candidates.dataset
        number = dataset.classes.index(label)

        def of_class(rows: np.ndarray) -> np.ndarray:
            return rows[dataset.labels[rows] == number]

        self.train, self.held_out = of_class(dataset.rows("train")), of_class(dataset.rows("val"))
        self.generated = of_class(np.flatnonzero(dataset.is_generated))
        self.groups = _groups(candidates, self.train)


def _groups(candidates: Candidates, rows: np.ndarray) -> list[str]:
    manifest = candidates.dataset.manifest
    return [manifest.rows[row].group or f"image {row}" for row in rows]


def _features(candidates: Candidates, judge: Judge, rows: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """Returns the features of `rows`, one row per row of the dataset; the others are zero."""
    dataset = candidates.dataset
    values = judge_features(judge, [dataset.file(row) for row in rows], sides, candidates.classifier.config.data.resize)
    features = np.zeros((len(dataset), values.shape[1]))
    features[rows] = values
    return features


def _tried(compute: Callable[..., dict[str, Any]], *arguments: Any, **options: Any) -> dict[str, Any]:
    """Returns a result, or the reason why there is none."""
    try:
        return compute(*arguments, **options)
    except ValueError as error:
        return {"refused": str(error)}


def _at_resolution(values: np.ndarray, rows: _ClassRows) -> dict[str, Any]:
    real, generated = values[rows.train], values[rows.generated]
    return generative_metrics.at_equal_sizes(real, generated, groups=rows.groups) | {
        "separability": linear_heads.separability(real, generated, groups=rows.groups)
    }


def _when_enlarged(full: np.ndarray, shrunk: np.ndarray, rows: _ClassRows) -> dict[str, Any]:
    """Separability of enlarged generated images from real ones, before and after these are shrunk and enlarged too."""
    real, blurred, generated = full[rows.train], shrunk[rows.train], full[rows.generated]
    return {
        "before": linear_heads.separability(real, generated, groups=rows.groups),
        "after": linear_heads.separability(blurred, generated, groups=rows.groups),
        "blur": linear_heads.separability_of_versions(real, blurred, groups=rows.groups),
    }


def _transfer(candidates: Candidates, values: np.ndarray) -> dict[str, Any]:
    dataset = candidates.dataset
    train, held_out, generated = dataset.rows("train"), dataset.rows("val"), np.flatnonzero(dataset.is_generated)
    labels = np.array(dataset.classes)[dataset.labels]
    return linear_heads.generated_to_real(
        values[train], labels[train], values[generated], labels[generated], values[held_out], labels[held_out],
        groups=_groups(candidates, held_out),
    )  # fmt: skip


def _spectrum(candidates: Candidates, rows: _ClassRows) -> dict[str, Any]:
    """Mean radial power spectra of the training, validation and generated images of a class."""
    dataset, policy = candidates.dataset, candidates.classifier.config.data.resize
    record: dict[str, Any] = {}
    sets = {"training": rows.train, "validation": rows.held_out, "generated": rows.generated}
    for name, members in sets.items():
        pixels = list(images.read_squares([dataset.file(row) for row in members], candidates.image_size, policy))
        if pixels:
            frequency, power = spectra.radial_power(np.stack(pixels))
            record |= {"cycles_per_pixel": frequency.tolist(), name: power.mean(0).tolist()}
    return record


def _neighbours(candidates: Candidates, values: np.ndarray, features: str, rows: _ClassRows) -> dict[str, Any]:
    """A few generated images with the nearest real ones, and real images with the nearest generated ones.

    The first seeds, and training images at equal steps of the list: not chosen by what they look like.
    """
    dataset, manifest = candidates.dataset, candidates.dataset.manifest
    between = distances(values[rows.generated], values[rows.train])
    names = {row: manifest.rows[row].path for row in rows.train.tolist()}
    names |= {row: str(dataset.file(row)) for row in rows.generated.tolist()}

    def pairs(members: np.ndarray, others: np.ndarray, between: np.ndarray) -> list[dict[str, Any]]:
        shown = np.unique(np.linspace(0, len(members) - 1, min(NEIGHBOURS, len(members))).astype(int))
        return [
            {
                "path": names[int(members[index])],
                "nearest": names[int(others[between[index].argmin()])],
                "distance": float(between[index].min()),
            }
            for index in shown
        ]

    return {
        "space": features,
        "generated": pairs(rows.generated, rows.train, between),
        "real": pairs(rows.train, rows.generated, between.T),
    }
