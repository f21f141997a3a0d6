"""Single pass over the image files: digest, size, channel statistics, near-duplicate signature, and conversion."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.data import images, near_duplicates
from dim_jax.data.image_writer import safe_name
from dim_jax.data.listing import ListedImage
from dim_jax.data.manifest import Row
from dim_jax.data.near_duplicates import Signature

LONGEST_NAME = 255  # bytes; the limit of common file systems
LEAST_STD = 1 / 255  # one grey level, so that normalisation is finite even for images of a single colour


@dataclass(frozen=True)
class ScannedImage:
    """The record of one readable image.

    Attributes:
      listed: the image as the source lists it.
      row: its row of the manifest.
      conversion: why it was converted; "" if it was not.
      doubt: why it may not show what it should; "" if nothing says so.
      moments: mean and mean square per channel in [0, 1] of the image resized by "squash", float64 of shape (2, 3).
      signature: signature for the search for near-duplicates.
    """

    listed: ListedImage
    row: Row
    conversion: str
    doubt: str
    moments: np.ndarray
    signature: Signature


def scan_images(
    listed: Sequence[ListedImage],
    root: Path,
    converted: Path,
    image_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[ScannedImage], list[dict[str, str]]]:
    """Reads each image once, several at a time, and converts those that a plain decoder would read wrongly.

    Args:
      listed: the images.
      root: folder that their paths are relative to.
      converted: folder for converted images; created if there are any.
      image_size: side in px at which the channel statistics are measured.
      progress: called as progress(images done, images in all).

    Returns:
      The readable images in order, and {"path", "label", "reason"} of each unreadable one.
    """
    readable, unreadable = [], []
    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        try:
            results = pool.map(lambda item: _scan_image(item, root, converted, image_size), listed)
            for done, (item, result) in enumerate(zip(listed, results, strict=True), start=1):
                if isinstance(result, str):
                    unreadable.append({"path": item.path, "label": item.label, "reason": result})
                else:
                    readable.append(result)
                if progress:
                    progress(done, len(listed))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # leaving the pool would wait for all of them
            raise
    return readable, unreadable


def _scan_image(item: ListedImage, root: Path, converted: Path, image_size: int) -> ScannedImage | str:
    """Returns the record of one image, or the reason why it cannot be read."""
    file = root / item.path
    try:
        encoded, status = images.read_bytes(file), file.stat()
        inspected = images.inspect(encoded, str(file))
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
        sha256=hashlib.sha256(encoded).hexdigest(),
        width=pixels.shape[1],
        height=pixels.shape[0],
        converted=bool(inspected.conversion),
        size=len(encoded),
        modified_ns=status.st_mtime_ns,
    )
    moments = np.stack([values.mean(0), (values**2).mean(0)])
    signature = near_duplicates.signature(pixels)
    return ScannedImage(item, row, inspected.conversion, inspected.doubt, moments, signature)


def _converted_name(path: str) -> str:
    """Returns the path of the converted image, with a shortened name if the suffix makes it too long."""
    folder, name = os.path.split(f"{path}.png")
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{safe_name(name)}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.png"
    return os.path.join(folder, name)


def channel_statistics(
    moments: np.ndarray, assignment: Sequence[str]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns the mean and standard deviation per channel over the training images, in [0, 1].

    Args:
      moments: mean and mean square per channel of each image, shape (N, 2, 3).
      assignment: "train", "val" or "test" for each image.

    Returns:
      mean and std, three numbers each; the std is at least one grey level.
    """
    mean, square = moments[np.array(assignment) == "train"].mean(0)
    std = np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), LEAST_STD)
    return tuple(mean.tolist()), tuple(std.tolist())
