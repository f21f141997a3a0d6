"""The `resident` backend: all pixels live on the devices, batches bring rows alone. Needs no TensorFlow."""

import logging
from collections.abc import Iterable, Iterator

import numpy as np

from dim_jax.cli.progress import Progress
from dim_jax.data import packed_pixels
from dim_jax.data.batches import Batch, describe
from dim_jax.data.dataset import Dataset

ROWS = 256

log = logging.getLogger(__name__)


class ResidentImages:
    """Pixels of a whole dataset, real and generated, for steps that pick their images on the device.

    Attributes:
      pixels: (M, image_size, image_size, 3) uint8, the row of the dataset first. M is the number of images rounded up
        to a multiple of ROWS, so that a run with a few generated images more shares its program with one without.
      shape: of one image, (image_size, image_size, 3).
      statistics: returns mean and std per channel in [0, 1] to normalise by.
    """

    def __init__(self, dataset: Dataset, image_size: int, resize: str = "squash"):
        """Reads what `prepare --pack` wrote, and decodes what it did not: generated images, or all of them."""
        self._dataset, self.shape = dataset, (image_size, image_size, 3)
        self.statistics = dataset.channel_statistics
        self.pixels = packed_pixels.read(dataset.manifest, image_size, resize)
        if self.pixels is None:
            log.info("decoding all images; prepare --pack --image-size=%d spares every start this", image_size)
            self.pixels = np.empty((0, *self.shape), np.uint8)
        first, total = len(self.pixels), len(dataset)
        stored, self.pixels = self.pixels, np.zeros((-(-total // ROWS) * ROWS, *self.shape), np.uint8)
        self.pixels[:first] = stored
        if first < total:
            progress = Progress("decoding", total - first)
            paths = [dataset.file(row) for row in range(first, total)]
            for done, image in enumerate(packed_pixels.decode(paths, image_size, resize), start=1):
                self.pixels[first + done - 1] = image
                progress.update(done)
            progress.close()

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields one batch of `label`, `mask`, `is_generated` and `index` per array of rows; -1 stands for padding."""
        return (describe(self._dataset, rows) for rows in row_batches)
