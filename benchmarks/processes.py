"""Programs to be timed, each in a process of its own that does so many steps when it is asked."""

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
    """One side, made ready in its process.

    Attributes:
      turn: does so many steps and waits for the result.
      about: what to say about the side; `platform` is the kind of device.
      gauge: returns `flops_per_step`, the floating-point operations that the work of one step comes to, and
        `peak_flops_per_second`, how many the device was just seen to do in a large matrix product; None where the side
        leaves that to the other one.
    """

    turn: Callable[[int], None]
    about: dict[str, str]
    gauge: Callable[[], dict[str, float]] | None = None


# Makes a side ready in its process.
Build = Callable[[Options], Side]

# Threads of a pool spin for a while after their work; the other side should not start beside them.
SETTLE_SECONDS = 0.25
_GAUGE = "gauge"  # asked of a worker in place of a number of steps


class Worker:
    """One side in a process of its own, which waits for the next request."""

    def __init__(self, name: str, build: Build, options: Options):
        """Args:
        name: of the side, for messages.
        build: a function of a module, run in the new process.
        options: what it is called with; `threads` holds the process to so many cores.
        """
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.cpu_seconds = 0.0  # what the process had used after its last turn
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, build, dict(options)))
        self._started = time.perf_counter()
        self._process.start()
        other_end.close()

    def wait_until_ready(self) -> tuple[float, dict[str, str]]:
        """Returns the seconds from the start of the process until it was built, and what it says about itself."""
        about = self._answer()
        return time.perf_counter() - self._started, about

    def turn(self, steps: int) -> float:
        """Lets the side do `steps` steps and returns how many seconds they took there."""
        self._connection.send(steps)
        seconds, self.cpu_seconds = self._answer()
        return seconds

    def gauge(self) -> dict[str, float] | None:
        """Lets the side gauge work and device, as Side says; None where it does not."""
        self._connection.send(_GAUGE)
        return self._answer()

    def close(self) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()

    def _answer(self) -> Any:
        """Raises ValueError with the side's own words where it failed."""
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError):
            raise ValueError(f"{self.name} ended without a word; was it killed for its memory?") from None
        if kind == "error":
            message, trace = value
            raise ValueError(f"{self.name}: {message}") from RuntimeError(trace)
        return value


def _serve(connection: Connection, build: Build, options: Options) -> None:
    """Builds a side and does what it is asked to until the other end of the pipe is closed."""
    fresh_cache = tempfile.TemporaryDirectory(prefix="torchinductor_")
    try:
        if options["threads"]:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options["threads"]])
        # Both start cold, so that compile times are what a first user waits; and both must fit onto one GPU.
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = fresh_cache.name
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        side = build(options)
        connection.send(("ready", side.about))
        while True:
            asked = connection.recv()
            if asked == _GAUGE:
                connection.send(("gauged", side.gauge and side.gauge()))
                continue
            time.sleep(SETTLE_SECONDS)
            started = time.perf_counter()
            side.turn(asked)
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
    """Starts one worker per side, one after the other so that start times are undisturbed, and ends them at the end.

    Yields:
      name -> worker, seconds until it was built, what it says about itself.
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
