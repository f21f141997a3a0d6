"""Sampler of global batches: a pure function of (seed, step), so that a run can resume at any step."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from dim_jax.data.dataset import Dataset
from dim_jax.data.stratification import largest_remainder


@dataclass(frozen=True)
class Stratum:
    """Rows that are drawn equally often; each of them is drawn once before any is drawn again.

    Attributes:
      rows: rows of the dataset.
      draws_per_epoch: draws of all rows together in one epoch.
    """

    rows: tuple[int, ...]
    draws_per_epoch: int


@dataclass(frozen=True)
class Sampler:
    """Draws global batches from strata. A batch may span two epochs, so that every batch is full.

    Attributes:
      strata: disjoint sets of rows with their numbers of draws.
      seed: seed of all permutations.
      global_batch_size: rows per step over all devices and hosts.
    """

    strata: tuple[Stratum, ...]
    seed: int
    global_batch_size: int

    @property
    def epoch_size(self) -> int:
        """Draws per epoch."""
        return sum(stratum.draws_per_epoch for stratum in self.strata)

    def batch(self, step: int) -> np.ndarray:
        """Returns the rows of the global batch at `step`, counted from 0, int32 of shape (global_batch_size,)."""
        positions = np.arange(step * self.global_batch_size, (step + 1) * self.global_batch_size)
        epochs, offsets = np.divmod(positions, self.epoch_size)
        rows = np.empty(len(positions), np.int32)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            rows[in_epoch] = _epoch_rows(self, int(epoch))[offsets[in_epoch]]
        return rows

    def class_counts(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Returns the mean number of draws of each class per epoch, float32 of shape (num_classes,).

        Args:
          labels: integer labels of all rows, shape (N,).
          num_classes: number of classes C.
        """
        counts = np.zeros(num_classes)
        for stratum in self.strata:
            row_counts = np.bincount(labels[list(stratum.rows)], minlength=num_classes)
            counts += row_counts * (stratum.draws_per_epoch / len(stratum.rows))
        return counts.astype(np.float32)


@dataclass(frozen=True)
class SwitchedSampler:
    """Draws from one sampler up to a step and from another one from then on.

    Attributes:
      before, after: samplers of equal batch sizes.
      from_step: first step of `after`.
    """

    before: Sampler
    after: Sampler
    from_step: int

    @property
    def global_batch_size(self) -> int:
        """Rows per step over all devices and hosts."""
        return self.before.global_batch_size

    def batch(self, step: int) -> np.ndarray:
        """Returns the rows of the global batch at `step`; see Sampler.batch."""
        return (self.before if step < self.from_step else self.after).batch(step)


@lru_cache(maxsize=8)
def _epoch_rows(sampler: Sampler, epoch: int) -> np.ndarray:
    """Returns the rows of one epoch in order, int32 of shape (epoch_size,)."""
    draws = [
        _stratum_draws(sampler, number, epoch * stratum.draws_per_epoch, stratum.draws_per_epoch)
        for number, stratum in enumerate(sampler.strata)
    ]
    order = _rng(sampler.seed, len(sampler.strata), epoch).permutation(sampler.epoch_size)
    return np.concatenate(draws)[order]


def _stratum_draws(sampler: Sampler, number: int, start: int, count: int) -> np.ndarray:
    """Returns draws `start` to `start + count` of a stratum, whose draws are successive permutations of its rows."""
    rows = np.array(sampler.strata[number].rows, np.int32)
    rounds, offsets = np.divmod(np.arange(start, start + count), len(rows))
    draws = np.empty(count, np.int32)
    for round_number in np.unique(rounds):
        in_round = rounds == round_number
        permutation = _rng(sampler.seed, number, int(round_number)).permutation(len(rows))
        draws[in_round] = rows[permutation[offsets[in_round]]]
    return draws


def _rng(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *path))))


def make_sampler(
    dataset: Dataset,
    *,
    seed: int,
    global_batch_size: int,
    class_balanced: bool = False,
    generated_weight: float = 1.0,
    epoch_of: Literal["all", "real"] = "all",
    only_class: int | None = None,
) -> Sampler:
    """Returns the sampler of the training images of `dataset`, real and generated.

    An epoch draws every real training image once on average, and every generated one `generated_weight` times. With
    `epoch_of="real"` it has as many draws as there are real images, in the same proportions, so that runs with and
    without generated images take equal numbers of steps.

    Args:
      dataset: the data; only its training rows and generated images are drawn.
      seed: seed of all permutations, >= 0.
      global_batch_size: rows per step, >= 1.
      class_balanced: divide the draws of an epoch equally among the classes that have images.
      generated_weight: draws of a generated image per draw of a real one, >= 0.
      epoch_of: which images' draws make up the length of an epoch.
      only_class: integer label of the only class to draw; None draws all classes.

    Raises:
      ValueError: an option is out of range, or there are no training images.
    """
    if global_batch_size < 1:
        raise ValueError(f"config.train.global_batch_size={global_batch_size} must be at least 1")
    if not 0 <= generated_weight < np.inf:
        raise ValueError(f"config.data.generated_weight={generated_weight} must be a number of at least 0")
    if seed < 0:
        raise ValueError(f"config.seed={seed} must be at least 0")
    real = dataset.rows("train")
    generated = np.flatnonzero(dataset.is_generated).astype(np.int32)
    if generated_weight == 0:
        generated = generated[:0]
    if only_class is not None:
        real, generated = (rows[dataset.labels[rows] == only_class] for rows in (real, generated))
    if not len(real):
        raise ValueError("the split has no training images; prepare the data again")
    groups = [(real, 1.0), (generated, generated_weight)]
    if generated_weight == 1.0:
        groups = [(np.concatenate([real, generated]), 1.0)]
    if class_balanced:
        every_class = range(len(dataset.classes))
        groups = [(rows[dataset.labels[rows] == label], weight) for label in every_class for rows, weight in groups]
    groups = [(rows, weight) for rows, weight in groups if len(rows)]
    draws = np.array([len(rows) * weight for rows, weight in groups])
    epoch_size = len(real) if epoch_of == "real" else max(round(draws.sum()), 1)
    if class_balanced:
        label_of = np.array([dataset.labels[rows[0]] for rows, _ in groups])
        labels_drawn = np.unique(label_of)
        totals = _apportion(np.ones(len(labels_drawn)), epoch_size)
        counts = np.empty(len(groups), int)
        # Rounded among the classes first, then within each: otherwise two classes can differ by two draws.
        for label, total in zip(labels_drawn, totals, strict=True):
            counts[label_of == label] = _apportion(draws[label_of == label], total)
    else:
        counts = _apportion(draws, epoch_size)
    strata = [Stratum(tuple(rows.tolist()), int(n)) for (rows, _), n in zip(groups, counts, strict=True) if n]
    return Sampler(tuple(strata), seed, global_batch_size)


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Divides `total` draws in proportion to `shares`, as integers."""
    return largest_remainder(shares * (total / np.sum(shares)), total)
