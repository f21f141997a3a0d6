"""The `resident` backend: all pixels are in device memory and batches hold row indices. Needs no TensorFlow."""

import logging
from collections.abc import Iterable, Iterator

import numpy as np

from dim_jax.cli.progress import Progress
from dim_jax.data import images, packed_pixels
from dim_jax.data.batches import Batch, row_fields
from dim_jax.data.dataset import Dataset

ROWS = 256  # the number of rows on the device is a multiple of this

log = logging.getLogger(__name__)


class ResidentImages:
    """Pixels of a whole dataset, real and generated, for steps that gather their images on the device.

    Attributes:
      pixels: (M, image_size, image_size, 3) uint8, indexed by row of the dataset. M is the number of images rounded up
        to a multiple of ROWS, so that runs with and without a few generated images share a compiled program.
      shape: shape of one image, (image_size, image_size, 3).
      statistics: function that returns the mean and std per channel in [0, 1] for normalisation.
    """

    def __init__(self, dataset: Dataset, image_size: int, resize: str = "squash"):
        """Loads the pixels packed by `prepare --pack`, if any, and decodes all other images.

        Args:
          dataset: the images.
          image_size: side of the square images in px.
          resize: "squash", "crop" or "pad" (images.resize).

        Raises:
          FileNotFoundError, ValueError: an image or the packed file cannot be read.
        """
        self._dataset, self.shape = dataset, (image_size, image_size, 3)
        self.statistics = dataset.channel_statistics
        self.pixels = packed_pixels.read(dataset.manifest, image_size, resize)
        if self.pixels is None:
            log.info("decoding all images; prepare with --pack --image-size=%d to decode them only once", image_size)
            self.pixels = np.empty((0, *self.shape), np.uint8)
        first, total = len(self.pixels), len(dataset)
        stored, self.pixels = self.pixels, np.zeros((-(-total // ROWS) * ROWS, *self.shape), np.uint8)
        self.pixels[:first] = stored
        if first < total:
            progress = Progress("decoding", total - first)
            paths = [dataset.file(row) for row in range(first, total)]
            for done, image in enumerate(images.read_squares(paths, image_size, resize), start=1):
                self.pixels[first + done - 1] = image
                progress.update(done)
            progress.close()

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields one batch of `label`, `mask`, `is_generated` and `index` per array of rows; -1 is padding."""
        return (row_fields(self._dataset, rows) for rows in row_batches)
