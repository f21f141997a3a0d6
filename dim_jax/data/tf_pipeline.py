"""The `tf` backend: rows to pixels through tf.data, streaming, in parallel, cached. Only this file knows TensorFlow."""

import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dim_jax.data import images
from dim_jax.data.batches import Batch, describe
from dim_jax.data.dataset import Dataset

if TYPE_CHECKING:
    import tensorflow as tf


class TfImages:
    """Decodes and shrinks images through tf.data, and keeps their pixels in memory where all of them fit.

    Attributes:
      dataset: the images.
      image_size: side of the square pixels in px.
      resize: "squash", "crop" or "pad" (images.resize).
      pixels: None: the batches bring their images.
      shape: of one image, (image_size, image_size, 3).
      statistics: returns mean and std per channel in [0, 1] to normalise by.
    """

    pixels = None

    def __init__(self, dataset: Dataset, image_size: int, resize: str = "squash", cache_gib: float = 4.0):
        """Args:
        cache_gib: keep decoded pixels only if the whole dataset needs no more than this, in GiB.
        """
        self.dataset, self.image_size, self.resize = dataset, image_size, resize
        self.shape, self.statistics = (image_size, image_size, 3), dataset.channel_statistics
        shape = (len(dataset), *self.shape)
        fits = math.prod(shape) <= cache_gib * 2**30
        # Not touched yet: the system gives memory as pixels arrive.
        self._pixels = np.empty(shape, np.uint8) if fits else None
        self._is_cached = np.zeros(len(dataset), bool)

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yields one batch of `image`, `label`, `mask`, `is_generated` and `index` per array of rows.

        Args:
          row_batches: int arrays of rows; -1 stands for padding. Must be re-iterable: decoding runs ahead of it.
        """
        cached = self._is_cached.copy()
        known = cached.copy()
        decoded = None
        for rows in row_batches:
            wanted = self._to_decode(rows, known)
            if len(wanted) and decoded is None:
                # From the same knowledge as above: other iterators may have filled the cache further in between.
                decoded = self._decode(row_batches, cached)
            fresh = [self._next(decoded, row) for row in wanted]
            yield self._batch(rows, wanted, fresh)

    def _to_decode(self, rows: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Returns which of `rows` tf.data must decode for this batch, and marks them in `known` if they are kept."""
        rows = rows[rows >= 0]
        if self._pixels is None:
            return rows
        _, first = np.unique(rows, return_index=True)
        wanted = rows[np.sort(first)]
        wanted = wanted[~known[wanted]]
        known[wanted] = True
        return wanted

    def _batch(self, rows: np.ndarray, wanted: np.ndarray, fresh: list[np.ndarray]) -> Batch:
        present = rows >= 0
        if self._pixels is None:
            pixels = np.zeros((len(rows), self.image_size, self.image_size, 3), np.uint8)
            for place, image in zip(np.flatnonzero(present), fresh, strict=True):
                pixels[place] = image
        else:
            for row, image in zip(wanted, fresh, strict=True):
                self._pixels[row] = image
            self._is_cached[wanted] = True
            pixels = self._pixels[np.maximum(rows, 0)]
            pixels[~present] = 0
        return {"image": pixels} | describe(self.dataset, rows)

    def _decode(self, row_batches: Iterable[np.ndarray], known: np.ndarray) -> Iterator[np.ndarray]:
        """Streams the pixels of all rows that `batches` will ask for, in that order, decoding ahead in parallel.

        Args:
          row_batches: as in `batches`.
          known: which rows were in the cache when `batches` started; changed here.
        """
        tf = _tensorflow()

        def paths() -> Iterator[bytes]:
            for rows in row_batches:
                for row in self._to_decode(rows, known):
                    yield os.fsencode(self.dataset.file(int(row)))

        stream = tf.data.Dataset.from_generator(paths, output_signature=tf.TensorSpec((), tf.string))
        read = tf.autograph.experimental.do_not_convert(self._read)
        stream = stream.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return stream.prefetch(4 * (os.cpu_count() or 1)).as_numpy_iterator()

    def _next(self, decoded: Iterator[np.ndarray], row: int) -> np.ndarray:
        try:
            return next(decoded)
        except Exception as error:
            # TensorFlow's error names a node of its graph; Pillow's names the file and what is wrong with it.
            path = self.dataset.file(int(row))
            images.read_image(path)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path}: cannot be decoded ({reason}); prepare the data again") from error

    def _read(self, path: "tf.Tensor") -> "tf.Tensor":
        tf = _tensorflow()
        content = tf.io.read_file(path)
        # Pillow's own choices: TensorFlow's defaults decode up to 6 levels and shrink up to 112 levels differently.
        image = tf.cond(
            tf.io.is_jpeg(content),
            lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
            lambda: tf.io.decode_png(content, channels=3),
        )
        return resize(image, self.image_size, self.resize)


def resize(image: "tf.Tensor", size: int, policy: str) -> "tf.Tensor":
    """`images.resize` as TensorFlow operations: uint8 (H, W, 3) -> uint8 (size, size, 3), equal within one level."""
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

    # TensorFlow would otherwise take the accelerator's memory from under JAX.
    tf.config.set_visible_devices([], "GPU")
    return tf
