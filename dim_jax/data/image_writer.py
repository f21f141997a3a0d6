"""Writer of image files under safe, unique names, for images that do not come from files."""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from dim_jax.data import images

LONGEST_NAME = 120  # bytes; a number, a suffix and the ".png" of a conversion still fit into 255
MAGIC = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"RIFF": ".webp",
    b"\0\0\0\x0cjP": ".jp2",
}


class ImageWriter:
    """Writes images below a folder as `<class>/<name>.<suffix>`."""

    def __init__(self, root: Path):
        """Args:
        root: the folder; created with the first image.
        """
        self._root = root
        self._last_number: dict[str, int] = {}

    def write(self, image: bytes | np.ndarray, label: str, name: str) -> str:
        """Writes one image.

        Args:
          image: the bytes of an image file, written unchanged; or uint8 pixels of shape (H, W, C) with 1, 3 or 4
            channels, written as PNG.
          label: class name, the folder of the image.
          name: file name in the source; only the stem of its last path component is used.

        Returns:
          The POSIX path of the file, relative to the folder.

        Raises:
          ValueError: the pixels are not an 8-bit image.
        """
        encoded = image if isinstance(image, bytes) else _png(image, name)
        stem = PurePosixPath(name.replace("\\", "/")).stem
        path = self._unique(f"{safe_name(label)}/{safe_name(stem)}") + suffix(encoded)
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encoded)
        return path

    def _unique(self, path: str) -> str:
        """Returns `path`, with a number if it is in use; case is ignored, as some file systems ignore it."""
        key, candidate = path.lower(), path
        while candidate.lower() in self._last_number:
            self._last_number[key] += 1
            candidate = f"{path}-{self._last_number[key]}"
        self._last_number[candidate.lower()] = 1
        return candidate


def safe_name(name: str) -> str:
    """Returns `name` as a file name: no slashes or special characters, no leading dots, not empty, not too long."""
    cleaned = re.sub(r"[^\w.+ -]", "_", name).encode("utf-8", "ignore")[:LONGEST_NAME].decode("utf-8", "ignore")
    return cleaned.strip(". ") or "_"


def suffix(encoded: bytes) -> str:
    """Returns the usual suffix of an encoded image by its first bytes; ".img" for an unknown format."""
    return next((name for magic, name in MAGIC.items() if encoded.startswith(magic)), ".img")


def _png(pixels: np.ndarray, name: str) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(f"{name}: {pixels.dtype} of shape {pixels.shape} is not an 8-bit image; convert the dataset")
    return images.png_bytes(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
