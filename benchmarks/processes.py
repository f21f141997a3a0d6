"""Worker processes of a benchmark, each of which builds one side and runs its steps on request."""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

Options = Mapping[str, Any]


class Side(NamedTuple):
    """One side of a benchmark, built in its process.

    Attributes:
      turn: runs the given number of steps and waits for the result.
      about: description of the side; `platform` is the kind of device.
      gauge: returns `flops_per_step`, the floating-point operations of one step, and `peak_flops_per_second`, the
        measured rate of a large matrix product; None if only the other side has one.
    """

    turn: Callable[[int], None]
    about: dict[str, str]
    gauge: Callable[[], dict[str, float]] | None = None


# Builds a side in its process.
Build = Callable[[Options], Side]

# Threads of a pool spin for a while after their work; the other side starts after that.
SETTLE_SECONDS = 0.25
_GAUGE = "gauge"  # request in place of a number of steps


class Worker:
    """One side in a process of its own, which waits for requests."""

    def __init__(self, name: str, build: Build, options: Options):
        """Args:
        name: of the side, for messages.
        build: picklable function that builds the side in the new process.
        options: its argument; `threads` limits the process to that many cores, 0 does not.
        """
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.cpu_seconds = 0.0  # CPU time of the process after its last turn
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, build, dict(options)))
        self._started = time.perf_counter()
        self._process.start()
        other_end.close()

    def wait_until_ready(self) -> tuple[float, dict[str, str]]:
        """Returns the seconds from the start of the process until the side was built, and its description."""
        about = self._answer()
        return time.perf_counter() - self._started, about

    def turn(self, steps: int) -> float:
        """Runs `steps` steps and returns their seconds, measured in the process."""
        self._connection.send(steps)
        seconds, self.cpu_seconds = self._answer()
        return seconds

    def gauge(self) -> dict[str, float] | None:
        """Returns the values of the side's gauge (see Side), or None if it has none."""
        self._connection.send(_GAUGE)
        return self._answer()

    def close(self) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def _answer(self) -> Any:
        """Receives an answer; raises ValueError with the error's message if the side failed."""
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError):
            raise ValueError(f"{self.name} ended without an error message; was it killed for its memory?") from None
        if kind == "error":
            message, trace = value
            raise ValueError(f"{self.name}: {message}") from RuntimeError(trace)
        return value


def _serve(connection: Connection, build: Build, options: Options) -> None:
    """Builds a side and answers requests until the other end of the pipe is closed."""
    fresh_cache = tempfile.TemporaryDirectory(prefix="torchinductor_")
    try:
        if options["threads"]:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options["threads"]])
        # Both start without a compilation cache, as a first run does; and both must fit onto one GPU.
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = fresh_cache.name
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        side = build(options)
        connection.send(("ready", side.about))
        while True:
            request = connection.recv()
            if request == _GAUGE:
                connection.send(("gauged", side.gauge and side.gauge()))
                continue
            time.sleep(SETTLE_SECONDS)
            started = time.perf_counter()
            side.turn(request)
            connection.send(("seconds", (time.perf_counter() - started, time.process_time())))
    except (EOFError, ConnectionError, KeyboardInterrupt):
        return
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        connection.send(("error", (f"{type(error).__name__}: {lines[0]}", traceback.format_exc())))
    finally:
        fresh_cache.cleanup()


@contextmanager
def workers(builds: Mapping[str, Build], options: Options) -> Iterator[dict[str, tuple[Worker, float, dict[str, str]]]]:
    """Starts one worker per side, one after the other so that start times are undisturbed, and closes them at the end.

    Yields:
      name -> worker, seconds until the side was built, its description.
    """
    started: list[Worker] = []
    try:
        ready = {}
        for name, build in builds.items():
            started.append(Worker(name, build, options))
            ready[name] = (started[-1], *started[-1].wait_until_ready())
        yield ready
    finally:
        for worker in started:
            worker.close()
