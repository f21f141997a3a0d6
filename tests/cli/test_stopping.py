"""Signals as a command meets them: the first stops it in one line, the second ends it whatever it is doing."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from dim_jax.cli import command_line, stopping

# What runs in C answers no handler before it returns.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"
SLEEPING = "time.sleep(60)"


def start(work):
    program = (
        "import hashlib, sys, time\n"
        "from dim_jax.cli import command_line\n"
        "def main(arguments):\n"
        "    print('working', flush=True)\n"
        f"    {work}\n"
        "sys.exit(command_line.run(main, []))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_command_that_a_signal_stops_says_so_in_one_line_and_has_its_own_exit_code(number):
    process = start(SLEEPING)
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert said == "stopped; run the same command again to continue\n"
    assert process.returncode == command_line.STOPPED == 75


def test_a_second_signal_ends_it_at_once_even_where_python_has_no_control():
    process = start(BUSY)
    time.sleep(1)  # until it is in there
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT


def test_handlers_are_as_before_when_a_command_has_ended():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    assert command_line.run(lambda arguments: None, []) == 0
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_outside_the_main_thread_nothing_is_handled_and_everything_works():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(command_line.run(lambda arguments: None, [])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_work_that_is_done_again_is_left_at_once_and_other_work_is_finished():
    done = []
    with stopping.deferred() as request:
        with pytest.raises(stopping.Stopped), request.interruptible():
            signal.raise_signal(signal.SIGTERM)
            done.append("evaluation")
        done.append("checkpoint")
    assert request.arrived and done == ["checkpoint"]
    with stopping.deferred() as request:
        signal.raise_signal(signal.SIGINT)
        done.append("dispatch")
        with pytest.raises(stopping.Stopped), request.interruptible():
            done.append("evaluation")
    assert done == ["checkpoint", "dispatch"]
