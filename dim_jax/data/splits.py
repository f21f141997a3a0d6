"""Stratified splits of a dataset into training, validation and test images, by whole units.

A unit is a set of images that must stay in one part: those of one group (patient or case), with all near-duplicates of
them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dim_jax.data.manifest import Manifest
from dim_jax.data.stratification import divide_images, divide_units
from dim_jax.runs import files

FILE_NAME = "split.json"
VERSION = 1
NAMES = ("train", "val", "test")
MAX_FOLDS = 1000  # of a cross-validation; also in runs/schema.py
METHODS = ("group", "random_image", "kfold", "manifest")


@dataclass(frozen=True)
class Fold:
    """One assignment of the rows to training, validation and test.

    Attributes:
      assignment: "train", "val" or "test" for each row.
      mean, std: statistics per channel of the training images in [0, 1], resized by "squash".
    """

    assignment: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Split:
    """One fold, or K folds of a cross-validation.

    Attributes:
      method: "group", "image" (by group, but no group is known), "random_image", "kfold" or "manifest".
      seed: random seed of the split.
      folds: the folds.
    """

    method: str
    seed: int
    folds: tuple[Fold, ...]

    def rows(self, fold: int, name: str) -> np.ndarray:
        """Returns the rows of part `name` ("train", "val" or "test") of a fold, ascending, int32."""
        if name not in NAMES:
            raise ValueError(f"unknown split {name!r}; use {', '.join(NAMES)}")
        return np.flatnonzero(np.array(self.fold(fold).assignment) == name).astype(np.int32)

    def fold(self, number: int) -> Fold:
        """Returns a fold by its number."""
        if not 0 <= number < len(self.folds):
            raise ValueError(f"fold {number} does not exist; this split has folds 0 to {len(self.folds) - 1}")
        return self.folds[number]


def save(split: Split, manifest: Manifest, folder: str | Path) -> Path:
    """Writes `folder/split.json`, with the fingerprint of the manifest, and returns its path."""
    record = {
        "version": VERSION,
        "method": split.method,
        "seed": split.seed,
        "manifest": manifest.fingerprint,
        "folds": [{"assignment": fold.assignment, "mean": fold.mean, "std": fold.std} for fold in split.folds],
    }
    return files.write_json(Path(folder) / FILE_NAME, record)


def load(folder: str | Path, manifest: Manifest) -> Split:
    """Reads `folder/split.json` and checks that it belongs to `manifest`.

    Raises:
      FileNotFoundError: there is no split in the folder.
      ValueError: the split has another version, is malformed, or belongs to another manifest.
    """
    path = Path(os.path.abspath(folder)) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make it with python -m dim_jax.prepare --out={path.parent}")
    record = files.read_json(path)
    if not isinstance(record, dict) or record.get("version") != VERSION:
        version = record.get("version") if isinstance(record, dict) else None
        raise ValueError(f"{path} has version {version!r}, expected {VERSION}; prepare the data again")
    missing = [key for key in ("method", "seed", "manifest", "folds") if key not in record]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; prepare the data again")
    if not isinstance(record["folds"], list) or not record["folds"]:
        raise ValueError(f"{path} has no folds; prepare the data again")
    folds = tuple(_read_fold(fold, f"{path}, fold {number}", manifest) for number, fold in enumerate(record["folds"]))
    if not isinstance(record["method"], str) or type(record["seed"]) is not int:
        raise ValueError(f"{path}: 'method' must be a name and 'seed' an integer; prepare the data again")
    if record["manifest"] != manifest.fingerprint:
        raise ValueError(f"{path} was drawn for another manifest (fingerprints differ); prepare the data again")
    return Split(record["method"], record["seed"], folds)


def _read_fold(fold: Any, where: str, manifest: Manifest) -> Fold:
    missing = [key for key in ("assignment", "mean", "std") if not isinstance(fold, dict) or key not in fold]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; prepare the data again")
    assignment = fold["assignment"]
    if not isinstance(assignment, list) or not all(isinstance(part, str) for part in assignment):
        raise ValueError(f"{where}: 'assignment' must be a list with a split for every image; prepare the data again")
    if len(assignment) != len(manifest):
        raise ValueError(
            f"{where} divides {len(assignment)} images but the manifest has {len(manifest)}; prepare the data again"
        )
    unknown = sorted(set(assignment) - set(NAMES))
    if unknown:
        raise ValueError(f"{where}: unknown split {unknown[0]!r}; use {', '.join(NAMES)}")
    for key, least in (("mean", 0.0), ("std", np.nextafter(0, 1))):
        values = fold[key]
        if not isinstance(values, list) or len(values) != 3 or not all(
            type(value) in (int, float) and least <= value <= 1 for value in values
        ):  # fmt: skip
            raise ValueError(f"{where}: {key!r} must be three numbers in [0, 1], not {values!r}; prepare it again")
    return Fold(tuple(assignment), tuple(fold["mean"]), tuple(fold["std"]))


def units_of(groups: Sequence[str], pairs: np.ndarray) -> np.ndarray:
    """Joins the images of each group, and duplicates, into units.

    Args:
      groups: group of each image; "" is a group of its own.
      pairs: pairs of rows that are exact or near-duplicates, integers of shape (P, 2).

    Returns:
      Unit of each image, int32 of shape (N,), numbered from 0 by first appearance.
    """
    count = len(groups)
    first_of: dict[str, int] = {}
    same_group = [(first_of.setdefault(group, row), row) for row, group in enumerate(groups) if group]
    links = np.concatenate([np.array(same_group, np.int64).reshape(-1, 2), np.asarray(pairs, np.int64).reshape(-1, 2)])
    graph = coo_matrix((np.ones(len(links), np.int8), (links[:, 0], links[:, 1])), shape=(count, count))
    return _number_by_first_appearance(connected_components(graph, directed=False)[1])


def _number_by_first_appearance(values: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)].astype(np.int32)


def part_shares(method: str, folds: int, validation: float, test: float) -> np.ndarray:
    """Returns the target share of each part: K equal ones for "kfold", else training, validation and test.

    Args:
      method: "group", "random_image" or "kfold".
      folds: number of parts of "kfold", 3 to MAX_FOLDS.
      validation, test: shares of the images, in (0, 1), with a sum below 1.

    Raises:
      ValueError: an argument is out of range.
    """
    if method == "kfold":
        if not 3 <= folds <= MAX_FOLDS:
            raise ValueError(
                f"--folds={folds} must be at least 3, for test, validation and training, and at most {MAX_FOLDS}"
            )
        return np.full(folds, 1 / folds)
    if method not in ("group", "random_image"):
        raise ValueError(f"unknown split method {method!r}; use {', '.join(METHODS)}")
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise ValueError(
            f"--validation={validation} and --test={test} must be positive and leave something to train on"
        )
    return np.array([1 - validation - test, validation, test])


def assign(
    labels: np.ndarray,
    units: np.ndarray,
    method: str = "group",
    folds: int = 5,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
) -> tuple[tuple[str, ...], ...]:
    """Assigns images to training, validation and test; a pure function of its arguments.

    Args:
      labels: integer labels, shape (N,).
      units: unit of each image, shape (N,); ignored by "random_image".
      method: "group" (one fold, whole units), "kfold" (whole units; fold i is tested on part i, validated on part
        i + 1 and trained on the others) or "random_image" (one fold, stratified, image by image).
      folds: number of parts of "kfold".
      validation, test: shares of the images, for "group" and "random_image".
      seed: random seed of the split.

    Returns:
      For each fold, "train", "val" or "test" for each image.

    Raises:
      ValueError: the shares or the number of folds are out of range, or there are fewer units than parts.
    """
    labels, units = np.asarray(labels), _number_by_first_appearance(np.asarray(units))
    shares = part_shares(method, folds, validation, test)
    if method == "random_image":
        units = np.arange(len(labels))
    num_units = int(units.max()) + 1
    if num_units < len(shares):
        raise ValueError(
            f"{len(labels)} images in {num_units} group(s) of patients or near-duplicates cannot be divided into "
            f"{len(shares)} parts; give more groups or use --split=random_image"
        )
    rng = np.random.default_rng(seed)
    if method == "random_image":
        part = divide_images(labels, shares, rng)
    else:
        part = divide_units(labels, units, shares, rng, ranked=method == "group")[units]
    if method != "kfold":
        return (tuple(NAMES[number] for number in part),)
    return tuple(
        tuple("test" if number == fold else "val" if number == (fold + 1) % folds else "train" for number in part)
        for fold in range(folds)
    )
