"""launch/slurm.sh with stand-ins for SLURM's srun and for the environment, whose `train` records how it was called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import stand_ins

ROOT = Path(__file__).parents[2]
RUN = ("--config=configs/classifier.py", "--config.data.path=/data/with spaces", "--workdir=runs/a")


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Calls the script as SLURM does, as a copy in another folder, in a job of 32 processors per task."""
    programs = tmp_path / "slurm"
    stand_ins.write(programs, srun=stand_ins.SRUN)
    record = f'echo "$SRUN_CPUS_PER_TASK" "${{@:3}}" > {tmp_path}/trained; [ "$3" != --config=wrong.py ]; exit'
    stand_ins.write_python(tmp_path / "venv", **{"dim_jax.train": record})
    monkeypatch.setenv("PATH", stand_ins.path_with(programs))
    monkeypatch.setenv("VENV", str(tmp_path / "venv"))
    names = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_CPUS_PER_TASK": "32"}
    script = shutil.copy(ROOT / "launch" / "slurm.sh", programs / "slurm_script")

    def call(*options):
        command, environment = ["bash", script, *options], os.environ | names
        return subprocess.run(command, cwd=programs, env=environment, capture_output=True, text=True, check=False)

    return call


def test_a_job_trains_in_one_step_with_all_processors_of_its_tasks(job, tmp_path):
    done = job(*RUN)
    assert done.returncode == 0, done.stderr
    assert stand_ins.calls(tmp_path / "slurm", "srun") == [["python", "-m", "dim_jax.train", *RUN]]
    assert (tmp_path / "trained").read_text() == " ".join(["32", *RUN]) + "\n"


def test_a_training_that_fails_fails_the_job_and_without_options_none_is_started(job, tmp_path):
    assert job("--config=wrong.py").returncode == 1
    (tmp_path / "trained").unlink()
    done = job()
    assert done.returncode == 2 and "usage: sbatch launch/slurm.sh" in done.stderr
    assert not (tmp_path / "trained").exists()
