"""Pools of generated images: `POOL/<class>/seed00042.png`, with their provenance in `POOL/<class>/pool.json`.

Every PNG also carries its provenance in text chunks, so that an image outside its pool still identifies as synthetic.
"""

import hashlib
import io
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from dim_jax.data import image_writer, images
from dim_jax.runs import files

FILE_NAME = "pool.json"
FORMAT = 1
GENERATOR = "dim_jax"


@dataclass(frozen=True)
class Model:
    """The GAN of a pool.

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
      model: the GAN that generated them.
      split_sha256: Dataset.split_sha256 of the split that the GAN was trained on; "" if unknown.
      image_size: side of the square images in px.
      truncation: scale of the latents, above 0.
      resize: how the GAN's training images were made square (data.images.resize); "" if unknown.
      discriminator_features: names of the frozen networks whose features the discriminator or its losses used; None if
        unknown, as in pools of earlier versions.
      images: the images, by ascending seed.
    """

    folder: Path
    label: str
    model: Model
    split_sha256: str
    image_size: int
    truncation: float
    resize: str
    discriminator_features: tuple[str, ...] | None
    images: tuple[PoolImage, ...]


class PoolWriter:
    """Writes the images of one class and their pool.json; earlier images of the same model stay listed.

    Equal pixels and seeds give equal files. Several processes may write images of different seeds; one of them then
    lists them all.

    Attributes:
      folder: folder of the class.
    """

    def __init__(
        self,
        root: str | Path,
        label: str,
        *,
        workdir: str | Path,
        checkpoint_step: int,
        model_sha256: str,
        split_sha256: str,
        truncation: float = 1.0,
        resize: str = "",
        discriminator_features: Sequence[str] | None = None,
    ):
        """Args:
        root: folder of the pool; the images go to a subfolder of the class.
        label: class name.
        workdir, checkpoint_step, model_sha256: of the GAN, see Model.
        split_sha256, truncation, resize, discriminator_features: see Pool.

        Raises:
          ValueError: the folder holds images of another model, split or truncation, or files that are no pool.
        """
        self.folder = class_folder(root, label)
        self._label, self._model = label, Model(str(workdir), int(checkpoint_step), model_sha256)
        self._split_sha256, self._truncation, self._resize = split_sha256, truncation, resize
        self._discriminator_features = None if discriminator_features is None else list(discriminator_features)
        self._image_size: int | None = None
        self._earlier = self._listed()
        if not self._earlier and self.folder.is_dir():
            foreign = [path for path in sorted(self.folder.glob("[!.]*")) if not self._is_of_this_pool(path)]
            if foreign:
                raise ValueError(f"{foreign[0]} is in no pool of this model; generate into another --out")

    def _listed(self) -> dict[int, str]:
        """Returns seed -> SHA-256 of the images of earlier calls; raises ValueError if they are of another model."""
        if not (self.folder / FILE_NAME).exists():
            return {}
        pool = _read(self.folder)
        earlier = (pool.label, pool.model.sha256, pool.split_sha256, pool.truncation)
        expected = (self._label, self._model.sha256, self._split_sha256, self._truncation)
        if earlier != expected or (pool.resize and pool.resize != self._resize):
            raise ValueError(
                f"{self.folder} holds images of {pool.label} by {pool.model.workdir} at step "
                f"{pool.model.checkpoint_step}, truncation {pool.truncation:g}; generate into another --out"
            )
        self._image_size = pool.image_size
        return {image.seed: image.sha256 for image in pool.images}

    def _is_of_this_pool(self, path: Path) -> bool:
        """Whether a file that is not listed is an image of this model, as an interrupted call leaves it."""
        try:
            texts = images.inspect(images.read_bytes(path), str(path)).texts
        except (OSError, ValueError):
            return False
        expected = {"synthetic": "true", "generator": GENERATOR, "model": self._model.sha256, "class": self._label}
        return expected.items() <= texts.items()

    def write(self, images: Iterable[np.ndarray], seeds: Sequence[int]) -> dict[int, str]:
        """Writes images one by one, without listing them in pool.json.

        Args:
          images: uint8 pixels of shape (S, S, 3) for every seed; may be a generator.
          seeds: N different integers, at least 0.

        Returns:
          Seed -> SHA-256 of the file.

        Raises:
          ValueError: a seed is negative or repeated, an image has the wrong type or shape, or a file that is not of
            this pool has its name.
        """
        seeds = [int(seed) for seed in seeds]
        if min(seeds, default=0) < 0 or len(set(seeds)) != len(seeds):
            raise ValueError(f"the seeds of a pool must be different integers from 0 on, not {seeds[:8]}")
        written = {}
        for seed, pixels in zip(seeds, images, strict=True):
            self._image_size = self._image_size or len(pixels)
            if pixels.dtype != np.uint8 or pixels.shape != (self._image_size, self._image_size, 3):
                raise ValueError(
                    f"seed {seed} of {self._label}: {pixels.dtype} of shape {pixels.shape} is no 8-bit image of "
                    f"{self._image_size} px"
                )
            png = png_bytes(pixels, self._label, seed, self._model.sha256)
            path = self.folder / _image_name(seed)
            if seed not in self._earlier and path.exists() and not self._is_of_this_pool(path):
                raise ValueError(f"{path} is not of this pool and would be overwritten; move it")
            files.write_bytes(path, png)
            written[seed] = hashlib.sha256(png).hexdigest()
        return written

    def list(self, written: Mapping[int, str]) -> Path:
        """Writes pool.json, which lists the written images and those of all calls that ended before.

        Args:
          written: joined results of `write` of all processes; at least one image must be of this process.

        Returns:
          The folder of the class.

        Raises:
          ValueError: there is nothing to list, or the image of another process is missing.
        """
        if not written:
            raise ValueError(f"{self.folder}: no seeds were given; a pool holds at least one image")
        for seed in written:
            if not (self.folder / _image_name(seed)).is_file():
                raise ValueError(
                    f"{self.folder} lacks {_image_name(seed)}, which another host wrote; --out must be on storage "
                    "that all hosts share"
                )
        listed = sorted((self._listed() | dict(written)).items())
        files.write_json(
            self.folder / FILE_NAME,
            {
                "format": FORMAT,
                "class": self._label,
                "model": asdict(self._model),
                "split_sha256": self._split_sha256,
                "image_size": self._image_size,
                "truncation": self._truncation,
                "resize": self._resize,
                "discriminator_features": self._discriminator_features,
                "images": [{"path": _image_name(seed), "seed": seed, "sha256": digest} for seed, digest in listed],
            },
        )
        return self.folder


def class_folder(root: str | Path, label: str) -> Path:
    """Returns the absolute folder of a class in the pool `root`."""
    return Path(os.path.abspath(root)) / folder_name(label)


def folder_name(label: str) -> str:
    """Returns the folder name of a class: its own name if that is safe, otherwise a safe one with a hash appended."""
    safe = image_writer.safe_name(label)
    return safe if safe == label else f"{safe}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _image_name(seed: int) -> str:
    return f"seed{seed:05d}.png"


def png_bytes(pixels: np.ndarray, label: str, seed: int, model_sha256: str) -> bytes:
    """Encodes uint8 pixels of shape (H, W, 3) as a PNG with its provenance in text chunks."""
    chunks = PngImagePlugin.PngInfo()
    tags = {"synthetic": "true", "generator": GENERATOR, "model": model_sha256, "class": label, "seed": str(seed)}
    for key, value in tags.items():
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()


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
    pools = sorted(map(_read, class_folders), key=lambda pool: pool.label)
    for pool, other in itertools.pairwise(pools):
        if pool.label == other.label:
            raise ValueError(f"{pool.folder} and {other.folder} are both of class {pool.label!r}; keep one of them")
        if pool.split_sha256 != other.split_sha256:
            raise ValueError(
                f"{pool.folder} and {other.folder} are by GANs that were trained on different splits "
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
        raise ValueError(f"these pools are of GANs whose images were made square in different ways: {places}")
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


def check_preprocessing(record: Mapping[str, Any], source: str | Path, image_size: int, resize: str) -> None:
    """Checks that generated images suit a classifier: they may be larger than its input, but not smaller.

    Args:
      record: entries of `preprocessing`, as far as they are known.
      source: the pool or the list, for messages.
      image_size, resize: `config.data.image_size` and `config.data.resize` of the classifier.

    Raises:
      ValueError: the images are smaller, or the GAN's training images were made square in another way.
    """
    size, policy = record.get("image_size"), record.get("resize")
    if isinstance(size, int) and size < image_size:
        raise ValueError(
            f"{source}: images of {size} px would be enlarged to the {image_size} px of the classifier, which could "
            f"recognise them by their blur; generate images of {image_size} px, or give a classifier of {size} px"
        )
    if policy and policy != resize:
        raise ValueError(
            f"{source}: the GAN's training images were made square by config.data.resize={policy}, those of the "
            f"classifier by {resize}, so generated images have another geometry; use one policy for both"
        )


def _read(folder: Path) -> Pool:
    """Reads the pool.json of a class folder, without reading the images."""
    path = folder / FILE_NAME
    record = files.read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        version = record.get("format") if isinstance(record, dict) else None
        raise ValueError(f"{path} has format {version!r}, expected {FORMAT}; generate the images again")
    types = {"class": str, "model": dict, "split_sha256": str, "image_size": int, "truncation": float | int}
    record.setdefault("resize", "")  # not recorded by earlier versions
    _check_types(record, types | {"resize": str, "images": list}, str(path))
    networks = record.get("discriminator_features")
    if networks is not None and not (isinstance(networks, list) and all(isinstance(name, str) for name in networks)):
        raise ValueError(f"{path}: 'discriminator_features' must be a list of names; generate the images again")
    if not record["images"] or record["image_size"] < 1:
        raise ValueError(f"{path} lists no images, or an image_size below 1; generate the images again")
    if not 0 < record["truncation"] < math.inf:
        raise ValueError(f"{path}: 'truncation' must be a number above 0; generate the images again")
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
        model=Model(**{name: record["model"][name] for name in model_types}),
        split_sha256=record["split_sha256"],
        image_size=record["image_size"],
        truncation=float(record["truncation"]),
        resize=record["resize"],
        discriminator_features=None if networks is None else tuple(networks),
        images=tuple(sorted(entries, key=lambda image: image.seed)),
    )


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
