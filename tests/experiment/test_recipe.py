"""The tiny recipe experiment: a choice, an ensemble, a run that starts from another one, and what comes out of it."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.evaluation.ensembles import open_classifier
from dim_jax.runs import files

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'experiment.py'}:recipe,test"


def run(workdir, *more):
    return command_line.run(train.main, [CONFIG, f"--workdir={workdir}", *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("recipes") / "recipe"
    assert run(workdir) == 0
    return workdir


def test_the_page_says_what_to_train_and_the_ensemble_is_ready(finished):
    site = files.read_json(finished / "results.json")["sites"][0]
    entries = {entry["name"]: entry for entry in site["arms"]}
    assert set(entries) == {f"{name}{kind}" for name in ("base", "crt", "chosen", "ensemble")
                            for kind in ("", "_adjusted")}  # fmt: skip
    assert all(record["finished"] for record in site["runs"]) and len(site["runs"]) == 4
    assert [sorted(titles) for titles in entries["ensemble"]["made_of"]] == [["fine-tuned Lite0", "new head"]] * 2
    page = (finished / "report.html").read_text()
    assert "Train this: ensemble, adjusted" in page and page.index("Train this") < page.index("All arms")
    assert "2 of 3 folds only" in page
    members = open_classifier(finished / "phantom" / "recommended").members
    assert {member.workdir.parent.name for member in members} == {"base", "crt"}
    with np.load(finished / "phantom" / "recommended" / "eval" / "test" / "predictions.npz") as predictions:
        assert np.isfinite(predictions["logits"]).all()
    # A new head on frozen layers.
    config = files.read_json(finished / "phantom" / "fold1" / "runs" / "crt" / "seed0" / "config.json")
    assert config["train"]["initial_weights"].endswith("fold1/runs/base/seed0")


def with_archives_alone(finished, workdir):
    for path in (finished / "phantom" / "predictions").rglob("*.npz"):
        files.write_bytes(workdir / path.relative_to(finished), path.read_bytes())
    return workdir


def test_archives_alone_are_enough_to_continue(finished, tmp_path):
    elsewhere = with_archives_alone(finished, tmp_path / "recipe")
    assert run(elsewhere) == 0
    assert not (elsewhere / "phantom" / "fold0").exists()
    both = [files.read_json(folder / "results.json")["sites"][0] for folder in (elsewhere, finished)]
    assert both[0]["arms"] == both[1]["arms"] and both[0]["recommended"]["command"] is None
    assert "only their predictions" in (elsewhere / "report.html").read_text()


@pytest.mark.slow
def test_a_missing_base_is_trained_again_for_what_starts_from_it(finished, tmp_path):
    elsewhere = with_archives_alone(finished, tmp_path / "recipe")
    archive = elsewhere / "phantom" / "predictions" / "fold0" / "crt" / "seed0.npz"
    archive.unlink()
    assert run(elsewhere, "--config.folds=(0,)") == 0
    assert (elsewhere / "phantom" / "fold0" / "runs" / "base" / "seed0" / "best").is_dir()
    with np.load(archive) as made, np.load(finished / archive.relative_to(elsewhere)) as before:
        np.testing.assert_array_equal(made["test_logits"], before["test_logits"])


@pytest.mark.slow
def test_two_processes_share_the_runs_of_one_experiment(finished, tmp_path):
    """The runs of the second fold are to be made; what each process makes, the other one takes."""
    workdir = tmp_path / "recipe"
    shutil.copytree(finished, workdir)
    for name in ("base", "crt"):
        (workdir / "phantom" / "predictions" / "fold1" / name / "seed0.npz").unlink()
        shutil.rmtree(workdir / "phantom" / "fold1" / "runs" / name)
    before = files.read_json(workdir / "results.json")["sites"][0]["arms"]
    (workdir / "results.json").unlink()
    command = [sys.executable, "-m", "dim_jax.train", CONFIG, f"--workdir={workdir}"]
    lanes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [lane.communicate() for lane in lanes]
    assert [lane.returncode for lane in lanes] == [0, 0], outputs
    log = (workdir / "run.log").read_text()
    for name in ("base", "crt"):
        assert log.count(f"working on {workdir}/phantom/fold1/runs/{name}/seed0") == 1
    after = files.read_json(workdir / "results.json")["sites"][0]["arms"]
    assert [entry["confusion_matrix"] for entry in after] == [entry["confusion_matrix"] for entry in before]
