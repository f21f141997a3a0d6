"""launch/tpu_pod.sh with a stand-in for gcloud, which records its calls and runs commands of slices here."""

import subprocess
from pathlib import Path

import pytest
import stand_ins

ROOT = Path(__file__).parents[2]
SLICE = ("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot")
RUN = ("--config=configs/classifier.py", "--config.data.path=/mnt/data set", "--workdir=/mnt/runs/a")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """The folder of the stand-in. On its slices `train` writes its arguments, and `report` a page."""
    folder = tmp_path / "cloud"
    stand_ins.write(folder, gcloud=stand_ins.GCLOUD)
    report = 'mkdir -p "$3/checkpoints" && echo page > "$3/report.html"; exit'
    # Where there is a file `preempt`, the slice goes away in the middle of the run; with a file `fail`, the run fails.
    train = f"""echo "${{@:3}}" >> {folder}/trained
        if [ -e {folder}/preempt ]; then rm {folder}/preempt {folder}/node; echo SUSPENDED > {folder}/queue; fi
        [ ! -e {folder}/fail ] || exit 2; exit 0"""
    stand_ins.write_python(tmp_path / "python", **{"dim_jax.train": train, "dim_jax.report": report})
    monkeypatch.setenv("PATH", stand_ins.path_with(folder))
    monkeypatch.setenv("PYTHON", str(tmp_path / "python" / "bin" / "python"))
    monkeypatch.setenv("POLL", "0")
    monkeypatch.delenv("VENV", raising=False)  # of this machine, which a slice does not know
    return folder


def pod(*arguments):
    command = ["bash", str(ROOT / "launch" / "tpu_pod.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def verbs(folder):
    """What gcloud was asked for, but for looks at states."""
    asked = [(arguments[2], arguments[3]) for arguments in stand_ins.calls(folder, "gcloud")]
    return [verb if group == "tpu-vm" else f"queue {verb}" for group, verb in asked if verb != "describe"]


def test_three_commands_from_no_slice_to_a_report_and_back(cloud, tmp_path):
    done = pod("train", "pod", "zone-a", *SLICE, "--", *RUN)
    assert done.returncode == 0, done.stderr
    assert verbs(cloud) == ["queue create", "scp", "ssh", "ssh"]
    created = next(arguments for arguments in stand_ins.calls(cloud, "gcloud") if "create" in arguments)
    assert created[4:] == ["pod", "--node-id=pod", *SLICE, "--zone=zone-a"]
    installed, trained = (arguments for arguments in stand_ins.calls(cloud, "gcloud") if arguments[3] == "ssh")
    assert "--worker=all" in installed and "--worker=all" in trained
    assert (cloud / "slice" / "dim_jax" / "dim_jax" / "train.py").is_file()
    assert (cloud / "trained").read_text() == " ".join(RUN) + "\n"

    run = cloud / "slice" / "dim_jax" / "runs" / "a b"
    run.mkdir(parents=True)
    fetched = pod("fetch", "pod", "zone-a", "runs/a b", tmp_path / "fetched")
    assert fetched.returncode == 0, fetched.stderr
    page = tmp_path / "fetched" / "a b" / "report.html"
    assert page.read_text() == "page\n" and not (page.parent / "checkpoints").exists()
    assert fetched.stdout == f"report: {page}\n"

    assert pod("delete", "pod", "zone-a").returncode == 0
    assert verbs(cloud)[-1] == "queue delete" and not (cloud / "node").exists()


def test_a_slice_that_is_preempted_is_requested_again_and_the_run_goes_on(cloud):
    (cloud / "preempt").touch()
    done = pod("train", "pod", "zone-a", *SLICE, "--", *RUN)
    assert done.returncode == 0 and "was preempted" in done.stderr
    of_a_slice = ["queue create", "scp", "ssh", "ssh"]
    assert verbs(cloud) == [*of_a_slice, "queue delete", *of_a_slice]
    assert (cloud / "trained").read_text() == 2 * (" ".join(RUN) + "\n")


def test_the_same_command_goes_on_after_it_was_stopped_before_or_after_a_preemption(cloud):
    """Whatever state the slice is in, the command ends with a trained run; a slice that is there is used."""
    command = ["train", "pod", "zone-a", *SLICE, "--", *RUN]
    (cloud / "queue").write_text("PROVISIONING")
    assert pod(*command).returncode == 0 and verbs(cloud) == ["scp", "ssh", "ssh"]
    assert pod(*command).returncode == 0 and verbs(cloud) == ["scp", "ssh", "ssh"] * 2
    (cloud / "node").write_text("PREEMPTED")
    assert pod(*command).returncode == 0 and verbs(cloud)[6:] == ["queue delete", "queue create", "scp", "ssh", "ssh"]


def test_a_request_that_failed_is_an_error_and_is_not_repeated(cloud):
    (cloud / "queue").write_text("FAILED")
    done = pod("train", "pod", "zone-a", *SLICE, "--", *RUN)
    assert done.returncode == 1 and "error: the request for pod failed" in done.stderr
    assert verbs(cloud) == []


def test_a_run_that_fails_on_a_slice_that_is_there_is_not_repeated(cloud):
    (cloud / "fail").touch()
    done = pod("train", "pod", "zone-a", *SLICE, "--", *RUN)
    assert done.returncode == 2 and verbs(cloud) == ["queue create", "scp", "ssh", "ssh"]


@pytest.mark.parametrize("arguments", [(), ("train", "pod"), ("train", "pod", "zone-a", "--spot"), ("go", "pod", "z")])
def test_other_arguments_print_the_usage_and_ask_for_nothing(cloud, arguments):
    done = pod(*arguments)
    assert done.returncode == 2 and "launch/tpu_pod.sh train NAME ZONE" in done.stderr
    assert not stand_ins.calls(cloud, "gcloud")
