"""Experiments on grids: launch/slurm_array.sh with stand-ins for SLURM's programs."""

import subprocess
import sys
from pathlib import Path

import pytest
import stand_ins

ROOT = Path(__file__).parents[2]
EXPERIMENT = f"--config={ROOT / 'configs' / 'experiment.py'}:test"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with stand-ins for SLURM's programs, which is in PATH."""
    programs = tmp_path / "slurm"
    stand_ins.write(programs, sbatch=stand_ins.SBATCH, scontrol=stand_ins.SCONTROL, srun=stand_ins.SRUN)
    monkeypatch.setenv("PATH", stand_ins.path_with(programs))
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return programs


def submit(*options):
    command = ["bash", str(ROOT / "launch" / "slurm_array.sh"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_stage_is_an_array_after_the_one_before_and_a_stopped_task_is_queued_again(slurm, tmp_path):
    """Tasks are only recorded; the first call of task 4 ends as after SIGTERM."""
    record = f"""
        case "$*" in *--list-tasks*) exec {sys.executable} "$@" ;; esac
        echo "${{@: -1}}" >> {tmp_path}/tasks
        [ "${{@: -1}}" = --task=4 ] && [ "$(grep -c -- --task=4 {tmp_path}/tasks)" = 1 ] && exit 75; exit 0"""
    stand_ins.write_python(tmp_path / "venv", **{"dim_jax.train": record})
    run = f"--workdir={tmp_path / 'dim'}"
    done = submit("--gpus=1", "--time=1:00:00", "--", EXPERIMENT, run)
    assert done.returncode == 0, done.stderr
    submitted = stand_ins.calls(slurm, "sbatch")
    script = ["launch/slurm_array.sh", EXPERIMENT, run]
    own = ["--parsable", "--gpus=1", "--time=1:00:00"]
    assert submitted[0] == [*own, "--array=0", *script]
    for number, array in enumerate(("1,4", "2,5", "3,6", "7")):
        after = [f"--dependency=afterok:{100 + number}", "--kill-on-invalid-dep=yes"]
        assert submitted[1 + number] == [*own, f"--array={array}", *after, *script]
    order = [0, 1, 4, 4, 2, 5, 3, 6, 7]
    assert (tmp_path / "tasks").read_text().split() == [f"--task={number}" for number in order]
    assert stand_ins.calls(slurm, "scontrol") == [["requeue", "101_4"]]
    assert "stage 4: job 104, tasks 7" in done.stdout


def test_after_a_task_that_failed_no_later_one_is_started(slurm, tmp_path):
    record = f"""
        case "$*" in *--list-tasks*) exec {sys.executable} "$@" ;; esac
        echo "${{@: -1}}" >> {tmp_path}/tasks; [ "${{@: -1}}" != --task=1 ]; exit"""
    stand_ins.write_python(tmp_path / "venv", **{"dim_jax.train": record})
    assert submit("--", EXPERIMENT, f"--workdir={tmp_path / 'dim'}").returncode == 0
    assert (tmp_path / "tasks").read_text().split() == ["--task=0", "--task=1", "--task=4"]


def test_without_options_of_train_or_with_wrong_ones_nothing_is_submitted(slurm, tmp_path):
    stand_ins.write_python(tmp_path / "venv")
    for options in (["--gpus=1"], ["--gpus=1", "--"], ["--", "--config=no_such.py", "--workdir=runs/none"]):
        done = submit(*options)
        assert done.returncode == 2 and ("usage" in done.stderr or "no_such.py" in done.stderr)
    assert not stand_ins.calls(slurm, "sbatch")
