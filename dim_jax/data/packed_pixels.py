"""Packed pixels: all images of a dataset, decoded and resized once by `prepare`, in one .npz file."""

import zipfile
from collections.abc import Callable

import numpy as np

from dim_jax.data import images
from dim_jax.data.manifest import Manifest
from dim_jax.runs import files

FILE_NAME = "packed.npz"


def write(manifest: Manifest, image_size: int, resize: str, progress: Callable[[int, int], None] | None = None) -> None:
    """Writes the pixels of all images to `manifest.packed`, one image at a time: they need not fit into memory.

    The file holds `images` (N, image_size, image_size, 3) uint8, `resize` and the manifest's `fingerprint`.

    Args:
      manifest: the images; its `packed` is the path of the file.
      image_size: side of the square images in px.
      resize: "squash", "crop" or "pad" (images.resize).
      progress: called as progress(images done, images in all).
    """
    decoded = images.read_squares([manifest.file(row) for row in range(len(manifest))], image_size, resize)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(manifest), image_size, image_size, 3)}
    # Stored, not deflated: tissue hardly compresses, and every start of a run would have to inflate it.
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
    """Returns the packed pixels of `manifest`, or None if there are none of this size and policy.

    Returns:
      uint8 of shape (N, image_size, image_size, 3).

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
        raise ValueError(f"{path}: {reason}; prepare the data again with --overwrite, or delete the file") from None
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path}: it holds {pixels.dtype}; prepare the data again with --overwrite")
    return pixels


def _shape(archive: np.lib.npyio.NpzFile) -> tuple[int, ...]:
    """Returns the shape of the images from the header of their array."""
    with archive.zip.open("images.npy") as file:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[0]
