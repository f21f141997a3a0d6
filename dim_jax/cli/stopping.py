"""SIGTERM and SIGINT: the first asks the program to stop where it can go on later, the second ends it at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop; the message, if there is one, says how to go on."""


@contextlib.contextmanager
def on_signals() -> Iterator[None]:
    """Within the block the first signal raises Stopped, and the second ends the process with the code 128 + signal.

    Does nothing outside the main thread, where signals do not arrive.
    """
    if not _is_main_thread():
        yield
        return
    reader, writer = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows needs no such thing, and has it from Python 3.12 on
        os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A handler waits until the interpreter has control, which a compilation may keep for minutes. A thread does not.
    watch = threading.Thread(target=_end_at_the_second, args=(reader,), daemon=True)
    watch.start()
    try:
        with _handled_by(_raise):
            yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        watch.join()
        os.close(reader)


def _end_at_the_second(reader: int) -> None:
    """Counts the signals that the system writes to a pipe, one byte each, until it is closed."""
    count = 0
    while byte := os.read(reader, 1):
        count += byte[0] in SIGNALS
        if count == 2:
            os._exit(128 + byte[0])


class Request:
    """Whether a signal has arrived.

    Attributes:
      arrived: it has.
    """

    def __init__(self) -> None:
        self.arrived, self._is_patient = False, True

    @contextlib.contextmanager
    def obeyed_at_once(self) -> Iterator[None]:
        """Within the block a signal raises Stopped: for work that is done again when the program goes on."""
        self._is_patient = False
        try:
            if self.arrived:
                raise Stopped
            yield
        finally:
            self._is_patient = True

    def _note(self, *_: object) -> None:
        if self.arrived or not self._is_patient:
            self.arrived = True
            raise Stopped
        self.arrived = True


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Within the block the first signal is only noted in what this yields."""
    request = Request()
    if not _is_main_thread():
        yield request
        return
    with _handled_by(request._note):
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
