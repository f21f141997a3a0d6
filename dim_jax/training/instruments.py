"""Step times, waiting time for data, memory use, and profiler traces of training."""

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dim_jax.training import parallel

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PROFILE = "profile"
WINDOW = 100
PERCENTILES = (50, 90, 99)
WARM_UP = 2

log = logging.getLogger(__name__)


class Clock:
    """Times dispatches. The first one includes the compilation, so its step times are None.

    A dispatch may start while the previous one runs; its time then begins at the end of that.
    """

    def __init__(self, steps_per_dispatch: int, images_per_step: int) -> None:
        self._steps, self._images_per_step = steps_per_dispatch, images_per_step
        self._is_first = True
        self._begun: deque[float] = deque()  # starts of the dispatches that are not stopped
        self._waiting = 0.0  # for data since the last stop
        self._seconds = self._waited = self._started = self._stopped = 0.0  # of the last dispatch that is stopped
        self._timed = self._apart = 0.0  # summed time of dispatches but the first, and of what is no overhead
        self._first_start = 0.0  # of the second dispatch
        self._window: deque[float] = deque(maxlen=WINDOW)

    def start(self) -> None:
        """Called before a dispatch, possibly before the end of the previous one."""
        self._begun.append(time.perf_counter())

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """The time within the block is neither that of dispatches nor overhead."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._apart += time.perf_counter() - started

    def fetch(self, stream: Iterator[Any], output: jax.Array) -> Any:
        """Returns the next batches; the time counts as waiting if the devices finished before the data was ready."""
        started = time.perf_counter()
        batches = next(stream)
        if output.is_ready():  # type: ignore[attr-defined]  # missing from JAX's types
            self._waiting += time.perf_counter() - started
        return batches

    def stop(self) -> None:
        """Called when the results of the earliest dispatch that was not stopped yet are there."""
        self._started, self._stopped = max(self._begun.popleft(), self._stopped), time.perf_counter()
        self._seconds = self._stopped - self._started
        self._waited, self._waiting = self._waiting, 0.0

    def line(self) -> dict[str, float | None]:
        """Returns the times of the last dispatch, percentiles of `seconds_per_step` over the last 100, and overhead.

        `overhead_share` is the share of the time since the start of the second dispatch that was spent between
        dispatches, evaluations apart.
        """
        percentiles = [f"seconds_per_step_p{percentile}" for percentile in PERCENTILES]
        if self._is_first:
            self._is_first = False
            log.info("first dispatch: %.1f s, compilation included", self._seconds)
            names = ("seconds_per_step", "images_per_second", "data_wait_share", "overhead_share", *percentiles)
            return {"seconds": self._seconds} | dict.fromkeys(names)
        self._window.append(self._seconds / self._steps)
        if not self._timed:
            self._first_start, self._apart = self._started, 0.0
        self._timed += self._seconds
        elapsed = self._stopped - self._first_start - self._apart
        return {
            "seconds": self._seconds,
            "seconds_per_step": self._seconds / self._steps,
            "images_per_second": self._steps * self._images_per_step / self._seconds,
            "data_wait_share": self._waited / self._seconds,
            "overhead_share": 1 - self._timed / elapsed,
            **dict(zip(percentiles, np.percentile(self._window, PERCENTILES).tolist(), strict=True)),
        }


def memory() -> dict[str, int | None]:
    """Returns the memory use of this process in bytes, and that of the first device if it is reported.

    `host_bytes` is the current resident size, or the peak on systems without /proc.
    """
    return {"host_bytes": _resident_bytes()} | {
        f"device_{name}": value for name, value in parallel.device_memory().items()
    }


def _resident_bytes() -> int | None:
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Trace:
    """Profiler trace of dispatches after a warm-up, for TensorBoard's profile page and Perfetto."""

    def __init__(self, workdir: Path, dispatches: int) -> None:
        """Args:
        workdir: run directory; the trace is written to profile/ in it.
        dispatches: number of dispatches to trace; 0 for none.
        """
        self._folder, self._dispatches, self._count = workdir / PROFILE, dispatches, 0
        self._is_open = False

    def before_dispatch(self) -> None:
        """Starts the trace after the warm-up, and ends it after the last traced dispatch."""
        if self._dispatches and self._count == WARM_UP:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._is_open = True
        if self._count == WARM_UP + self._dispatches:
            self.close()
        self._count += 1

    def close(self) -> None:
        """Writes the trace if one is open, and logs its path."""
        if self._is_open:
            self._is_open = False
            jax.profiler.stop_trace()
            log.info(
                "trace of %d dispatches in %s: tensorboard --logdir=%s, or open its perfetto_trace.json.gz at "
                "ui.perfetto.dev", self._count - WARM_UP, self._folder, self._folder
            )  # fmt: skip
        elif self._dispatches and self._count <= WARM_UP:
            log.warning("no trace: it begins after %d dispatches, and %d were left", WARM_UP, self._count)
