"""Pools of generated images: `POOL/<class>/seed00042.png`, with their provenance in `POOL/<class>/pool.json`.

Every PNG also carries its provenance in text chunks, so that an image outside its pool still identifies as synthetic.
"""

import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from dim_jax.data import image_writer, images
from dim_jax.gan.generator_run import OPTIONS
from dim_jax.runs import files
from dim_jax.runs.schema import CONFIGS, ClassifierData

FILE_NAME = "pool.json"
FORMAT = 1


@dataclass(frozen=True)
class Model:
    """The generator of a pool.

    Attributes:
      workdir: run directory.
      checkpoint_step: step of the checkpoint.
      sha256: SHA-256 of the generator's parameters.
    """

    workdir: str
    checkpoint_step: int
    sha256: str


@dataclass(frozen=True)
class PoolImage:
    """One generated image: its absolute path, its seed, and the SHA-256 of its file."""

    path: Path
    seed: int
    sha256: str


@dataclass(frozen=True)
class Pool:
    """The images of one class.

    Attributes:
      folder: absolute folder of the images.
      label: class name.
      kind: kind of the generator, a key of generator_run.OPTIONS.
      model: the generator.
      split_sha256: Dataset.split_sha256 of the split that the generator was trained on; "" if unknown.
      image_size: side of the square images in px.
      sampling: options of sampling of this kind: GanRun.sampling or DiffusionRun.sampling.
      resize: how the generator's training images were made square (data.images.resize); "" if unknown.
      discriminator_features: names of the frozen networks whose features the discriminator or its losses used; None if
        unknown, as in pools of earlier versions.
      images: the images, by ascending seed.
    """

    folder: Path
    label: str
    kind: str
    model: Model
    split_sha256: str
    image_size: int
    sampling: dict[str, float]
    resize: str
    discriminator_features: tuple[str, ...] | None
    images: tuple[PoolImage, ...]


def class_folder(root: str | Path, label: str) -> Path:
    """Returns the absolute folder of a class in the pool `root`."""
    return Path(os.path.abspath(root)) / folder_name(label)


def folder_name(label: str) -> str:
    """Returns the folder name of a class: its own name if that is safe, otherwise a safe one with a hash appended."""
    safe = image_writer.safe_name(label)
    return safe if safe == label else f"{safe}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def image_name(seed: int) -> str:
    return f"seed{seed:05d}.png"


def load(folder: str | Path) -> list[Pool]:
    """Reads a pool, or one class of it, and verifies every image.

    Args:
      folder: a folder of class folders with a pool.json each, or one class folder.

    Returns:
      One Pool per class, by class name.

    Raises:
      FileNotFoundError: there is no pool, or a listed image is missing.
      ValueError: a pool.json is broken, points outside its folder or lists no images; an image was changed, has another
        size or is not marked as synthetic; or two class folders are of one class or of different splits.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; make a pool with python -m dim_jax.generate")
    is_class = (folder / FILE_NAME).is_file()
    class_folders = [folder] if is_class else [path.parent for path in sorted(folder.glob(f"*/{FILE_NAME}"))]
    if not class_folders:
        raise FileNotFoundError(f"{folder} holds no pool ({FILE_NAME}); make one with python -m dim_jax.generate")
    pools = sorted(map(read, class_folders), key=lambda pool: pool.label)
    for pool, other in itertools.pairwise(pools):
        if pool.label == other.label:
            raise ValueError(f"{pool.folder} and {other.folder} are both of class {pool.label!r}; keep one of them")
        if pool.kind != other.kind:
            raise ValueError(
                f"{pool.folder} is of {CONFIGS[pool.kind].NOUN} and {other.folder} of {CONFIGS[other.kind].NOUN}; keep "
                "the images of one kind of generator in a pool"
            )
        if pool.split_sha256 != other.split_sha256:
            raise ValueError(
                f"{pool.folder} and {other.folder} are by generators that were trained on different splits "
                f"({pool.split_sha256[:12]}, {other.split_sha256[:12]}); train them on one split"
            )
    for pool in pools:
        for image in pool.images:
            _check_image(image, pool)
    return pools


def preprocessing(pools: Sequence[Pool]) -> dict[str, int | str]:
    """Returns the entries `image_size` and `resize` of a list of images of these pools, for `check_preprocessing`.

    Raises:
      ValueError: the pools are of different policies.
    """
    policies = {pool.resize: pool.folder for pool in pools if pool.resize}
    if len(policies) > 1:
        places = ", ".join(f"{folder} ({policy})" for policy, folder in policies.items())
        raise ValueError(f"these pools are of generators whose images were made square in different ways: {places}")
    return {"image_size": min(pool.image_size for pool in pools), "resize": next(iter(policies), "")}


def marked_images(paths: Iterable[Path]) -> dict[str, int]:
    """Returns the entry `image_size` for images of a list without it: the smallest side of those marked as synthetic.

    Images that are not marked, such as copies of real ones, may be of any size.
    """
    sides = []
    for path in paths:
        with Image.open(path) as image:  # reads the header alone
            if image.info.get("synthetic") == "true":
                sides.append(min(image.size))
    return {"image_size": min(sides)} if sides else {}


def check_preprocessing(record: Mapping[str, Any], source: str | Path, data: ClassifierData) -> None:
    """Checks that generated images suit a classifier: they may be larger than its input, smaller only if allowed.

    Args:
      record: entries of `preprocessing`, as far as they are known.
      source: the pool or the list, for messages.
      data: `config.data` of the classifier.

    Raises:
      ValueError: the images are smaller, or the generator's training images were made square in another way.
    """
    size, policy = record.get("image_size"), record.get("resize")
    if isinstance(size, int) and size < data.image_size and not data.enlarge_generated:
        raise ValueError(
            f"{source}: images of {size} px would be enlarged to the {data.image_size} px of the classifier, which "
            f"could recognise them by their blur; generate images of {data.image_size} px, give a classifier of {size} "
            "px, or allow it by config.data.enlarge_generated=True and compare with real images that are as blurred"
        )
    if policy and policy != data.resize:
        raise ValueError(
            f"{source}: the generator's training images were made square by config.data.resize={policy}, those of the "
            f"classifier by {data.resize}, so generated images have another geometry; use one policy for both"
        )


def read(folder: Path) -> Pool:
    """Reads the pool.json of a class folder, without reading the images."""
    path = folder / FILE_NAME
    record = files.read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        version = record.get("format") if isinstance(record, dict) else None
        raise ValueError(f"{path} has format {version!r}, expected {FORMAT}; generate the images again")
    # Not recorded by earlier versions.
    record.setdefault("resize", "")
    record.setdefault("kind", "gan")
    types = {"class": str, "model": dict, "split_sha256": str, "image_size": int, "kind": str}
    _check_types(record, types | {"resize": str, "images": list}, str(path))
    networks = record.get("discriminator_features")
    if networks is not None and not (isinstance(networks, list) and all(isinstance(name, str) for name in networks)):
        raise ValueError(f"{path}: 'discriminator_features' must be a list of names; generate the images again")
    if not record["images"] or record["image_size"] < 1:
        raise ValueError(f"{path} lists no images, or an image_size below 1; generate the images again")
    if record["kind"] not in OPTIONS:
        raise ValueError(f"{path}: 'kind' must be one of {', '.join(OPTIONS)}; generate the images again")
    sampling = {name: _option(record, name, path) for name in OPTIONS[record["kind"]]}
    model_types = {field.name: field.type for field in fields(Model)}
    _check_types(record["model"], model_types, f"{path}, 'model'")
    entries = tuple(
        _read_entry(entry, folder, f"{path}, image {number}") for number, entry in enumerate(record["images"])
    )
    for key, values in (("path", [image.path for image in entries]), ("seed", [image.seed for image in entries])):
        if len(set(values)) != len(values):
            raise ValueError(f"{path} lists a {key} twice; generate the images again")
    return Pool(
        folder=folder,
        label=record["class"],
        kind=record["kind"],
        model=Model(**{name: record["model"][name] for name in model_types}),
        split_sha256=record["split_sha256"],
        image_size=record["image_size"],
        sampling=sampling,
        resize=record["resize"],
        discriminator_features=None if networks is None else tuple(networks),
        images=tuple(sorted(entries, key=lambda image: image.seed)),
    )


def _option(record: dict, name: str, path: Path) -> float:
    """Returns an option of sampling."""
    _check_types(record, {name: float | int}, str(path))
    if not 0 <= record[name] < math.inf or (name != "guidance" and not record[name]):
        least = "of at least 0" if name == "guidance" else "above 0"
        raise ValueError(f"{path}: {name!r} must be a number {least}; generate the images again")
    return record[name]


def _read_entry(entry: object, folder: Path, where: str) -> PoolImage:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object with path, seed and sha256; generate the images again")
    _check_types(entry, {"path": str, "seed": int, "sha256": str}, where)
    if entry["seed"] < 0:
        raise ValueError(f"{where}: 'seed' is negative; generate the images again")
    parts = PurePosixPath(entry["path"]).parts
    path = folder.joinpath(*parts)
    # Checked after resolving links, too: a link inside the folder may point outside it.
    is_outside = not parts or entry["path"].startswith("/") or ".." in parts
    if is_outside or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where}: path {entry['path']!r} leaves the folder of the pool; generate the images again")
    return PoolImage(path, entry["seed"], entry["sha256"])


def _check_types(record: dict, types: dict, where: str) -> None:
    for name, kind in types.items():
        if not isinstance(record.get(name), kind) or isinstance(record[name], bool):
            raise ValueError(f"{where}: {name!r} is missing or of the wrong type; generate the images again")


def _check_image(image: PoolImage, pool: Pool) -> None:
    if not image.path.is_file():
        raise FileNotFoundError(f"{image.path} is listed in {pool.folder / FILE_NAME} but missing; generate it again")
    encoded = images.read_bytes(image.path)
    if hashlib.sha256(encoded).hexdigest() != image.sha256:
        raise ValueError(f"{image.path} was changed since it was generated (its SHA-256 differs); generate it again")
    try:
        decoded = images.inspect(encoded, str(image.path))
    except ValueError as error:
        raise ValueError(f"{error}; generate it again") from None
    height, width, _ = decoded.pixels.shape
    if (width, height) != (pool.image_size, pool.image_size):
        raise ValueError(
            f"{image.path} has {width}x{height} pixels, its pool {pool.image_size}x{pool.image_size}; generate it again"
        )
    if decoded.kind != "PNG" or decoded.texts.get("synthetic") != "true":
        raise ValueError(
            f"{image.path} is not marked as synthetic, so it may be real; a pool holds generated images only, generate "
            "it again"
        )
