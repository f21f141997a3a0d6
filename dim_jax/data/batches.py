"""Plans of row batches: what one host trains on from a step on, and every image of a split once; and their facts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dim_jax.data.dataset import Dataset
from dim_jax.data.sampler import Sampler

PADDING = -1

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class TrainingPlan:
    """The rows of this host for the steps `start` to `stop`; re-iterable.

    Attributes:
      sampler: draws the global batches.
      start, stop: first step, and the step after the last.
      host, num_hosts: which equal part of every global batch is this host's.
    """

    sampler: Sampler
    start: int
    stop: int
    host: int = 0
    num_hosts: int = 1

    def __iter__(self) -> Iterator[np.ndarray]:
        size = self.sampler.global_batch_size // self.num_hosts
        for step in range(self.start, self.stop):
            yield self.sampler.batch(step)[self.host * size : (self.host + 1) * size]


def evaluation_plan(rows: np.ndarray, batch_size: int, host: int = 0, num_hosts: int = 1) -> list[np.ndarray]:
    """Divides `rows` into batches in which every row stands once; every host gets as many batches, padded with -1.

    Args:
      rows: manifest rows, (N,).
      batch_size: global batch size, a multiple of `num_hosts`.

    Returns:
      This host's part of every batch, int32 of shape (batch_size // num_hosts,).
    """
    num_batches = -(-len(rows) // batch_size)
    padded = np.full(num_batches * batch_size, PADDING, np.int32)
    padded[: len(rows)] = rows
    size = batch_size // num_hosts
    return [batch[host * size : (host + 1) * size] for batch in padded.reshape(num_batches, batch_size)]


def describe(dataset: Dataset, rows: np.ndarray) -> Batch:
    """Returns what every backend's batch says of its rows (B,): `label`, `mask`, `is_generated` and `index`."""
    present = rows != PADDING
    known = np.where(present, rows, 0)
    return {
        "label": np.where(present, dataset.labels[known], 0).astype(np.int32),
        "mask": present.astype(np.float32),
        "is_generated": present & dataset.is_generated[known],
        "index": rows.astype(np.int32),
    }
