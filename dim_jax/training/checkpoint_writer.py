"""Writes checkpoints in a thread, while the devices compute the next steps."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from dim_jax.runs.workdir import BEST
from dim_jax.training import checkpoints, hosts, parallel

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the checkpoints of a run in the order of the calls, on host 0 alone.

    A context manager, which returns when the last checkpoint is written. A checkpoint appears at once and whole, so a
    run that is killed meanwhile resumes from an earlier one.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._unfinished: Future[None] | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self.wait()

    def save(
        self,
        folder: Path,
        step: int,
        state: Any,
        notes: Mapping[str, Any],
        keep: int,
        counts: Callable[[int], bool] = lambda step: True,
    ) -> float:
        """Copies a replicated state to the host and begins to write it; see `checkpoints.save`.

        It waits for the checkpoint before, so that there is one copy at a time.

        Returns:
          The seconds that the caller waited.

        Raises:
          OSError: the checkpoint before could not be written.
        """
        if not hosts.is_first_host():
            return 0.0
        started = time.perf_counter()
        self.wait()
        # The next step reuses the memory of the state on the devices.
        copy = jax.tree.map(np.array, parallel.unreplicate(state))
        self._unfinished = self._thread.submit(_write, folder, step, copy, dict(notes), keep, counts)
        return time.perf_counter() - started

    def wait(self) -> None:
        """Returns when the last checkpoint is written.

        Raises:
          OSError: it could not be.
        """
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            unfinished.result()


def _write(folder: Path, step: int, *arguments: Any) -> None:
    started = time.perf_counter()
    checkpoints.save(folder, step, *arguments)
    kind = "best checkpoint" if folder.name == BEST else "checkpoint"
    log.info("step %d: %s in %.1f s", step, kind, time.perf_counter() - started)
