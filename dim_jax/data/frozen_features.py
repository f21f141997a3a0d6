"""The `features` backend: what a frozen network makes of every image, computed once and kept beside the prepared data.

A linear model of these features sees every image upright and unaugmented. They live on the devices in place of pixels.
"""

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dim_jax.cli.progress import Progress
from dim_jax.data import packed_pixels
from dim_jax.data.batches import Batch, describe
from dim_jax.data.dataset import Dataset
from dim_jax.runs import files

BATCH = 32

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrozenNetwork:
    """A network that turns images into features.

    Attributes:
      space: what to call the features, with the digest of the weights; other weights have another name.
      load: returns what turns uint8 pixels (N, S, S, 3) into float32 features (N, F); called only if some are missing.
    """

    space: str
    load: Callable[[], Callable[[np.ndarray], np.ndarray]]


class FrozenFeatures:
    """Features of a whole dataset, real and generated, for steps that pick their rows on the device.

    Attributes:
      pixels: the features, (N, F) float32, the row of the dataset first.
      shape: of one row, (F,).
      space: see FrozenNetwork.
    """

    def __init__(self, dataset: Dataset, image_size: int, resize: str, network: FrozenNetwork):
        """Reads the features that are kept already, and computes and keeps what is missing.

        Raises:
          ValueError: the kept features are damaged, or the network's weights are not installed.
        """
        self._dataset, self.space = dataset, f"{network.space}, of images brought to {image_size} px ({resize}) before"
        key = hashlib.sha256(self.space.encode()).hexdigest()[:12]
        path = dataset.manifest.prepared / f"features-{key}.npz"
        digests = [
            *(row.sha256 for row in dataset.manifest.rows),
            *map(_digest, (path for path, _ in dataset.generated)),
        ]
        kept = read(path)
        rows = [row for row, digest in enumerate(digests) if digest not in kept]
        if rows:
            kept |= zip(
                [digests[row] for row in rows], _compute(dataset, rows, image_size, resize, network), strict=True
            )
            write(path, kept)
        self.pixels = np.stack([kept[digest] for digest in digests])
        self.shape = self.pixels.shape[1:]

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and std of the real training images' features, float32 of shape (F,) each."""
        training = self.pixels[self._dataset.rows("train")]
        std = training.std(0, dtype=np.float64)
        return training.mean(0, dtype=np.float64).astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields one batch of `label`, `mask`, `is_generated` and `index` per array of rows; -1 stands for padding."""
        return (describe(self._dataset, rows) for rows in row_batches)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compute(
    dataset: Dataset, rows: list[int], image_size: int, resize: str, network: FrozenNetwork
) -> Iterator[np.ndarray]:
    """Yields the features of `rows`."""
    extract = network.load()
    log.info("computing features of %d images: %s", len(rows), network.space)
    progress, waiting = Progress("features", len(rows)), []
    for done, image in enumerate(
        packed_pixels.decode([dataset.file(row) for row in rows], image_size, resize), start=1
    ):
        waiting.append(image)
        if len(waiting) == BATCH or done == len(rows):
            # The last batch is filled up, so that one program serves all.
            batch = np.stack(waiting + waiting[:1] * (BATCH - len(waiting)))
            yield from extract(batch)[: len(waiting)]
            waiting = []
            progress.update(done)
    progress.close()


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the kept features by the SHA-256 of their images, none where there is no file.

    Raises:
      ValueError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = files.read_arrays(path, ("digests", "features"))
    except ValueError as error:
        raise ValueError(f"{error}; delete the file, and it is made again") from None
    digests, features = found.get("digests", np.zeros(0)), found.get("features", np.zeros(0))
    if digests.dtype.kind != "U" or features.dtype != np.float32 or features.shape[:-1] != digests.shape:
        raise ValueError(f"{path} holds no features of images; delete the file, and it is made again")
    return dict(zip(digests.tolist(), features, strict=True))


def write(path: Path, kept: dict[str, np.ndarray]) -> None:
    """Keeps features by the SHA-256 of their images; where nothing can be written, the next run computes them again."""
    buffer = io.BytesIO()
    np.savez(buffer, digests=np.array(list(kept)), features=np.stack(list(kept.values())))
    try:
        files.write_bytes(path, buffer.getvalue())
    except OSError as error:
        log.warning("%s cannot be written (%s): the next run computes the features again", path, error)
