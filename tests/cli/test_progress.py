"""Progress lines without a terminal, and the bar on a terminal."""

import io
import re
import sys
import time
from itertools import pairwise

import pytest
from hostile_inputs import assert_harmless

from dim_jax.cli import progress
from dim_jax.cli.progress import Progress, Stages


class Clock:
    """A clock that is set by the test."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def printed(capsys):
    """Reads standard error, which is not a terminal here; nothing may go to standard output."""

    def read():
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return read


def run(bar, clock, updates):
    """Updates a Progress by pairs of (seconds that pass before the update, steps done)."""
    for seconds, done in updates:
        clock.now += seconds
        bar.update(done, f"loss {done}")
    bar.close()


def test_a_line_has_steps_time_left_throughput_and_metrics(clock, printed):
    bar = Progress("train", 1000, images_per_step=32)
    # 10 steps in 20 s after the first update: 0.5 steps or 16 images a second; 980 more take 1960 s.
    run(bar, clock, [(5, 10), (20, 20)])
    assert printed() == "train: 20/1000, 32:40 left, 16.0 images/s, loss 20\n"


def test_control_characters_in_names_are_escaped(clock, printed):
    bar = Progress("train \x1b[2J", 10)
    run(bar, clock, [(5, 5)])
    bar.update(10, "a\x1b]0;owned\x07\r")
    lines = printed()
    assert_harmless(lines)
    assert r"train \x1b[2J: 10/10" in lines and r"a\x1b]0;owned\x07\r" in lines


def test_the_first_update_which_compiles_is_excluded_from_the_rate(clock, printed):
    bar = Progress("train", 100, images_per_step=4)
    run(bar, clock, [(600, 8), (20, 16)])
    first, second = printed().splitlines()
    assert first == "train: 8/100, compiled, loss 8"
    # 8 steps in 20 s, and 84 more: 210 s; with the compilation it would be 84 * 620 / 16 s.
    assert second == "train: 16/100, 3:30 left, 1.6 images/s, loss 16"


def test_steps_done_before_a_resume_are_excluded_from_the_rate(clock, printed):
    bar = Progress("train", 1000, done=900, images_per_step=1)
    run(bar, clock, [(100, 910), (20, 920)])
    assert printed().splitlines()[-1] == "train: 920/1000, 2:40 left, 0.5 images/s, loss 920"


def test_hours_left_are_printed_as_hours(clock, printed):
    run(Progress("train", 7262), clock, [(1, 1), (20, 21)])
    assert printed() == "train: 21/7262, 2:00:41 left, 1.0 images/s, loss 21\n"


def test_long_steps_are_counted_per_hour(clock, printed):
    run(Progress("experiment", 100, unit="runs/h"), clock, [(1, 1), (1200, 3)])
    assert printed() == "experiment: 3/100, 16:10:00 left, 6.0 runs/h, loss 3\n"


def test_lines_are_at_least_15_seconds_apart_and_one_is_at_the_end(clock, printed):
    run(Progress("train", 100), clock, [(1, done) for done in range(1, 101)])
    steps = [int(re.search(r"(\d+)/100", line)[1]) for line in printed().splitlines()]
    seconds = progress.SECONDS_BETWEEN_LINES
    assert steps[-1] == 100 and len(steps) == 100 // seconds + 1
    assert all(later - earlier >= seconds for earlier, later in pairwise(steps[:-1]))


@pytest.mark.parametrize("updates", [[(0, 4)], [(0, 2), (0, 4)], [(1, 2), (1, 4)]])
def test_a_line_is_printed_at_the_end_however_short_the_work(clock, printed, updates):
    run(Progress("train", 4), clock, updates)
    (line,) = printed().splitlines()
    assert line.startswith("train: 4/4, ") and line.endswith("loss 4")


def test_without_metrics_the_line_ends_with_the_throughput(clock, printed):
    bar = Progress("read", 2)
    bar.update(1)
    clock.now += 2
    bar.update(2)
    assert printed() == "read: 2/2, 0:00 left, 0.5 images/s\n"


def test_on_a_terminal_a_bar_replaces_the_lines(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = Progress("train", 40, done=10, images_per_step=8)
    run(bar, clock, [(60, 20), (20, 30), (20, 40)])
    text = terminal.getvalue()
    assert "\n" not in text.rstrip("\n")
    last = text.rstrip("\n").split("\r")[-1]
    assert last.startswith("train: 100%") and "40/40" in last
    assert "4.0 images/s, loss 40" in last


def test_stages_share_one_line_and_their_parts_have_none_of_their_own(clock, printed):
    with Stages("experiment", 4) as stages:
        stages.begin("data", 1)
        clock.now += 20
        stages.begin("train", 2)
        bar = Progress("steps", 4)
        clock.now += 20
        bar.update(2)
        bar.close()
        clock.now += 20
        stages.begin("page", 1)
        stages.end()
    assert printed().splitlines() == [
        "experiment: 0%, data",
        "experiment: 25%, 1:00 left, train",
        "experiment: 44%, 0:51 left, train, steps 2/4",
        "experiment: 75%, 0:20 left, page",
        "experiment: 100%, 0:00 left",
    ]
    run(Progress("train", 4), clock, [(1, 1), (20, 4)])  # afterwards they have again
    assert printed().startswith("train: 4/4")


def test_the_time_left_of_a_resumed_experiment_counts_only_its_own_stages(clock, printed):
    with Stages("experiment", 10) as stages:
        stages.begin("data", 1)
        clock.now += 10
        stages.skip(7)
        stages.begin("train", 1)
        clock.now += 20
        stages.begin("page", 1)
        stages.end()
    assert printed().splitlines() == [
        "experiment: 0%, data",
        "experiment: 80%, train",
        "experiment: 90%, 0:30 left, page",
        "experiment: 100%, 0:00 left",
    ]


def test_the_time_left_of_stages_never_grows_by_a_part_that_ends(clock, printed):
    with Stages("experiment", 1) as stages:
        stages.begin("train", 1)
        shares = []
        for _ in range(3):
            bar = Progress("part", 3)
            for done in (1, 2, 3):
                clock.now += 20
                bar.update(done)
                shares.append(int(re.search(r"(\d+)%", printed())[1]))
            bar.close()
    assert shares == sorted(shares) and shares[-1] < 100
