"""Images of a blind review: generated images, and as many real ones of the same classes, encoded alike and shuffled."""

import base64
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dim_jax.data import images, manifest
from dim_jax.data.dataset import Dataset, open_dataset
from dim_jax.gan import pools
from dim_jax.gan.review_key import GENERATED, REAL, ReviewImage, ReviewKey
from dim_jax.runs import files

JPEG_QUALITY = 92
PARTS = ("val", "train")  # never test


@dataclass(frozen=True)
class _Source:
    """An image file to show: its path, class, SHA-256, and of a real image the part of the split and the case."""

    path: Path
    label: str
    sha256: str
    part: str = ""
    case: str = ""


@dataclass(frozen=True)
class _GeneratedImages:
    """Generated images of one split, with their size, resize policy and models."""

    sources: list[_Source]
    dataset: Dataset
    image_size: int
    resize: str
    models: dict[str, Any]


@dataclass(frozen=True)
class Review:
    """A review before it is written.

    Attributes:
      key: the key.
      pictures: JPEG of each image as base64, all of one length.
      notes: what is not as it was asked for, one sentence each.
    """

    key: ReviewKey
    pictures: tuple[str, ...]
    notes: tuple[str, ...]


def make_review(pool: str | Path, data: str | Path, folder: str | Path, num: int = 20, seed: int = 0) -> Review:
    """Chooses and encodes the images of a review.

    For each class of the pool as many real images are taken as generated ones: one image of each case before a second
    one of any, and of those first the images of validation cases, of which the GAN cannot have made copies. Images of
    test cases are never shown.

    Args:
      pool: a folder that `generate` wrote, or a list of generated images such as selected.json.
      data: the prepared data that the GAN was trained on.
      folder: folder of the key, to which its paths are relative.
      num: maximum number of generated images of each class, at least 1.
      seed: seed of the choice and the order.

    Raises:
      FileNotFoundError: there is no pool or no data, or an image is missing.
      ValueError: the pool is of another split than any fold of the data, has a class that the data lack or of which
        they hold no image, or a file is broken.
    """
    if num < 1:
        raise ValueError(f"--num={num} must be at least 1")
    generated = _open_list(pool, data) if Path(pool).is_file() else _open_pool(pool, data)
    chosen, notes = _choose(generated, num, seed)
    # The order follows from digests that are not in the page: the seed alone does not give it away.
    chosen.sort(key=lambda item: _rank(seed, "order", item[1].sha256))
    jpegs = []
    for truth, source in chosen:
        policy = generated.resize if truth == REAL else "squash"
        jpegs.append(_jpeg(images.read_square(source.path, generated.image_size, policy)))
    longest = max(map(len, jpegs))
    # What follows the end of a JPEG is ignored. Lengths differ with the images' detail, which generated ones may lack.
    padded = [jpeg.ljust(longest, b"\0") for jpeg in jpegs]
    key = ReviewKey(
        seed=seed,
        classes=generated.dataset.classes,
        split_sha256=generated.dataset.split_sha256,
        image_size=generated.image_size,
        resize=generated.resize,
        models=generated.models,
        images=tuple(
            ReviewImage(
                picture_sha256=hashlib.sha256(picture).hexdigest(),
                truth=truth,
                label=source.label,
                path=Path(os.path.relpath(source.path, folder)).as_posix(),
                sha256=source.sha256,
                part=source.part,
                case=source.case,
            )
            for picture, (truth, source) in zip(padded, chosen, strict=True)
        ),
    )
    return Review(key, tuple(base64.b64encode(picture).decode("ascii") for picture in padded), tuple(notes))


def _rank(seed: int, purpose: str, digest: str) -> str:
    """Returns a pseudo-random text to sort by, which depends on the image and not on its place in a list."""
    return hashlib.sha256(f"{seed} {purpose} {digest}".encode()).hexdigest()


def _jpeg(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels (S, S, 3) without subsampling; its blocks hide those of a real image's own JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _open_pool(pool: str | Path, data: str | Path) -> _GeneratedImages:
    class_pools = pools.load(pool)
    first = class_pools[0]
    dataset = _open_fold(data, first.split_sha256, str(first.folder))
    for class_pool in class_pools:
        if class_pool.label not in dataset.classes:
            raise ValueError(
                f"{class_pool.folder}: unknown class {class_pool.label!r}; the classes of {data} are "
                f"{', '.join(dataset.classes)}"
            )
    sources = [_Source(image.path, one.label, image.sha256) for one in class_pools for image in one.images]
    preprocessing = pools.preprocessing(class_pools)
    return _GeneratedImages(
        sources,
        dataset,
        int(preprocessing["image_size"]),
        str(preprocessing["resize"] or "squash"),
        {one.label: asdict(one.model) for one in class_pools},
    )


def _open_list(path: str | Path, data: str | Path) -> _GeneratedImages:
    record = files.read_object(path)
    dataset = _open_fold(data, record.get("split_sha256"), str(path))
    listed = manifest.load_generated(path, dataset.classes)
    if not listed:
        raise ValueError(f"{path} lists no images; there is nothing to review")
    size = record.get("image_size")
    if not isinstance(size, int) or size < 1:
        size = pools.marked_images(image for image, _ in listed).get("image_size")
    if size is None:
        raise ValueError(f"{path}: none of its images is marked as synthetic; give a pool written by generate")
    policy = record.get("resize")
    sources = [
        _Source(image, dataset.classes[label], hashlib.sha256(images.read_bytes(image)).hexdigest())
        for image, label in listed
    ]
    pool = record.get("pool")
    models = {name: model for name, model in pool.items() if isinstance(model, dict)} if isinstance(pool, dict) else {}
    return _GeneratedImages(sources, dataset, size, policy if policy in images.POLICIES else "squash", models)


def _open_fold(data: str | Path, split_sha256: object, source: str) -> Dataset:
    """Opens the fold of the data that a GAN was trained on."""
    opened = open_dataset(data).fold_of_split(split_sha256)
    if opened is None:
        raise ValueError(
            f"{source} is by a GAN that was trained on another split than that of {data}, so which images it has seen "
            "is unknown; give the data that it was trained on"
        )
    return opened


def _choose(generated: _GeneratedImages, num: int, seed: int) -> tuple[list[tuple[str, _Source]], list[str]]:
    """Returns (truth, source) of the images to show, as many real as generated ones of each class, and notes."""
    by_class: dict[str, list[_Source]] = defaultdict(list)
    for source in generated.sources:
        by_class[source.label].append(source)
    chosen: list[tuple[str, _Source]] = []
    notes = []
    for label, sources in by_class.items():
        real = _real_sources(generated.dataset, label, seed)
        if not real:
            raise ValueError(
                f"class {label!r} has no validation or training image to compare generated ones with; leave it out"
            )
        count = min(num, len(sources), len(real))
        if count < num:
            notes.append(
                f"{label}: {count} generated and {count} real images, fewer than --num={num}: there are {len(sources)} "
                f"generated ones, and {len(real)} real ones outside the test part"
            )
        sources.sort(key=lambda source: _rank(seed, "choice", source.sha256))
        shown = real[:count]
        num_train = sum(source.part == "train" for source in shown)
        num_cases = len({source.case or source.path for source in shown})
        if num_train:
            notes.append(
                f"{label}: {num_train} of {count} real images are of training cases, for want of validation cases"
            )
        if num_cases < count:
            notes.append(f"{label}: {count} real images of only {num_cases} cases; readers may recognise a case")
        chosen += [(GENERATED, source) for source in sources[:count]] + [(REAL, source) for source in shown]
    return chosen, notes


def _real_sources(dataset: Dataset, label: str, seed: int) -> list[_Source]:
    """Returns the validation and training images of a class, one of each case before the second of any."""
    return [source for _, source in sorted(_ranked(dataset, label, seed), key=lambda item: item[0])]


def _ranked(dataset: Dataset, label: str, seed: int) -> Iterator[tuple[tuple[int, int, str], _Source]]:
    """Yields (round, part, pseudo-random text), and the image; in each round there is one image of every case."""
    rows = dataset.manifest.rows
    for number, part in enumerate(PARTS):
        by_case: dict[str, list[int]] = defaultdict(list)
        for row in dataset.rows(part):
            if rows[row].label == label:
                by_case[rows[row].group or f"image {row}"].append(int(row))
        for members in by_case.values():
            members.sort(key=lambda row: _rank(seed, "choice", rows[row].sha256))
            for turn, row in enumerate(members):
                source = _Source(dataset.file(row), label, rows[row].sha256, part, rows[row].group)
                yield (turn, number, _rank(seed, "choice", source.sha256)), source
