"""`python -m dim_jax`: the list of commands, and running one of them."""

import subprocess
import sys

import pytest

from dim_jax import __main__ as commands
from dim_jax.cli import command_line


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed_with_a_phrase_each(arguments, capsys):
    assert command_line.run(commands.main, arguments) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert dict(lines) == commands.COMMANDS


@pytest.mark.parametrize(("name", "hint"), [("trian", "did you mean train?"), ("x", "choose one of prepare, ")])
def test_an_unknown_command_is_one_line(name, hint, capsys):
    assert command_line.run(commands.main, [name]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"{name!r} is not a command of dim_jax; {hint}" in message


def test_a_command_is_run_with_its_options(capsys):
    assert command_line.run(commands.main, ["evaluate", "--split=test"]) == 2
    assert "--workdir" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        command_line.run(commands.main, ["interop.convert", "--help"])
    assert not stop.value.code and "python -m dim_jax.interop.convert" in capsys.readouterr().out


def test_listing_the_commands_imports_nothing_heavy():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['dim_jax']\n"
        "try:\n"
        "    runpy.run_module('dim_jax', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'jax', 'numpy', 'tensorflow', 'flax', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
