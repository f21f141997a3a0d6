"""Writing pools of generated images: PNGs with their provenance, and the pool.json that lists them."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, PngImagePlugin

from dim_jax.cli.command_line import shown
from dim_jax.data import images
from dim_jax.gan import pools
from dim_jax.gan.generator_run import Sampling, described
from dim_jax.runs import files
from dim_jax.runs.schema import CONFIGS

GENERATOR = "dim_jax"


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
        kind: str = "gan",
        sampling: Sampling = MappingProxyType({"truncation": 1.0}),
        resize: str = "",
        discriminator_features: Sequence[str] | None = None,
    ):
        """Args:
        root: folder of the pool; the images go to a subfolder of the class.
        label: class name.
        workdir, checkpoint_step, model_sha256: of the generator, see pools.Model.
        split_sha256, kind, sampling, resize, discriminator_features: see pools.Pool.

        Raises:
          ValueError: the folder holds images of another model, split or sampling, or files that are no pool.
        """
        self.folder = pools.class_folder(root, label)
        self._label, self._model = label, pools.Model(shown(workdir), int(checkpoint_step), model_sha256)
        self._split_sha256, self._kind, self._sampling, self._resize = split_sha256, kind, dict(sampling), resize
        self._discriminator_features = None if discriminator_features is None else list(discriminator_features)
        self._image_size: int | None = None
        self._earlier = self._listed()
        if not self._earlier and self.folder.is_dir():
            foreign = [path for path in sorted(self.folder.glob("[!.]*")) if not self._is_of_this_pool(path)]
            if foreign:
                raise ValueError(f"{foreign[0]} is in no pool of this model; generate into another --out")

    def _listed(self) -> dict[int, str]:
        """Returns seed -> SHA-256 of the images of earlier calls; raises ValueError if they are of another model."""
        if not (self.folder / pools.FILE_NAME).exists():
            return {}
        pool = pools.read(self.folder)
        earlier = (pool.label, pool.kind, pool.model.sha256, pool.split_sha256, pool.sampling)
        expected = (self._label, self._kind, self._model.sha256, self._split_sha256, self._sampling)
        if earlier != expected or (pool.resize and pool.resize != self._resize):
            raise ValueError(
                f"{self.folder} holds images of {pool.label} by {CONFIGS[pool.kind].NOUN} ({pool.model.workdir}) at "
                f"step {pool.model.checkpoint_step}, {described(pool.sampling)}; generate into another --out"
            )
        self._image_size = pool.image_size
        return {image.seed: image.sha256 for image in pool.images}

    def _is_of_this_pool(self, path: Path, expected: Mapping[str, str] = MappingProxyType({})) -> bool:
        """Whether a file is an image of this model, as an interrupted call leaves it, and has the `expected` texts."""
        try:
            texts = images.inspect(images.read_bytes(path), str(path)).texts
        except (OSError, ValueError):
            return False
        own = {"synthetic": "true", "generator": GENERATOR, "model": self._model.sha256, "class": self._label}
        return (own | dict(expected)).items() <= texts.items()

    def complete(self, seeds: Sequence[int]) -> dict[int, str]:
        """Returns seed -> SHA-256 of the images of these seeds that a call of the same model and options has written.

        Images that were changed since they were listed are left out.
        """
        found = {}
        for seed in seeds:
            path = self.folder / pools.image_name(seed)
            if path.is_file() and self._is_of_this_pool(path, self._tags(seed)):
                digest = hashlib.sha256(images.read_bytes(path)).hexdigest()
                if self._earlier.get(seed, digest) == digest:
                    found[seed] = digest
        return found

    def _tags(self, seed: int) -> dict[str, str]:
        return tags(self._label, seed, self._model.sha256, self._sampling)

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
            png = png_bytes(pixels, self._tags(seed))
            path = self.folder / pools.image_name(seed)
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
            if not (self.folder / pools.image_name(seed)).is_file():
                raise ValueError(
                    f"{self.folder} lacks {pools.image_name(seed)}, which another host wrote; --out must be on storage "
                    "that all hosts share"
                )
        listed = sorted((self._listed() | dict(written)).items())
        files.write_json(
            self.folder / pools.FILE_NAME,
            {
                "format": pools.FORMAT,
                "class": self._label,
                "model": asdict(self._model),
                "split_sha256": self._split_sha256,
                "image_size": self._image_size,
                "kind": self._kind,
                **self._sampling,
                "resize": self._resize,
                "discriminator_features": self._discriminator_features,
                "images": [{"path": pools.image_name(seed), "seed": seed, "sha256": digest} for seed, digest in listed],
            },
        )
        return self.folder


def tags(label: str, seed: int, model_sha256: str, sampling: Sampling) -> dict[str, str]:
    """Returns the texts that a PNG carries: where it comes from, and how it was sampled."""
    origin = {"synthetic": "true", "generator": GENERATOR, "model": model_sha256, "class": label, "seed": str(seed)}
    return origin | {name: str(value) for name, value in sampling.items()}


def png_bytes(pixels: np.ndarray, texts: Mapping[str, str]) -> bytes:
    """Encodes uint8 pixels of shape (H, W, 3) as a PNG with its provenance in text chunks."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", pnginfo=chunks)
    return buffer.getvalue()
