"""Progress of long work: a bar on a terminal, a line every 15 seconds elsewhere."""

import contextvars
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from dim_jax.cli.command_line import is_verbose, printable, say

SECONDS_BETWEEN_LINES = 15.0
PART = 0.75  # of what is left of a stage is filled by its next part
LEAST_DONE = 0.03  # share of all stages before which the time left is not shown


class Stages:
    """One bar over work of several stages, with the time left: a context manager.

    Every Progress within the block shows its steps on this bar and not on one of its own. Elsewhere than on a terminal
    it is a line at the start of every stage, and one at most every 15 seconds.

    Attributes:
      total: weight of all stages together; it may change while stages are added.
    """

    def __init__(self, description: str, total: float):
        """Args:
        description: name of the work.
        total: weight of all stages together, in proportion to the time that they are expected to take.
        """
        self.total, self._description = total, printable(description)
        self._done, self._skipped, self._weight, self._title = 0.0, 0.0, 0.0, ""
        self._start = self._last_line = time.monotonic()
        has_bar = is_verbose() and sys.stderr.isatty()
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}"
        self._bar = tqdm(total=total, desc=self._description, bar_format=form, smoothing=0) if has_bar else None

    def __enter__(self) -> "Stages":
        self._outer = _stages.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _stages.reset(self._outer)
        if self._bar is not None:
            self._bar.close()

    def begin(self, title: str, weight: float) -> None:
        """Ends the stage before, and begins the next one.

        Args:
          title: what is done now.
          weight: its share of `total`.
        """
        self._done, self._weight, self._title = self._done + self._weight, weight, printable(title)
        self._parts, self._part_done = 0, 0.0
        self._show("", is_new=True)

    def skip(self, weight: float) -> None:
        """Counts the stage before and more of that weight as done before this process started."""
        self._skipped += self._weight + weight
        self._done, self._weight = self._done + self._weight + weight, 0.0
        if self._bar is not None:
            self._bar.initial = self._skipped  # which leaves them out of the time left

    def end(self) -> None:
        """Ends the last stage."""
        self._done, self._weight = self.total, 0.0
        self._show("", is_new=True)

    def show_part(self, text: str, share: float) -> None:
        """Shows the progress of a part of the stage; their number is not known, so each fills most of the rest.

        Args:
          text: what is done in it.
          share: how much of it is done, in [0, 1].
        """
        if share < self._part_done:
            self._parts += 1
        self._part_done = share
        self._show(text, is_new=False)

    def _show(self, text: str, is_new: bool) -> None:
        within = 1 - (1 - PART) ** self._parts * (1 - PART * self._part_done) if self._weight else 0.0
        position = min(self._done + self._weight * within, self.total)
        text = ", ".join(part for part in (self._title, text) if part)
        if self._bar is not None:
            self._bar.total, self._bar.n = self.total, position
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.refresh()
        elif is_verbose() and (is_new or time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES):
            self._last_line = time.monotonic()
            elapsed, own = self._last_line - self._start, position - self._skipped
            left = elapsed * (self.total - position) / own if own >= LEAST_DONE * self.total else None
            say(
                f"{self._description}: {position / self.total:.0%}"
                + (f", {_clock(left)} left" if left is not None else "")
                + (f", {text}" if self._weight else ""),
                file=sys.stderr,
            )


_stages: contextvars.ContextVar[Stages | None] = contextvars.ContextVar("stages", default=None)


class Progress:
    """Shows the steps done, the time left, the throughput and current metrics.

    On a terminal this is a tqdm bar; elsewhere a line at most every 15 seconds, and at the end. Nothing is shown after
    `command_line.log_warnings_only`, and within Stages its bar shows the steps.
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
        self._stages = _stages.get()
        self._is_shown = is_verbose() and self._stages is None
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
        if self._stages is not None:
            self._stages.show_part(f"{self._description} {done}/{self._total}", done / max(self._total, 1))
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
