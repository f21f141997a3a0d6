"""The `tf` backend: images streamed through tf.data, decoded in parallel and cached in memory if they fit."""

import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dim_jax.data import images
from dim_jax.data.batches import Batch, row_fields
from dim_jax.data.dataset import Dataset

if TYPE_CHECKING:
    import tensorflow as tf


class TfImages:
    """Decodes and resizes images through tf.data, and caches their pixels if all of them fit into memory.

    Attributes:
      dataset: the images.
      image_size: side of the square images in px.
      resize: "squash", "crop" or "pad" (images.resize).
      pixels: None, because the batches hold their images.
      shape: shape of one image, (image_size, image_size, 3).
      statistics: function that returns the mean and std per channel in [0, 1] for normalisation.
    """

    pixels = None

    def __init__(self, dataset: Dataset, image_size: int, resize: str = "squash", cache_gib: float = 4.0):
        """Args:
        dataset, image_size, resize: see the attributes.
        cache_gib: largest size of the decoded dataset in GiB that is cached.
        """
        self.dataset, self.image_size, self.resize = dataset, image_size, resize
        self.shape, self.statistics = (image_size, image_size, 3), dataset.channel_statistics
        shape = (len(dataset), *self.shape)
        fits = math.prod(shape) <= cache_gib * 2**30
        # np.empty touches no pages: memory is allocated as pixels are written.
        self._pixels = np.empty(shape, np.uint8) if fits else None
        self._is_cached = np.zeros(len(dataset), bool)

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields one batch of `image`, `label`, `mask`, `is_generated` and `index` per array of rows.

        Args:
          row_batches: int arrays of rows; -1 is padding. Iterated twice, because decoding runs ahead.

        Raises:
          FileNotFoundError, ValueError: an image is missing or cannot be decoded.
        """
        cached = self._is_cached.copy()
        is_known = cached.copy()
        decoded = None
        for rows in row_batches:
            missing = self._missing_rows(rows, is_known)
            if len(missing) and decoded is None:
                # Starts from the same copy as above: other iterators may have filled the cache further by now.
                decoded = self._decode(row_batches, cached)
            yield self._batch(rows, missing, [self._next(decoded, row) for row in missing])

    def _missing_rows(self, rows: np.ndarray, is_known: np.ndarray) -> np.ndarray:
        """Returns the rows that tf.data must decode for this batch; with a cache they are marked in `is_known`."""
        rows = rows[rows >= 0]
        if self._pixels is None:
            return rows
        _, first = np.unique(rows, return_index=True)
        missing = rows[np.sort(first)]
        missing = missing[~is_known[missing]]
        is_known[missing] = True
        return missing

    def _batch(self, rows: np.ndarray, decoded_rows: np.ndarray, decoded_images: list[np.ndarray]) -> Batch:
        is_image = rows >= 0
        if self._pixels is None:
            pixels = np.zeros((len(rows), self.image_size, self.image_size, 3), np.uint8)
            for place, image in zip(np.flatnonzero(is_image), decoded_images, strict=True):
                pixels[place] = image
        else:
            for row, image in zip(decoded_rows, decoded_images, strict=True):
                self._pixels[row] = image
            self._is_cached[decoded_rows] = True
            pixels = self._pixels[np.maximum(rows, 0)]
            pixels[~is_image] = 0
        return {"image": pixels} | row_fields(self.dataset, rows)

    def _decode(self, row_batches: Iterable[np.ndarray], is_known: np.ndarray) -> Iterator[np.ndarray]:
        """Streams the pixels of the rows that `batches` needs, in that order, decoding ahead in parallel.

        Args:
          row_batches: as in `batches`.
          is_known: which rows are in the cache when `batches` starts, bool of shape (N,); modified.
        """
        tf = _tensorflow()

        def paths() -> Iterator[bytes]:
            for rows in row_batches:
                for row in self._missing_rows(rows, is_known):
                    yield os.fsencode(self.dataset.file(int(row)))

        stream = tf.data.Dataset.from_generator(paths, output_signature=tf.TensorSpec((), tf.string))
        read = tf.autograph.experimental.do_not_convert(self._read)
        stream = stream.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return stream.prefetch(4 * (os.cpu_count() or 1)).as_numpy_iterator()

    def _next(self, decoded: Iterator[np.ndarray], row: int) -> np.ndarray:
        try:
            return next(decoded)
        except Exception as error:
            # TensorFlow's error names a graph node; decoding again with Pillow names the file and the problem.
            path = self.dataset.file(int(row))
            images.read_image(path)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{path}: cannot be decoded ({reason}); prepare the data again with --overwrite"
            ) from error

    def _read(self, path: "tf.Tensor") -> "tf.Tensor":
        return resize(decode(_tensorflow().io.read_file(path)), self.image_size, self.resize)


def decode(encoded: "tf.Tensor | bytes") -> "tf.Tensor":
    """Returns the pixels of a plain JPEG or PNG as `images.read_image`, equal within one level.

    Args:
      encoded: bytes of the file; `images.inspect` says whether it is plain.

    Returns:
      uint8 of shape (H, W, 3).
    """
    tf = _tensorflow()
    # Options that match Pillow: with TensorFlow's defaults decoding differs by up to 6 levels, resizing by 112.
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_png(encoded, channels=3),
    )


def resize(image: "tf.Tensor", size: int, policy: str) -> "tf.Tensor":
    """`images.resize` in TensorFlow, equal within one grey level.

    Args:
      image: uint8 of shape (H, W, 3).
      size: side of the result in px.
      policy: "squash", "crop" or "pad".

    Returns:
      uint8 of shape (size, size, 3).
    """
    tf = _tensorflow()
    height, width = tf.unstack(tf.shape(image)[:2])
    scaled = [size, size]
    if policy != "squash":
        shorter, longer = tf.minimum(height, width), tf.maximum(height, width)
        factor = size / tf.cast(shorter if policy == "crop" else longer, tf.float64)
        exact = [tf.cast(side, tf.float64) * factor for side in (height, width)]
        scaled = [tf.maximum(tf.cast(tf.round(side), tf.int32), 1) for side in exact]
    shrunk = tf.image.resize(image, scaled, method="bilinear", antialias=True)
    shrunk = tf.cast(tf.clip_by_value(tf.floor(shrunk + 0.5), 0, 255), tf.uint8)
    if policy == "crop":
        top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        shrunk = shrunk[top : top + size, left : left + size]
    elif policy == "pad":
        top, left = (size - scaled[0]) // 2, (size - scaled[1]) // 2
        margins = [[top, size - scaled[0] - top], [left, size - scaled[1] - left], [0, 0]]
        shrunk = tf.pad(shrunk, margins, constant_values=images.WHITE)
    return tf.ensure_shape(shrunk, (size, size, 3))


def _tensorflow():
    import tensorflow as tf

    # TensorFlow would otherwise allocate accelerator memory that JAX needs.
    tf.config.set_visible_devices([], "GPU")
    return tf
