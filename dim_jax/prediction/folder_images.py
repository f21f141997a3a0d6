"""New images in folders and files: listing them, and reading them in batches for a predictor."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dim_jax.data import derived_images, folder_walk, other_files
from dim_jax.data.field_statistics import FieldStatistics, describe
from dim_jax.data.images import SUFFIXES, inspect_square


@dataclass(frozen=True)
class FoundImages:
    """Image files in folders.

    Attributes:
      paths: the image files, sorted within each folder and without duplicates.
      others: the other files in the folders.
      warnings: pictures among the others, and images that are named like masks, overlays or copies of others.
    """

    paths: list[Path]
    others: list[Path]
    warnings: list[str]


def find_images(sources: Sequence[str | Path]) -> FoundImages:
    """Finds the image files in folders; hidden files and folders are skipped.

    Args:
      sources: folders, searched recursively for files with a suffix of an image, and single files of any name.

    Raises:
      FileNotFoundError: a file or folder does not exist.
      ValueError: there are no images.
    """
    paths: dict[Path, None] = {}
    others: list[Path] = []
    derived: dict[str, str] = {}
    for source in map(Path, sources):
        if source.is_dir():
            below = sorted(folder_walk.walk(source).files)
            image_paths = [path for path in below if path.suffix.lower() in SUFFIXES]
            others += [path for path in below if path.suffix.lower() not in SUFFIXES]
            paths |= dict.fromkeys(image_paths)
            folders = {str(path): (source.name, *path.parent.relative_to(source).parts) for path in image_paths}
            derived |= {name: kind for kinds in derived_images.find(folders) for name, kind in kinds.items()}
        elif source.is_file():
            paths[source] = None
        else:
            raise FileNotFoundError(f"{source}: no such file or folder; give images, or folders of images")
    pictures = other_files.warnings(others)
    if not paths:
        suffixes = " ".join(sorted(SUFFIXES))
        text = f"there are no images in {', '.join(map(str, sources))}; files must end in one of {suffixes}"
        raise ValueError("; ".join((text, *pictures)))
    alike = derived_images.texts(
        derived, "files named like {kind} of images are classified too", "move them if they are none"
    )
    return FoundImages(list(paths), others, [*pictures, *alike])


@dataclass
class FolderImages:
    """Image files in the roles of both images and dataset of `evaluation.predictor.Predictor`, without labels.

    Attributes:
      paths: the files; a row is an index into this list.
      image_size: side of the network's input, in pixels.
      resize: how images are made square, see `data.images.resize`.
      mean, std: normalisation per channel, in [0, 1], float32 (3,).
      reasons: row -> why its file could not be read; filled by `batches`.
      usual: statistics of the images that the network was trained on, or None where they are unknown.
      doubts: row -> why its image may not show what it should; filled by `batches`.
      distances: row -> distance from the training images; filled by `batches` where `usual` is known.
    """

    paths: Sequence[Path]
    image_size: int
    resize: str
    mean: np.ndarray
    std: np.ndarray
    usual: FieldStatistics | None = None
    reasons: dict[int, str] = field(default_factory=dict)
    doubts: dict[int, str] = field(default_factory=dict)
    distances: dict[int, float] = field(default_factory=dict)
    pixels: None = None

    @property
    def labels(self) -> np.ndarray:
        """Zeros, because the labels are unknown."""
        return np.zeros(len(self.paths), np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, (H, W, 3)."""
        return self.image_size, self.image_size, 3

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation for the normalisation."""
        return self.mean, self.std

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yields batches of `image` (uint8), `mask` and `index`; mask 0: padding (row -1) or an unreadable file."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for rows in row_batches:
                squares = list(pool.map(self._read, rows.tolist()))
                empty = np.zeros((self.image_size, self.image_size, 3), np.uint8)
                yield {
                    "image": np.stack([empty if square is None else square for square in squares]),
                    "mask": np.array([square is not None for square in squares], np.float32),
                    "index": rows.astype(np.int32),
                }

    def _read(self, row: int) -> np.ndarray | None:
        if row < 0:
            return None
        try:
            inspected = inspect_square(self.paths[row], self.image_size, self.resize)
        except (OSError, ValueError) as error:
            self.reasons[row] = " ".join(str(error).split()).removeprefix(f"{self.paths[row]}: ")
            return None
        doubts = [inspected.doubt]
        if self.usual is not None:
            descriptor = describe(inspected.pixels[None])
            self.distances[row] = float(self.usual.distances(descriptor)[0])
            doubts.append(self.usual.explain(descriptor[0]))
        if any(doubts):
            self.doubts[row] = "; ".join(filter(None, doubts))
        return inspected.pixels
