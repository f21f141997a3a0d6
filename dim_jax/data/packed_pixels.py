"""The pixels of a whole dataset in one .npz file: decoded and shrunk once by `prepare`, read in one go by training."""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dim_jax.data import images
from dim_jax.data.manifest import Manifest
from dim_jax.runs import files

FILE_NAME = "packed.npz"
CHUNK = 256  # images in work at a time


def decode(paths: Sequence[Path], image_size: int, resize: str) -> Iterator[np.ndarray]:
    """Yields the square pixels of each image in order, uint8 (image_size, image_size, 3), decoding several at a time.

    Raises:
      FileNotFoundError, ValueError: an image is gone or cannot be decoded.
    """
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(paths), CHUNK):
            chunk = paths[first : first + CHUNK]
            yield from pool.map(lambda path: images.read_square(path, image_size, resize), chunk)


def write(manifest: Manifest, image_size: int, resize: str, progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the pixels of all images to `manifest.packed`, one after the other: they need not fit into memory.

    The file holds `images` (N, image_size, image_size, 3) uint8, `resize` and the manifest's `fingerprint`.

    Args:
      manifest: the images, and where to write.
      image_size: side of the pixels in px.
      resize: "squash", "crop" or "pad" (images.resize).
      progress: called as progress(images done, images in all).
    """
    decoded = decode([manifest.file(row) for row in range(len(manifest))], image_size, resize)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(manifest), image_size, image_size, 3)}
    # Stored, not deflated: tissue hardly shrinks, and every start of a run would pay for it.
    with zipfile.ZipFile(manifest.packed, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for done, pixels in enumerate(decoded, start=1):
                file.write(pixels.tobytes())
                if progress:
                    progress(done, len(manifest))
        for name, text in (("resize", resize), ("fingerprint", manifest.fingerprint)):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.array(text), allow_pickle=False)


def read(manifest: Manifest, image_size: int, resize: str) -> np.ndarray | None:
    """Returns the packed pixels of `manifest`, or None where there are none of this size and policy.

    Raises:
      ValueError: the file is damaged, or belongs to other data.
    """
    path = manifest.packed
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["fingerprint"]) != manifest.fingerprint:
                raise ValueError("it holds the pixels of other data")
            shape = _shape(archive)
            if str(archive["resize"]) != resize or shape[1:2] != (image_size,):
                return None
            if shape != (len(manifest), image_size, image_size, 3):
                raise ValueError(f"it holds pixels of shape {shape}")
            pixels = archive["images"]
    except files.NOT_AN_ARCHIVE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}; prepare the data again, or delete the file") from None
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: it holds {pixels.dtype}; prepare the data again")
    return pixels


def _shape(archive: np.lib.npyio.NpzFile) -> tuple[int, ...]:
    """Returns the shape of the images without reading them."""
    with archive.zip.open("images.npy") as file:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[0]
