"""Prepared dataset for training: one table of real and generated images, and one fold of the split."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dim_jax.cli.command_line import printable
from dim_jax.data import bucket_images, splits
from dim_jax.data import manifest as manifests
from dim_jax.runs import files

if TYPE_CHECKING:
    from dim_jax.runs.configuration import RunConfig  # imports the networks

GENERATED_FILE = "generated.json"
REPORT_FILE = "data_report.json"
MOST_NAMED = 20  # changed images in an error message


@dataclass(frozen=True)
class Dataset:
    """Real images in manifest order, then generated ones, which are used for training only.

    Attributes:
      manifest: the real images.
      split: split of the real images.
      fold: index of the fold in use.
      generated: (absolute path, integer label) of each generated image.
      fixed_statistics: mean and std per channel in place of the training images' own; None for their own.
    """

    manifest: manifests.Manifest
    split: splits.Split
    fold: int = 0
    generated: tuple[tuple[Path, int], ...] = ()
    fixed_statistics: tuple[Sequence[float], Sequence[float]] | None = None

    def __len__(self) -> int:
        return len(self.manifest) + len(self.generated)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    @cached_property
    def labels(self) -> np.ndarray:
        """Integer labels, int32 of shape (N,)."""
        return np.concatenate([self.manifest.labels, np.array([label for _, label in self.generated], np.int32)])

    @cached_property
    def is_generated(self) -> np.ndarray:
        """Whether each image is generated, bool of shape (N,)."""
        return np.arange(len(self)) >= len(self.manifest)

    def file(self, index: int) -> Path:
        """Returns the absolute path of the image of row `index`."""
        real = len(self.manifest)
        return self.manifest.file(index) if index < real else self.generated[index - real][0]

    def rows(self, split: str) -> np.ndarray:
        """Returns the real rows of "train", "val" or "test", ascending, int32."""
        return self.split.rows(self.fold, split)

    @property
    def held_out(self) -> dict[str, str]:
        """SHA-256 of the validation and test images by their paths in the manifest."""
        rows = [row for part in ("val", "test") for row in self.rows(part).tolist()]
        return {self.manifest.rows[row].path: self.manifest.rows[row].sha256 for row in rows}

    @cached_property
    def split_sha256(self) -> str:
        """SHA-256 over the images, by their own digests, and their parts of the fold in use.

        Folds with the same value hold out the same images; paths and order do not enter.
        """
        assignment = self.split.folds[self.fold].assignment
        parts = sorted((row.sha256, part) for row, part in zip(self.manifest.rows, assignment, strict=True))
        return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()

    def fold_of_split(self, split_sha256: object) -> "Dataset | None":
        """Returns the dataset with the first fold whose `split_sha256` is this; None if no fold has it."""
        folds = (replace(self, fold=fold) for fold in range(len(self.split.folds)))
        return next((dataset for dataset in folds if dataset.split_sha256 == split_sha256), None)

    def channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and std per channel in [0, 1] for normalisation, float32 of shape (3,) each."""
        fold = self.split.folds[self.fold]
        mean, std = self.fixed_statistics or (fold.mean, fold.std)
        return np.array(mean, np.float32), np.array(std, np.float32)


def open_dataset(
    folder: str | Path,
    fold: int = 0,
    generated: str | Path = "",
    generated_count: int = -1,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Dataset:
    """Opens a folder written by `prepare`, or a run directory written by `save`.

    Args:
      folder: folder with manifest.json and split.json.
      fold: index of the fold, from 0.
      generated: path of a list of generated images to train with (manifest.load_generated); "" for none.
      generated_count: number of images to take from the start of the list; -1 takes all.
      mean, std: statistics for normalisation, three numbers in [0, 1] each; empty for those of the training images.

    Raises:
      FileNotFoundError: the folder, the list or an image does not exist.
      ValueError: a file is malformed, images have changed since they were prepared, the fold does not exist, the list
        is shorter than `generated_count`, its GAN was trained on another split, or `mean` and `std` are invalid.
    """
    fixed = fixed_statistics(mean, std)
    manifest = manifests.load(folder)
    split = splits.load(folder, manifest)
    split.rows(fold, "train")
    bucket_images.fetch(manifest.root)
    missing = manifests.missing_files(manifest)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(manifest)} images listed in {folder} are gone, first {missing[0]}; put them "
            f"back, say where they are now with python -m dim_jax.prepare --out={folder} --data-root=FOLDER, or "
            "prepare the data again"
        )
    changed = manifests.changed_files(manifest)
    if changed:
        more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
        raise ValueError(
            f"{len(changed)} of the {len(manifest)} images listed in {folder} have changed since they were prepared: "
            f"{', '.join(map(str, changed[:MOST_NAMED]))}{more}; bring the old files back or prepare the data again"
        )
    dataset = Dataset(manifest, split, fold)
    images = manifests.load_generated(generated, manifest.classes, dataset.split_sha256) if generated else []
    if generated_count > len(images):
        raise ValueError(f"config.data.generated={generated!r} lists {len(images)} images, not {generated_count}")
    if generated_count >= 0:
        images = images[:generated_count]
    return replace(dataset, generated=tuple(images), fixed_statistics=fixed)


def open_run_dataset(workdir: str | Path, config: "RunConfig") -> Dataset:
    """Opens the real images of a run.

    Args:
      workdir: run directory.
      config: its configuration.

    Raises:
      FileNotFoundError: the run was imported without images, or images are gone.
      ValueError: see open_dataset.
    """
    data = config.data
    if not data.path:
        raise FileNotFoundError(
            f"{workdir} was imported without images; import it again with --data=DATA, or give new images to "
            "python -m dim_jax.predict"
        )
    return open_dataset(workdir, data.fold, mean=getattr(data, "mean", ()), std=getattr(data, "std", ()))


def fixed_statistics(mean: Sequence[float], std: Sequence[float]) -> tuple[Sequence[float], Sequence[float]] | None:
    """Returns the configured mean and std per channel, or None if both are empty.

    Raises:
      ValueError: they are not three numbers in [0, 1] each, every std above 0.
    """
    if not len(mean) and not len(std):
        return None
    if not (len(mean) == len(std) == 3 and all(0 <= value <= 1 for value in (*mean, *std)) and min(std) > 0):
        raise ValueError(
            f"config.data.mean={tuple(mean)}, config.data.std={tuple(std)}: give three numbers in [0, 1] each, std "
            "above 0; leave both empty for those of the training images"
        )
    return mean, std


def save(dataset: Dataset, source: str | Path, folder: str | Path) -> None:
    """Copies the manifest, the split, the list of generated images and the data report into a run directory.

    Args:
      dataset: the dataset that `open_dataset(source, ...)` returned.
      source: the prepared folder.
      folder: the run directory.
    """
    folder = Path(folder)
    manifests.save(dataset.manifest, folder)
    splits.save(dataset.split, dataset.manifest, folder)
    entries = [{"path": os.path.abspath(path), "label": dataset.classes[label]} for path, label in dataset.generated]
    files.write_json(folder / GENERATED_FILE, {"images": entries, "split_sha256": dataset.split_sha256})
    report = Path(source) / REPORT_FILE
    if report.is_file() and report.resolve() != (folder / REPORT_FILE).resolve():
        shutil.copyfile(report, folder / REPORT_FILE)


def training_summary(dataset: Dataset, draws: Sequence[float] | np.ndarray) -> str:
    """Returns a text table of the images per class and split, and of the sampler's draws per epoch.

    Args:
      dataset: the data.
      draws: mean number of draws per epoch of each class, shape (C,).
    """
    names = [printable(name) for name in dataset.classes]
    width = max(len(name) for name in (*names, "class"))
    lines = [f"{'class':<{width}}  train    val   test  generated  drawn/epoch"]
    for label, name in enumerate(names):
        counts = [int((dataset.labels[dataset.rows(split)] == label).sum()) for split in splits.NAMES]
        generated = sum(image_label == label for _, image_label in dataset.generated)
        lines.append(
            f"{name:<{width}}  {counts[0]:5d}  {counts[1]:5d}  {counts[2]:5d}  {generated:9d}  {draws[label]:11.1f}"
        )
    return "\n".join(lines)
