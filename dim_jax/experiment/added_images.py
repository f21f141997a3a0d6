"""Lists of the images that an arm adds to the real ones, in the format of selected.json, for config.data.generated.

An arm that adds N images takes the first N of a list. Lists alternate between the minority classes, so every prefix
has about as many images of each.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data import images
from dim_jax.data.dataset import Dataset
from dim_jax.experiment.arms import BALANCED, Arm
from dim_jax.gan import pools
from dim_jax.runs import files


def minority_classes(dataset: Dataset, share: float) -> list[str]:
    """Returns the classes with fewer training images than `share` of the largest class, the rarest first.

    Raises:
      ValueError: there is none.
    """
    counts = training_counts(dataset)
    rare = [label for label in np.argsort(counts, kind="stable") if counts[label] < share * counts.max()]
    if not rare:
        raise ValueError(
            f"no class has fewer than {share:g} of the largest one's {counts.max()} training images; these data are "
            "not imbalanced, or config.minority_share is too small"
        )
    return [dataset.classes[label] for label in rare]


def training_counts(dataset: Dataset) -> np.ndarray:
    """Returns how many real training images each class has, int (C,)."""
    return np.bincount(dataset.labels[dataset.rows("train")], minlength=len(dataset.classes))


def most_per_class(dataset: Dataset, classes: Sequence[str], arm: Arm) -> dict[str, int]:
    """Returns how many images of each of `classes` an arm adds, rounded up where it names their sum."""
    counts = training_counts(dataset)
    if arm.share:
        return {name: round(arm.share * int(counts[dataset.classes.index(name)])) for name in classes}
    if arm.count == BALANCED:
        return {name: int(counts.max() - counts[dataset.classes.index(name)]) for name in classes}
    return dict.fromkeys(classes, -(-arm.count // len(classes)))


def in_turn(by_class: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Interleaves the classes: the first image of every class, then the second of every class, and so on."""
    rounds = itertools.zip_longest(*by_class.values())
    return [image for one_per_class in rounds for image in one_per_class if image is not None]


def write_unselected(path: Path, pool: Path, classes: Sequence[str], dataset: Dataset) -> None:
    """Lists all images of a pool in the order of their seeds, without selection."""
    class_pools = pools.load(pool)
    paths = {class_pool.label: [image.path for image in class_pool.images] for class_pool in class_pools}
    write_list(path, {name: paths[name] for name in classes}, dataset, pools.preprocessing(class_pools))


def write_first(path: Path, selected: Path, most: Mapping[str, int], dataset: Dataset) -> None:
    """Lists the first selected images of each class, at most as many as `most` says for it."""
    selection = files.read_json(selected)
    listed: dict[str, list[Any]] = {name: [] for name in most}
    for entry in selection["images"]:
        if entry["label"] in listed:
            listed[entry["label"]].append(Path(os.path.normpath(selected.parent / entry["path"])))
    preprocessing = {name: selection[name] for name in ("image_size", "resize") if name in selection}
    write_list(path, {name: paths[: most[name]] for name, paths in listed.items()}, dataset, preprocessing)


def choose_copies(counts: Mapping[str, int], dataset: Dataset, seed: int) -> dict[str, list[Path]]:
    """Returns so many real training images of each class, in random order, each once before any is used twice."""
    rng = np.random.default_rng(seed)
    train = dataset.rows("train")
    copies = {}
    for name, count in counts.items():
        rows = train[dataset.labels[train] == dataset.classes.index(name)]
        rounds = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
        copies[name] = [dataset.file(int(row)) for row in np.concatenate(rounds)[:count]]
    return copies


def write_shrunk_copies(
    path: Path, copies: Mapping[str, Sequence[Path]], dataset: Dataset, image_size: int, resize: str
) -> None:
    """Shrinks real training images to the size of generated ones, in a folder beside the list, and lists these.

    A classifier enlarges them again, like generated images of that size, so they are as blurred. Images generated at a
    smaller size than the classifier's must do better than these.

    Args:
      copies: of each class, from `choose_copies`.
      image_size, resize: side in px and policy of generated images.
    """
    folder = path.with_suffix("")
    shrunk: dict[Path, Path] = {}
    for source in dict.fromkeys(image for paths in copies.values() for image in paths):
        shrunk[source] = folder / f"{len(shrunk):05}.png"
        files.write_bytes(shrunk[source], images.png_bytes(images.read_square(source, image_size, resize)))
    listed = {name: [shrunk[source] for source in paths] for name, paths in copies.items()}
    write_list(path, listed, dataset, {"image_size": image_size, "resize": resize})


def write_list(
    path: Path, listed: Mapping[str, Sequence[Path]], dataset: Dataset, preprocessing: Mapping[str, Any] | None = None
) -> None:
    """Writes a list of images of each class.

    Args:
      path: file of the list.
      listed: the images of each class, in the order in which they are added.
      dataset: the real images beside which they are trained on.
      preprocessing: entries of `pools.preprocessing`, for generated images and those that stand in for them.
    """
    entries = {
        name: [{"path": Path(os.path.relpath(image, path.parent)).as_posix(), "label": name} for image in paths]
        for name, paths in listed.items()
    }
    files.write_json(path, {"split_sha256": dataset.split_sha256, **(preprocessing or {}), "images": in_turn(entries)})
