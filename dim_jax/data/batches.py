"""Row batches of one host: training batches from a given step, and every image of a split once for evaluation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dim_jax.data.dataset import Dataset
from dim_jax.data.sampler import Sampler, SwitchedSampler

PADDING = -1

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class TrainingPlan:
    """Iterable of this host's rows for the steps from `start` up to `stop`; can be iterated again.

    Attributes:
      sampler: sampler of the global batches.
      start, stop: first step, and the step after the last.
      host, num_hosts: index of this host, and number of hosts that share each global batch equally.
      partners: sampler of a second row for each row, or None; these come after the rows, see `split_partners`.
    """

    sampler: Sampler | SwitchedSampler
    start: int
    stop: int
    host: int = 0
    num_hosts: int = 1
    partners: Sampler | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        size = self.sampler.global_batch_size // self.num_hosts
        samplers = [self.sampler] if self.partners is None else [self.sampler, self.partners]
        for step in range(self.start, self.stop):
            yield np.concatenate(
                [sampler.batch(step)[self.host * size : (self.host + 1) * size] for sampler in samplers]
            )


def split_partners(batch: Batch) -> Batch:
    """Returns a batch of rows and their partners with the fields of the partners under names of their own.

    Args:
      batch: fields of 2 B examples, of which the last B are the partners of the first.

    Returns:
      Fields of B examples, each also as `partner_...`.
    """
    size = len(batch["label"]) // 2
    partners = {f"partner_{name}": array[size:] for name, array in batch.items()}
    return {name: array[:size] for name, array in batch.items()} | partners


def evaluation_plan(rows: np.ndarray, batch_size: int, host: int = 0, num_hosts: int = 1) -> list[np.ndarray]:
    """Divides `rows` into batches that hold every row once; all hosts get the same number, padded with -1.

    Args:
      rows: manifest rows, shape (N,).
      batch_size: global batch size, a multiple of `num_hosts`.
      host, num_hosts: index of this host, and number of hosts that share each global batch equally.

    Returns:
      This host's part of every batch, int32 of shape (batch_size // num_hosts,) each.
    """
    num_batches = -(-len(rows) // batch_size)
    padded = np.full(num_batches * batch_size, PADDING, np.int32)
    padded[: len(rows)] = rows
    size = batch_size // num_hosts
    return [batch[host * size : (host + 1) * size] for batch in padded.reshape(num_batches, batch_size)]


def row_fields(dataset: Dataset, rows: np.ndarray) -> Batch:
    """Returns the fields of a batch that every backend shares: `label`, `mask`, `is_generated` and `index`.

    Args:
      dataset: the images.
      rows: rows of the batch, int of shape (B,); -1 is padding.

    Returns:
      Arrays of shape (B,): int32 `label`, float32 `mask` (0 for padding), bool `is_generated` and int32 `index`.
    """
    is_image = rows != PADDING
    indices = np.where(is_image, rows, 0)
    return {
        "label": np.where(is_image, dataset.labels[indices], 0).astype(np.int32),
        "mask": is_image.astype(np.float32),
        "is_generated": is_image & dataset.is_generated[indices],
        "index": rows.astype(np.int32),
    }
