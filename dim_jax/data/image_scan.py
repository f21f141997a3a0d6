"""The one pass over the image files: digest, size, channel statistics, signature, and conversion where it is needed."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.data import images, near_duplicates
from dim_jax.data.image_writer import safe_name
from dim_jax.data.manifest import Row
from dim_jax.data.near_duplicates import Signature
from dim_jax.data.sources import Listed

LONGEST_NAME = 255  # bytes, of common file systems
LEAST_STD = 1 / 255  # one grey level, so that dividing by it is safe even for images of one colour


@dataclass(frozen=True)
class ReadImage:
    """What is kept of an image.

    Attributes:
      listed: as the source lists it.
      row: its row in the manifest.
      conversion: why it had to be converted; "" if it did not.
      moments: mean and mean square per channel in [0, 1], at the image size by `squash`, float64 of shape (2, 3).
      signature: what near-duplicates are found by.
    """

    listed: Listed
    row: Row
    conversion: str
    moments: np.ndarray
    signature: Signature


def read_all(
    listed: Sequence[Listed],
    root: Path,
    converted: Path,
    image_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[ReadImage], list[dict[str, str]]]:
    """Reads every image once, several at a time, and converts those a plain decoder would not read right.

    Args:
      listed: the images.
      root: folder their paths are relative to.
      converted: folder for converted images, made when there are any.
      image_size: side in pixels at which the channel statistics are taken.
      progress: called as progress(images done, images in all).

    Returns:
      The readable images, in order, and {"path", "label", "reason"} of each unreadable one.
    """
    read, unreadable = [], []
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        try:
            results = pool.map(lambda item: _read(item, root, converted, image_size), listed)
            for done, (item, result) in enumerate(zip(listed, results, strict=True), start=1):
                if isinstance(result, str):
                    unreadable.append({"path": item.path, "label": item.label, "reason": result})
                else:
                    read.append(result)
                if progress:
                    progress(done, len(listed))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or leaving the pool would wait for all of them
            raise
    return read, unreadable


def _read(item: Listed, root: Path, converted: Path, image_size: int) -> ReadImage | str:
    """Reads one image, or returns why it cannot be read."""
    file = root / item.path
    try:
        content, status = images.read_bytes(file), file.stat()
        inspected = images.inspect(content, str(file))
    except (OSError, ValueError) as error:
        return str(error).removeprefix(f"{file}: ")
    pixels, path = inspected.pixels, item.path
    if inspected.conversion:
        path = _converted_name(path)
        (converted / path).parent.mkdir(parents=True, exist_ok=True)
        (converted / path).write_bytes(images.png_bytes(pixels))
    values = images.resize(pixels, image_size).astype(np.float64).reshape(-1, 3) / 255
    row = Row(
        path=path,
        label=item.label,
        group=item.group,
        sha256=hashlib.sha256(content).hexdigest(),
        width=pixels.shape[1],
        height=pixels.shape[0],
        converted=bool(inspected.conversion),
        size=len(content),
        modified_ns=status.st_mtime_ns,
    )
    moments = np.stack([values.mean(0), (values**2).mean(0)])
    return ReadImage(item, row, inspected.conversion, moments, near_duplicates.signature(pixels))


def _converted_name(path: str) -> str:
    """Returns the path of a converted image, with a shorter name where the suffix makes it too long."""
    folder, name = os.path.split(f"{path}.png")
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{safe_name(name)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.png"
    return os.path.join(folder, name)


def channel_statistics(
    moments: np.ndarray, assignment: Sequence[str]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns mean and standard deviation per channel over the training images; the latter is at least one grey level.

    Args:
      moments: mean and mean square of every image, shape (N, 2, 3).
      assignment: "train", "val" or "test" for every image.
    """
    mean, square = moments[np.array(assignment) == "train"].mean(0)
    std = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), LEAST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())
