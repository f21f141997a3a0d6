"""Experiments on grids: launch/slurm_array.sh with stand-ins for SLURM's programs, launch/ray_grid.py on two nodes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import stand_ins

from dim_jax.runs import files

ROOT = Path(__file__).parents[2]
EXPERIMENT = f"--config={ROOT / 'configs' / 'experiment.py'}:test"
RECIPE = (f"--config={ROOT / 'configs' / 'experiment.py'}:recipe,test", "--config.folds=(0,)", "--config.seeds=(0, 1)")
# Paths, commands and times differ between equal experiments.
PLACES_AND_TIMES = ("data", "runs", "seconds_per_100_training_images", "seconds_per_test_image", "workdir", "folder")


def comparable(value):
    """Results without places and times."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if key not in (*PLACES_AND_TIMES, "command")}
    return [comparable(item) for item in value] if isinstance(value, list) else value


def assert_equal(workdir, other):
    """The predictions of all runs are equal bit for bit, and so are the results."""
    paths = [sorted(path.relative_to(folder) for path in folder.rglob("seed*.npz")) for folder in (workdir, other)]
    assert paths[0] == paths[1] and paths[0]
    for path in paths[0]:
        with np.load(workdir / path) as one, np.load(other / path) as two:
            for name in ("val_rows", "val_logits", "test_rows", "test_logits"):
                np.testing.assert_array_equal(one[name], two[name], err_msg=str(path))
    one, two = (comparable(files.read_json(folder / "results.json")) for folder in (workdir, other))
    assert one == two


def train(workdir, *options):
    """Runs the whole experiment in one process."""
    command = [sys.executable, "-m", "dim_jax.train", *options, f"--workdir={workdir}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return workdir


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


@pytest.mark.slow
def test_on_slurm_an_experiment_ends_as_on_one_machine(slurm, tmp_path, monkeypatch):
    """Every task is a process of its own; one gets SIGTERM in the middle and is queued again."""
    alone = train(tmp_path / "alone", EXPERIMENT)
    stand_ins.write_python(tmp_path / "venv")
    workdir = tmp_path / "dim"
    monkeypatch.setenv("STOP_AT", str(workdir / "phantom" / "fold0" / "gcgan" / "runs" / "all" / "config.json"))
    done = submit("--", EXPERIMENT, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    logs = {path.name: path.read_text() for path in slurm.glob("*.log")}
    assert [path.read_text() for path in slurm.glob("*.code")] == ["0"] * 5, logs
    assert stand_ins.calls(slurm, "scontrol") == [["requeue", "102_2"]], logs
    assert_equal(workdir, alone)


@pytest.mark.slow
def test_on_ray_an_experiment_ends_as_on_one_machine_though_a_node_is_killed(tmp_path, monkeypatch):
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is optional")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    alone, workdir = train(tmp_path / "alone", *RECIPE), tmp_path / "recipe"
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    log = tmp_path / "ray.log"
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        options = [f"--address={cluster.address}", "--num-cpus=1", "--", *RECIPE, f"--workdir={workdir}"]
        with log.open("w") as output:
            command = [sys.executable, str(ROOT / "launch" / "ray_grid.py"), *options]
            driver = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            killed, process = run_in_progress(second, workdir, driver)
            cluster.remove_node(second, allow_graceful=False)
            with contextlib.suppress(ProcessLookupError):  # it may have ended with its node's manager
                os.kill(process, signal.SIGKILL)
            code = driver.wait(timeout=1200)
        finally:
            driver.kill()
    finally:
        cluster.shutdown()
    assert code == 0, log.read_text()
    # It was started again on the other node.
    assert (workdir / "run.log").read_text().count(f"working on {killed}") >= 2
    assert_equal(workdir, alone)


def run_in_progress(node, workdir, driver):
    """Waits until a node trains a run that is not finished yet, and returns the folder of the run and its process."""
    (raylet,) = (process.process.pid for process in node.all_processes["raylet"])
    while driver.poll() is None:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int(re.search(r"^PPid:\s+(\d+)", (path / "status").read_text(), re.M)[1])
                title = (path / "cmdline").read_text().strip("\0 ")
            except OSError:
                continue
            match = re.search(r"ray::run (\w+) (fold\d) (\w+) (seed\d)", title)
            if parent == raylet and match:
                site, fold, arm, seed = match.groups()
                folder = workdir / site / fold / "runs" / arm / seed
                if (folder / "config.json").is_file() and not (folder / "eval").exists():
                    return folder, int(path.name)
        time.sleep(0.1)
    raise AssertionError("no run was found on the second node")
