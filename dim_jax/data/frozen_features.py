"""The `features` backend: features of a frozen network, computed once per image and cached beside the prepared data.

The features replace the pixels in device memory. They are those of the upright, unaugmented images.
"""

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.cli.progress import Progress
from dim_jax.data import images
from dim_jax.data.batches import Batch, row_fields
from dim_jax.data.dataset import Dataset
from dim_jax.runs import files

BATCH = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrozenNetwork:
    """A network that maps images to features.

    Attributes:
      space: name of the feature space, with the digest of the weights: other weights have another name.
      load: loads the network and returns a function from uint8 pixels (N, S, S, 3) to float32 features (N, F); called
        only if some features are not cached.
    """

    space: str
    load: Callable[[], Callable[[np.ndarray], np.ndarray]]


class FrozenFeatures:
    """Features of a whole dataset, real and generated, for steps that gather their rows on the device.

    Attributes:
      pixels: the features, float32 of shape (N, F), indexed by row of the dataset.
      shape: shape of one row, (F,).
      space: name of the feature space, with the size and policy of the images.
    """

    def __init__(self, dataset: Dataset, image_size: int, resize: str, network: FrozenNetwork):
        """Reads the cached features, computes the others and adds them to the cache.

        Args:
          dataset: the images.
          image_size: side of the square images in px.
          resize: "squash", "crop" or "pad" (images.resize).
          network: the frozen network.

        Raises:
          ValueError: the cache is damaged, or the weights of the network are not installed.
        """
        self._dataset, self.space = dataset, f"{network.space}, of images brought to {image_size} px ({resize}) before"
        key = hashlib.sha256(self.space.encode()).hexdigest()[:12]
        path = dataset.manifest.prepared / f"features-{key}.npz"
        digests = [
            *(row.sha256 for row in dataset.manifest.rows),
            *map(_digest, (path for path, _ in dataset.generated)),
        ]
        features = read(path)
        rows = [row for row, digest in enumerate(digests) if digest not in features]
        if rows:
            features |= zip(
                [digests[row] for row in rows], _compute(dataset, rows, image_size, resize, network), strict=True
            )
            write(path, features)
        self.pixels = np.stack([features[digest] for digest in digests])
        self.shape = self.pixels.shape[1:]

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and std of the features of the real training images, float32 of shape (F,) each."""
        training = self.pixels[self._dataset.rows("train")]
        std = training.std(0, dtype=np.float64)
        return training.mean(0, dtype=np.float64).astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields one batch of `label`, `mask`, `is_generated` and `index` per array of rows; -1 is padding."""
        return (row_fields(self._dataset, rows) for rows in row_batches)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compute(
    dataset: Dataset, rows: list[int], image_size: int, resize: str, network: FrozenNetwork
) -> Iterator[np.ndarray]:
    """Yields the features of `rows`, float32 of shape (F,) each."""
    extract = network.load()
    log.info("computing features of %d images: %s", len(rows), network.space)
    progress, batch = Progress("features", len(rows)), []
    for done, image in enumerate(images.read_squares([dataset.file(row) for row in rows], image_size, resize), start=1):
        batch.append(image)
        if len(batch) == BATCH or done == len(rows):
            # The last batch is padded to BATCH, so that all batches share a compiled program.
            padded = np.stack(batch + batch[:1] * (BATCH - len(batch)))
            yield from extract(padded)[: len(batch)]
            batch = []
            progress.update(done)
    progress.close()


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the cached features by the SHA-256 of their images; an empty dictionary if there is no file.

    Raises:
      ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        arrays = files.read_arrays(path, ("digests", "features"))
    except ValueError as error:
        raise ValueError(f"{error}; delete the file, and the features are computed again") from None
    digests, features = arrays.get("digests", np.zeros(0)), arrays.get("features", np.zeros(0))
    if digests.dtype.kind != "U" or features.dtype != np.float32 or features.shape[:-1] != digests.shape:
        raise ValueError(f"{path} holds no features of images; delete the file, and they are computed again")
    return dict(zip(digests.tolist(), features, strict=True))


def write(path: Path, features: dict[str, np.ndarray]) -> None:
    """Writes features by the SHA-256 of their images; a file that cannot be written is a warning, not an error."""
    buffer = io.BytesIO()
    np.savez(buffer, digests=np.array(list(features)), features=np.stack(list(features.values())))
    try:
        files.write_bytes(path, buffer.getvalue())
    except OSError as error:
        log.warning("%s cannot be written (%s): the next run computes the features again", path, error)
