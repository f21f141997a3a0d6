"""Every odd input is read as what it means, warned about with names, or refused in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from odd_inputs import ODD_INPUTS

TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_odd_input_is_read_or_warned_about_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ODD_INPUTS[name][1](tmp_path)


def test_the_folder_is_a_program_that_prints_a_line_per_input():
    name = next(iter(ODD_INPUTS))
    done = subprocess.run([sys.executable, TESTS / "odd_inputs", name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1 and name in done.stdout
