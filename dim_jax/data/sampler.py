"""Which rows make up which global batch: a pure function of (seed, step), so a run can resume at any step at once."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dim_jax.data.dataset import Dataset
from dim_jax.data.stratification import largest_remainder


@dataclass(frozen=True)
class Stratum:
    """Rows that are drawn equally often, and how many draws they get per epoch together.

    Within a stratum every row is drawn once before any is drawn again.
    """

    rows: tuple[int, ...]
    draws_per_epoch: int


@dataclass(frozen=True)
class Sampler:
    """Draws global batches from strata; epochs follow one another without a gap, so that every batch is full.

    Attributes:
      strata: what is drawn.
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
        """Returns the rows of the global batch of `step` (from 0), int32 of shape (global_batch_size,)."""
        positions = np.arange(step * self.global_batch_size, (step + 1) * self.global_batch_size)
        epochs, offsets = np.divmod(positions, self.epoch_size)
        rows = np.empty(len(positions), np.int32)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = _epoch(self, int(epoch))[offsets[here]]
        return rows

    def class_counts(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Returns how many examples of each class an epoch draws on average, float32 of shape (num_classes,)."""
        counts = np.zeros(num_classes)
        for stratum in self.strata:
            of_rows = np.bincount(labels[list(stratum.rows)], minlength=num_classes)
            counts += of_rows * (stratum.draws_per_epoch / len(stratum.rows))
        return counts.astype(np.float32)


@lru_cache(maxsize=8)
def _epoch(sampler: Sampler, epoch: int) -> np.ndarray:
    """The rows of one epoch in order."""
    draws = [
        _draws_of_stratum(sampler, number, epoch * stratum.draws_per_epoch, stratum.draws_per_epoch)
        for number, stratum in enumerate(sampler.strata)
    ]
    order = _rng(sampler.seed, len(sampler.strata), epoch).permutation(sampler.epoch_size)
    return np.concatenate(draws)[order]


def _draws_of_stratum(sampler: Sampler, number: int, start: int, count: int) -> np.ndarray:
    """Draws `start` to `start + count` of a stratum's endless stream: one permutation of its rows after another."""
    rows = np.array(sampler.strata[number].rows, np.int32)
    rounds, offsets = np.divmod(np.arange(start, start + count), len(rows))
    drawn = np.empty(count, np.int32)
    for round_number in np.unique(rounds):
        here = rounds == round_number
        drawn[here] = rows[_rng(sampler.seed, number, int(round_number)).permutation(len(rows))[offsets[here]]]
    return drawn


def _rng(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *path))))


def make_sampler(
    dataset: Dataset,
    *,
    seed: int,
    global_batch_size: int,
    class_balanced: bool = False,
    generated_weight: float = 1.0,
    only_class: int | None = None,
) -> Sampler:
    """Returns the sampler of the training images of `dataset`, real and generated.

    An epoch draws every real training image once on average, and every generated one `generated_weight` times.

    Args:
      dataset: the data; only its training rows are drawn.
      seed: seed of all permutations.
      global_batch_size: rows per step.
      class_balanced: share the draws of an epoch equally among the classes that have images.
      generated_weight: how often a generated image is drawn for once that a real one is, >= 0.
      only_class: label of the one class to draw; None draws all.

    Raises:
      ValueError: an option is out of range, or there is nothing to train on.
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
    epoch_size = max(round(draws.sum()), 1)
    if class_balanced:
        label_of = np.array([dataset.labels[rows[0]] for rows, _ in groups])
        drawn_classes = np.unique(label_of)
        totals = _apportion(np.ones(len(drawn_classes)), epoch_size)
        counts = np.empty(len(groups), int)
        # First among the classes, then within each: rounding all at once can set two classes two draws apart.
        for label, total in zip(drawn_classes, totals, strict=True):
            counts[label_of == label] = _apportion(draws[label_of == label], total)
    else:
        counts = _apportion(draws, epoch_size)
    strata = [Stratum(tuple(rows.tolist()), int(n)) for (rows, _), n in zip(groups, counts, strict=True) if n]
    return Sampler(tuple(strata), seed, global_batch_size)


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Divides `total` draws in proportion to `shares`, into whole numbers."""
    return largest_remainder(shares * (total / np.sum(shares)), total)
