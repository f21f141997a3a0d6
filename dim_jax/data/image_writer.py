"""Images that come from elsewhere than files, written as one file each under names that are safe and not taken."""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from dim_jax.data import images

LONGEST_NAME = 120  # bytes, so that a number, a suffix and ".png" of a conversion still fit into 255
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


class Writer:
    """Writes images below a folder as `<class>/<name>.<suffix>`."""

    def __init__(self, root: Path):
        """Args:
        root: the folder; made when the first image comes.
        """
        self._root = root
        self._last_number: dict[str, int] = {}

    def write(self, image: bytes | np.ndarray, label: str, name: str) -> str:
        """Writes one image.

        Args:
          image: the bytes of an image file, which are written unchanged; or uint8 pixels of shape (H, W, 1, 3 or 4),
            which become a PNG.
          label: class name, for the folder.
          name: file name as the set tells it; of a path, only the last part counts, and its suffix does not.

        Returns:
          The POSIX path of the file, relative to the folder.

        Raises:
          ValueError: pixels that are not 8-bit.
        """
        content = image if isinstance(image, bytes) else _png(image, name)
        stem = PurePosixPath(name.replace("\\", "/")).stem
        path = self._free(f"{safe_name(label)}/{safe_name(stem)}") + suffix(content)
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return path

    def _free(self, path: str) -> str:
        """Returns `path` or, where it is taken, `path` with a number; capitals do not tell files apart everywhere."""
        key, candidate = path.lower(), path
        while candidate.lower() in self._last_number:
            self._last_number[key] += 1
            candidate = f"{path}-{self._last_number[key]}"
        self._last_number[candidate.lower()] = 1
        return candidate


def safe_name(name: str) -> str:
    """Makes `name` a file name: no slashes or signs, no leading dots, not empty and not too long."""
    cleaned = re.sub(r"[^\w.+ -]", "_", name).encode("utf-8", "ignore")[:LONGEST_NAME].decode("utf-8", "ignore")
    return cleaned.strip(". ") or "_"


def suffix(content: bytes) -> str:
    """Returns the usual suffix of an encoded image by how it begins; ".img" for an unknown kind."""
    return next((known for magic, known in MAGIC.items() if content.startswith(magic)), ".img")


def _png(pixels: np.ndarray, name: str) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(f"{name}: {pixels.dtype} numbers of shape {pixels.shape} are no 8-bit image; convert the set")
    return images.png_bytes(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
