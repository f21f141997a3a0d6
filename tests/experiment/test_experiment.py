"""A tiny experiment from images to its page: killed and resumed, extended, on two datasets, and bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.data import phantom
from dim_jax.reporting import report_files
from dim_jax.runs import files

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'experiment.py'}:test"
# Output of rendering the data, training a classifier, training a GAN, generating, selecting and finishing a run.
STAGES = (
    r"rendering tissue", r"train: \d+/8", r"discriminator loss", r"generate: ", r"selected \d+ of", r"done: fold 1",
)  # fmt: skip
# Paths, commands and times differ between equal experiments.
PLACES_AND_TIMES = ("data", "runs", "seconds_per_100_training_images", "seconds_per_test_image", "workdir", "folder")


def run(workdir, *more):
    return command_line.run(train.main, [CONFIG, f"--workdir={workdir}", *more])


def results_without_places_and_times(workdir):
    """The contents of results.json without paths and times."""

    def comparable(value):
        if isinstance(value, dict):
            return {key: comparable(item) for key, item in value.items() if key not in PLACES_AND_TIMES}
        return [comparable(item) for item in value] if isinstance(value, list) else value

    return comparable(files.read_json(workdir / "results.json"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("experiments") / "dim"
    assert run(workdir) == 0
    return workdir


def kill_at(pattern, workdir):
    """Starts the command and kills it as soon as its output matches `pattern`."""
    command = [sys.executable, "-m", "dim_jax.train", CONFIG, f"--workdir={workdir}"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if re.search(pattern, line):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert re.search(pattern, said[-1]), "".join(said)
    return process.returncode


def assert_resumes_after_kills(workdir, stages, finished):
    """Kills the experiment at the stages, and compares its results at the end with those of the finished one."""
    for stage in stages:
        assert kill_at(STAGES[stage], workdir) == -signal.SIGKILL
        assert not (workdir / "results.json").exists()
    assert run(workdir) == 0
    assert results_without_places_and_times(workdir) == results_without_places_and_times(finished)
    assert not list(workdir.rglob("*.tmp"))


def test_killed_in_its_last_fold_it_ends_with_the_same_results(finished, tmp_path):
    """The first fold is that of the finished experiment, as if it had been killed between the folds before."""
    workdir = shutil.copytree(finished, tmp_path / "killed")
    for path in (workdir / "results.json", workdir / "report.html"):
        path.unlink()
    for path in workdir.rglob("fold1"):
        shutil.rmtree(path)
    assert_resumes_after_kills(workdir, [2], finished)


def test_tasks_done_out_of_order_end_with_the_same_results(finished, tmp_path):
    """Tasks of the last fold: its generator's images first, which need a classifier; then those two again; then all."""
    workdir = shutil.copytree(finished, tmp_path / "tasks")
    for path in (workdir / "results.json", workdir / "report.html", *workdir.rglob("fold1")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(workdir, "--task=5") == 0  # images of gcgan
    judge = workdir / "phantom" / "fold1" / "runs" / "cross_entropy" / "seed0"
    selected = workdir / "phantom" / "fold1" / "gcgan" / "selected" / "selected.json"
    assert selected.is_file() and (judge / "best").is_dir() and not (workdir / "results.json").exists()
    for number in (4, 5, 0, 7):  # the judge, the images again, the data, the results with the run that is left
        assert run(workdir, f"--task={number}") == 0
    assert results_without_places_and_times(workdir) == results_without_places_and_times(finished)
    for path in sorted((finished / "phantom" / "predictions").rglob("*.npz")):
        with np.load(path) as before, np.load(workdir / path.relative_to(finished)) as after:
            for name in ("val_logits", "test_logits"):
                np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.slow
def test_killed_at_random_stages_it_ends_with_the_same_results(finished, tmp_path):
    stages = sorted(np.random.default_rng(20).choice(len(STAGES), 3, replace=False))
    assert_resumes_after_kills(tmp_path / "killed", stages, finished)


def test_the_page_leads_with_one_sentence_and_shows_what_it_rests_on(finished):
    page = (finished / "report.html").read_text()
    site = files.read_json(finished / "results.json")["sites"][0]
    (primary,) = [answer for answer in site["answers"] if answer["is_primary"]]
    assert primary["sentence"] in page
    assert page.index(primary["sentence"]) < page.index("All arms")
    for part in (
        "Differences in percentage points",
        "Recall per class",
        "Confusion matrices",
        "Calibration",
        "Images of gcgan",
    ):
        assert part in page
    assert "Results cover the test images of 2 of 3 folds only" in page
    selected = files.read_json(finished / "phantom" / "fold0" / "gcgan" / "selected" / "selected.json")["images"]
    # One image per selected one, and the sheet of closest pairs.
    assert selected and page.count("data:image/jpeg") == len(selected) + 1
    tables = {path.name for path in (finished / "report_data").rglob("*.csv")}
    assert {"scores.csv", "contrasts.csv", "selection_gcgan.csv"} <= tables
    assert report_files.write_report([finished]).read_text() == page  # equal files, equal page


def test_every_command_that_the_page_prints_says_what_it_did(finished, capsys):
    runs = files.read_json(finished / "results.json")["sites"][0]["runs"]
    assert len(runs) == 4 and all(record["finished"] for record in runs)
    commands = [command for record in runs for command in record["commands"]]
    assert any("dim_jax.generate" in command for command in commands)
    assert any("dim_jax.select" in command for command in commands)
    last = next(record for record in runs if record["arm"] == "dim")["commands"][-1]
    before = capsys.readouterr() and sorted((finished / "phantom").rglob("best"))
    assert command_line.run(train.main, last.split()[3:]) == 0  # goes through at once: the run is finished
    assert sorted((finished / "phantom").rglob("best")) == before


def test_running_it_again_trains_nothing(finished, capsys):
    before = results_without_places_and_times(finished)
    assert run(finished) == 0
    assert "train:" not in capsys.readouterr().err
    assert results_without_places_and_times(finished) == before


def test_another_arm_may_be_asked_for_later_and_another_network_may_not(finished, tmp_path, capsys):
    finished = shutil.copytree(finished, tmp_path / "dim")
    selection = finished / "phantom" / "fold0" / "gcgan" / "selected"
    shutil.rmtree(selection)
    only = "--config.only=cross_entropy,dim,copies_30,unselected_30"
    assert run(finished, only, "--config.folds=(0,)") == 0
    assert not selection.exists()  # neither finished runs nor unselected images need one
    site = files.read_json(finished / "results.json")["sites"][0]
    assert {arm["name"] for arm in site["arms"]} >= {"copies_30", "unselected_30", "logit_adjusted"}
    copies = next(arm for arm in site["arms"] if arm["name"] == "copies_30")
    assert copies["images_added"] == {"least": 30, "most": 30}
    train_images = {
        Path(entry["path"]).name for entry in files.read_json(finished / "phantom/fold0/copies.json")["images"]
    }
    manifest = files.read_json(finished / "phantom" / "data" / "manifest.json")["rows"]
    assignment = files.read_json(finished / "phantom" / "data" / "split.json")["folds"][0]["assignment"]
    part_of = {Path(row["path"]).name: part for row, part in zip(manifest, assignment, strict=True)}
    assert {part_of[name] for name in train_images} == {"train"}
    capsys.readouterr()
    assert run(finished, "--config.classifier.model.width=0.25") == 2
    assert "classifier.model.width: 0.125 there, 0.25 now" in capsys.readouterr().err


def test_archived_predictions_are_enough_to_continue_elsewhere(finished, tmp_path):
    """With only the archives in a new folder, the data are prepared again and nothing is trained."""
    elsewhere = tmp_path / "dim"
    for path in (finished / "phantom" / "predictions").rglob("*.npz"):
        files.write_bytes(elsewhere / path.relative_to(finished), path.read_bytes())
    assert run(elsewhere) == 0
    assert not (elsewhere / "phantom" / "fold0").exists()
    both = [results_without_places_and_times(folder)["sites"][0] for folder in (elsewhere, finished)]
    for name in ("cross_entropy", "dim"):
        first, second = (next(arm for arm in site["arms"] if arm["name"] == name) for site in both)
        assert first["confusion_matrix"] and first["seeds"] == second["seeds"]


def test_selected_images_are_enough_to_train_with_them_elsewhere(finished, tmp_path):
    """Neither the GAN nor the rest of its pool is needed, nor the network that judged it."""
    source, elsewhere = finished / "phantom", tmp_path / "dim" / "phantom"
    selected = source / "fold0" / "gcgan" / "selected" / "selected.json"
    shared = [source / "predictions" / "fold0" / "cross_entropy" / "seed0.npz", selected]
    listed = files.read_json(selected)["images"]
    shared += [Path(os.path.normpath(selected.parent / entry["path"])) for entry in listed]
    for path in shared:
        files.write_bytes(elsewhere / path.relative_to(source), path.read_bytes())
    assert run(tmp_path / "dim", "--config.folds=(0,)") == 0
    made = files.read_json(tmp_path / "dim" / "results.json")["sites"][0]
    assert next(arm for arm in made["arms"] if arm["name"] == "dim")["images_added"]["most"] == min(30, len(listed))
    assert not (elsewhere / "fold0" / "gcgan" / "runs").exists()
    assert not (elsewhere / "fold0" / "runs" / "cross_entropy").exists()


def test_a_dry_run_prints_runs_time_and_disk_and_writes_nothing(tmp_path, capsys):
    assert run(tmp_path / "dim", "--dry-run", "--config.only=cross_entropy") == 0
    output = capsys.readouterr().out
    assert re.search(r"2 classifiers \(lrf_cnn, 64 px, cross_entropy\): about \S+ .*MiB of checkpoints", output)
    assert "in all, one after another: about" in output
    assert not list(tmp_path.iterdir())


def test_several_datasets_are_one_experiment_each_and_one_page(tmp_path, monkeypatch):
    folders = []
    for number, haematoxylin in enumerate((phantom.HAEMATOXYLIN, (0.5, 0.6, 0.62))):
        monkeypatch.setattr(phantom, "HAEMATOXYLIN", haematoxylin)
        folders.append(tmp_path / f"hospital_{number}")
        phantom.write(folders[-1], 32, 0.06, seed=number)
    workdir = tmp_path / "dim"
    more = [
        f"--config.data.path={folders[0]}", f"--config.data.more=({str(folders[1])!r},)", "--config.only=cross_entropy",
        r"--config.data.group_regex=([^/]+)_\d+\.png$", "--config.classifier.data.image_size=32", "--config.folds=(0,)",
    ]  # fmt: skip
    assert run(workdir, *more) == 0
    sites = files.read_json(workdir / "results.json")["sites"]
    assert [site["name"] for site in sites] == ["hospital_0", "hospital_1"]
    statistics = [
        json.loads((workdir / site["name"] / "data" / "split.json").read_text())["folds"][0]["mean"] for site in sites
    ]
    assert not np.allclose(*statistics, atol=0.02)  # other stains
    page = (workdir / "report.html").read_text()
    assert page.index(">hospital_0</h2>") < page.index(">hospital_1</h2>")


@pytest.mark.parametrize("more, message", [
    (["--config.data.path="], "config.data.path is empty"),
    (["--config.data.path=nowhere"], "nowhere: no such folder"),
    (["--config.data.folds=2"], "config.data.folds=2 must be a whole number from 3"),
    (["--config.folds=(7,)"], "config.folds names fold 7; there are folds 0 to 2"),
    (["--config.seeds=(0,0)"], "must be different integers"),
    (["--config.seeds=()"], "at least one"),
    (["--config.minority_share=0"], "config.minority_share=0.0 must be a number above 0"),
    (["--config.only=dimm"], "config.only names 'dimm'"),
    (["--config.arms.dim.set.loss.name=fafll"], "config.loss.name='fafll' is not a loss"),
    (["--config.metric=f1"], "config.metric='f1'"),
    (["--profile=5"], "--profile=5 is for one run"),
])  # fmt: skip
def test_bad_input_is_one_line_exit_two_and_nothing_written(tmp_path, capsys, more, message):
    assert run(tmp_path / "dim", *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "dim").exists()
