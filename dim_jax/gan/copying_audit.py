"""Audit of a generator in training for copies of its training images, which decides which checkpoint generates.

The rule, fixed before any run: a checkpoint passes if C_T (gan/memorisation.py) is at least LEAST_C_T in every class
that can be audited; the newest evaluated checkpoint that passes is the one that generates.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np

from dim_jax.data import images
from dim_jax.data.dataset import Dataset
from dim_jax.gan.generator_run import ImageSynthesizer
from dim_jax.gan.judges import extract_in_batches
from dim_jax.gan.memorisation import LEAST_HELD_OUT, data_copying
from dim_jax.gan.selection_rules import LITE2
from dim_jax.weights import pretrained

LEAST_C_T = -3.0


class CopyingAudit:
    """Compares the distances of generated and of validation images to the training images of their class.

    Attributes:
      labels: the classes that are audited.
    """

    def __init__(self, data: Dataset, labels: Sequence[int], size: int, resize: str, number: int):
        """Args:
        data: the real images.
        labels: classes that the generator learns; those with fewer than LEAST_HELD_OUT validation images are left out.
        size: side of the generated images in px.
        resize: how real images are made square (data.images.resize).
        number: generated images of each class, those of the first seeds, at least schema.LEAST_AUDITED.

        Raises:
          ValueError: the feature network is not installed, or no class can be audited.
        """
        pretrained.lite_path(LITE2)
        self._data, self._size, self._resize, self._number = data, size, resize, number
        self.labels = [label for label in labels if len(self._rows("val", label)) >= LEAST_HELD_OUT]
        if not self.labels:
            raise ValueError(
                f"no class to learn has {LEAST_HELD_OUT} validation images, so it cannot be told whether the generator "
                "copies training images; leave out this audit with --config.diffusion.audit_images=0"
            )

    def __call__(self, synthesizer: ImageSynthesizer) -> float:
        """Returns the lowest C_T of the audited classes."""
        values = []
        for label in self.labels:
            generated = self._features(synthesizer.images(range(self._number), label), self._number)
            train, held_out = self._real[label]
            values.append(data_copying(train, held_out, generated)["c_t"])
        return min(values)

    @cached_property
    def _real(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Features of the training and the validation images of each class."""
        return {
            label: (self._real_features("train", label), self._real_features("val", label)) for label in self.labels
        }

    def _real_features(self, split: str, label: int) -> np.ndarray:
        rows = self._rows(split, label)
        squares = images.read_squares([self._data.file(int(row)) for row in rows], self._size, self._resize)
        return self._features(squares, len(rows))

    def _features(self, squares: Iterable[np.ndarray], count: int) -> np.ndarray:
        return extract_in_batches(self._extract, squares, count, LITE2)

    @cached_property
    def _extract(self) -> Callable[[np.ndarray], np.ndarray]:
        return pretrained.pixel_features(LITE2)

    def _rows(self, split: str, label: int) -> np.ndarray:
        rows = self._data.rows(split)
        return rows[self._data.labels[rows] == label]
