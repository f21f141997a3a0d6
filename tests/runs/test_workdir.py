"""The lock of a run directory."""

import signal
import subprocess
import sys

import pytest

from dim_jax.runs import workdir

HOLDER = """
import sys, time
from dim_jax.runs import workdir
with workdir.claim(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / workdir.CONFIG).write_text("{}")
    return tmp_path / "run"


def test_the_lock_of_a_killed_holder_is_free(run):
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", HOLDER, run], stdout=subprocess.PIPE, text=True) as holder:
            try:
                assert holder.stdout.readline() == "held\n"
                with (
                    pytest.raises(ValueError, match=f"{run} is in use by process {holder.pid} on "),
                    workdir.claim(run),
                ):
                    pass
            finally:
                holder.kill()
        assert holder.returncode == -signal.SIGKILL
        with workdir.claim(run) as held:
            assert held == run


def test_a_directory_without_a_configuration_is_left_as_it_was(tmp_path):
    with workdir.claim(tmp_path / "new"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with workdir.claim(tmp_path / "old"):
        pass
    assert list((tmp_path / "old").iterdir()) == []


def test_a_held_directory_is_refused_within_a_process_too(run):
    with workdir.claim(run), pytest.raises(ValueError, match="in use"), workdir.claim(run):
        pass
    with workdir.claim(run):
        pass


@pytest.mark.parametrize("name", ["manifest.json", "report.html", "checkpoints"])
def test_a_directory_with_files_that_a_run_would_replace_is_refused(tmp_path, name):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text("mine")
    with pytest.raises(ValueError, match=f"data is no run, and a run would replace its {name}"):
        workdir.claim(tmp_path / "data").__enter__()
    assert [path.name for path in (tmp_path / "data").iterdir()] == [name]


def test_a_directory_with_other_files_becomes_a_run(tmp_path):
    (tmp_path / "slurm-1.out").write_text("mine")
    with workdir.claim(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["slurm-1.out"]


def test_a_run_that_was_killed_before_it_had_a_configuration_is_resumed(tmp_path):
    (tmp_path / workdir.LOCK).touch()
    (tmp_path / "manifest.json").write_text("{}")
    with workdir.claim(tmp_path) as held:
        assert held == tmp_path
