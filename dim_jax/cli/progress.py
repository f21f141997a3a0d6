"""Progress of long work: a bar on a terminal, a line every 15 seconds elsewhere."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from dim_jax.cli.command_line import is_verbose, printable, say

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Shows the steps done, the time left, the throughput and current metrics.

    On a terminal this is a tqdm bar; elsewhere a line at most every 15 seconds, and at the end. Nothing is shown after
    `command_line.log_warnings_only`.
    """

    def __init__(self, description: str, total: int, done: int = 0, images_per_step: int = 1, unit: str = "images/s"):
        """Args:
        description: name of the work.
        total: number of steps.
        done: steps that were done before this process started.
        images_per_step: images per step, for the throughput.
        unit: unit of the throughput; "runs/h" counts steps per hour.
        """
        self._description, self._total, self._done = printable(description), total, done
        self._per_second = 3600 if unit.endswith("/h") else images_per_step
        self._unit = unit
        self._start, self._first = time.monotonic(), done
        self._is_first = True
        self._last_line = self._start
        self._is_shown = is_verbose()
        has_bar = self._is_shown and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, desc=self._description, unit="step") if has_bar else None

    def update(self, done: int, figures: str = "") -> None:
        """Shows that `done` steps are done.

        Args:
          done: steps done, including those before this process started.
          figures: current metrics, as text.
        """
        advanced, self._done, figures = done - self._done, done, printable(figures)
        # The first update includes compilation and would bias the rate.
        if self._is_first:
            self._is_first, self._start, self._first = False, time.monotonic(), done
        elapsed = time.monotonic() - self._start
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        speed = f"{rate * self._per_second:.1f} {self._unit}" if rate else "compiled"
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(part for part in (speed, figures) if part), refresh=False)
            self._bar.update(advanced)
        elif self._is_shown and (time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or done >= self._total):
            self._last_line = time.monotonic()
            left = f", {_clock((self._total - done) / rate)} left" if rate else ""
            figures = f", {figures}" if figures else ""
            say(f"{self._description}: {done}/{self._total}{left}, {speed}{figures}", file=sys.stderr)

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


def progress_callback(description: str) -> Callable[[int, int], None]:
    """Returns a function of (images done, images in all) that shows the progress, starting with its first call."""
    progress: Progress | None = None

    def update(done: int, total: int) -> None:
        nonlocal progress
        if progress is None:
            progress = Progress(description, total)
        progress.update(done)
        if done == total:
            progress.close()

    return update


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
