"""SIGTERM and SIGINT in a command: the first stops it with one line, the second ends it at once."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from dim_jax.cli import command_line, stopping

# Python handlers do not run before C code returns.
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
def test_a_signal_stops_a_command_with_one_line_and_its_own_exit_code(number):
    process = start(SLEEPING)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert stderr == "stopped; run the same command again to continue\n"
    assert process.returncode == command_line.STOPPED == 75


def test_a_second_signal_ends_the_process_at_once_even_inside_c_code():
    process = start(BUSY)
    time.sleep(1)  # until the C code runs
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT


def test_handlers_are_restored_after_a_command():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    assert command_line.run(lambda arguments: None, []) == 0
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_commands_work_outside_the_main_thread_without_handlers():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(command_line.run(lambda arguments: None, [])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_interruptible_work_stops_at_once_and_other_work_is_finished():
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
