"""Restarting with huge pages: once, as the same process, with the same arguments, and never against the user."""

import os
import subprocess
import sys

import pytest

from dim_jax.cli import huge_pages

SCRIPT = """\
import os, pathlib, sys
from dim_jax.cli import huge_pages
huge_pages.KERNEL = pathlib.Path(sys.argv[1])
with open(sys.argv[2], "a") as file:
    print(os.getpid(), sys.argv[3:], os.environ.get("GLIBC_TUNABLES"), file=file)
huge_pages.restart_with_huge_pages()
"""


def starts(tmp_path, choice, **environment):
    """What each start of a program printed, on a kernel with this choice of huge pages."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "enabled").write_text(choice)
    clean = {name: value for name, value in os.environ.items() if name != huge_pages.VARIABLE}
    command = [sys.executable, "-B", tmp_path / "script.py", tmp_path / "enabled", tmp_path / "starts", "a b", "--c=ü"]
    subprocess.run(command, env={**clean, **environment}, check=True)
    return (tmp_path / "starts").read_text().splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux")
def test_a_program_starts_once_more_as_the_same_process_with_its_arguments(tmp_path):
    first, second = starts(tmp_path, "always [madvise] never")
    assert first.replace("None", huge_pages.SETTING) == second
    assert "['a b', '--c=ü']" in first


@pytest.mark.parametrize(
    ("choice", "environment"),
    [
        ("always madvise [never]", {}),
        ("[always] madvise never", {}),
        ("", {}),
        ("always [madvise] never", {"GLIBC_TUNABLES": "glibc.malloc.check=0"}),
    ],
)
def test_it_starts_once_where_that_is_no_use_or_the_user_decided(tmp_path, choice, environment):
    assert len(starts(tmp_path, choice, **environment)) == 1
