"""SIGTERM and SIGINT: the first signal requests a stop from which the program can continue, the second ends it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal requested a stop; the message, if any, is the position at which the program stopped."""


@contextlib.contextmanager
def on_signals() -> Iterator[None]:
    """Within the block the first signal raises Stopped, and the second ends the process with exit code 128 + signal.

    Does nothing outside the main thread, which receives no signals.
    """
    if not _is_main_thread():
        yield
        return
    reader, writer = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows needs no such thing, and has it from Python 3.12 on
        os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Handlers run only when the interpreter regains control, minutes later during a compilation; a thread runs at once.
    watcher = threading.Thread(target=_exit_on_second_signal, args=(reader,), daemon=True)
    watcher.start()
    try:
        with _handled_by(_raise):
            yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _exit_on_second_signal(reader: int) -> None:
    """Exits at the second signal in a pipe to which the system writes one byte per signal; returns when it closes."""
    count = 0
    while byte := os.read(reader, 1):
        count += byte[0] in SIGNALS
        if count == 2:
            os._exit(128 + byte[0])


class StopRequest:
    """Records whether a signal requested a stop.

    Attributes:
      arrived: whether a signal has arrived.
    """

    def __init__(self) -> None:
        self.arrived, self._is_deferred = False, True

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within the block a signal raises Stopped at once: for work that is repeated when the program continues."""
        self._is_deferred = False
        try:
            if self.arrived:
                raise Stopped
            yield
        finally:
            self._is_deferred = True

    def _handle(self, *_: object) -> None:
        if self.arrived or not self._is_deferred:
            self.arrived = True
            raise Stopped
        self.arrived = True


@contextlib.contextmanager
def deferred() -> Iterator[StopRequest]:
    """Yields a StopRequest that records the first signal within the block; a second signal raises Stopped."""
    request = StopRequest()
    if not _is_main_thread():
        yield request
        return
    with _handled_by(request._handle):
        yield request


@contextlib.contextmanager
def _handled_by(handler) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(*_: object) -> None:
    raise Stopped


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
