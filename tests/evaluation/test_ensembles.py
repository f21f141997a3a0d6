"""Ensembles: one member is that member, several are their mean, and what cannot be averaged is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
from published_weights import small_state_dict
from torch_pickles import write_state_dict

from dim_jax import ensemble, evaluate, predict, train
from dim_jax.cli import command_line
from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from dim_jax.data.dataset import open_dataset
from dim_jax.evaluation.adjustment import fit_adjustment
from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.ensembles import make_ensemble
from dim_jax.interop import convert
from dim_jax.reporting import report_files
from dim_jax.runs import files
from dim_jax.training import checkpoints, loop

TIMES = {"training_seconds_per_100_images", "test_seconds_per_image", "evaluation_seconds", "grad_cam_check"}


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two imported runs of different image sizes, and a folder for more."""
    folder = tmp_path_factory.mktemp("runs")
    classes = ",".join(open_dataset(data).classes)
    for name, size in (("a", 32), ("b", 48)):
        path = write_state_dict(folder / f"{name}.pth", small_state_dict(step=size))
        arguments = [str(path), f"--out={folder / name}", f"--data={data}", f"--classes={classes}"]
        assert command_line.run(convert.main, [*arguments, f"--image-size={size}"]) == 0
    return folder


@pytest.fixture(scope="module")
def both(runs):
    assert command_line.run(ensemble.main, [str(runs / "a"), str(runs / "b"), f"--out={runs / 'all'}"]) == 0
    return runs / "all"


def logits_of(run, split="test"):
    return np.load(run / "eval" / split / "predictions.npz")["logits"]


def metrics_of(run, split="test"):
    metrics = files.read_json(run / "eval" / split / "metrics.json")
    return {name: value for name, value in metrics.items() if name not in TIMES}


def error_of(capsys, main, *arguments):
    assert command_line.run(main, [str(argument) for argument in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_the_card_of_an_ensemble_names_its_members_and_has_its_scores(both):
    card, metrics = (files.read_json(both / name) for name in ("card.json", "eval/test/metrics.json"))
    assert len(card["sections"]["Model"]["facts"]["members"]) == 2 and card["kind"] == "ensemble"
    row = card["sections"]["Scores"]["tables"]["All classes"][0]
    assert row["macro_f1"]["value"] == metrics["intervals"]["plain"]["scores"]["macro_f1"]["value"]


def test_an_ensemble_averages_the_probabilities_of_its_members(both, runs, data):
    for split in ("val", "test"):
        expected = np.mean([probabilities(logits_of(runs / name, split)) for name in "ab"], axis=0)
        np.testing.assert_allclose(probabilities(logits_of(both, split)), expected, atol=1e-6)
    metrics, dataset = metrics_of(both), open_dataset(data)
    assert metrics["checkpoint_step"] == 48 and metrics["views"] == 2
    labels = dataset.labels[dataset.rows("val")]
    chosen = fit_adjustment(logits_of(both, "val"), labels, np.bincount(dataset.labels[dataset.rows("train")]))
    assert metrics["adjusted"]["adjustment"]["tau"] == chosen.tau
    assert metrics["adjusted"]["adjustment"]["temperature"] == chosen.temperature


def test_an_ensemble_of_one_is_that_run(both, runs):
    assert command_line.run(ensemble.main, [str(runs / "a"), f"--out={runs / 'one'}"]) == 0
    for split in ("val", "test"):
        np.testing.assert_array_equal(logits_of(runs / "one", split), logits_of(runs / "a", split))
        assert metrics_of(runs / "one", split) == metrics_of(runs / "a", split)


def test_an_ensemble_predicts_evaluates_and_is_reported_like_a_run(both, runs, data, tmp_path, capsys):
    evaluated, dataset = np.load(both / "eval" / "val" / "predictions.npz"), open_dataset(data)
    image = dataset.file(int(evaluated["index"][0]))
    arguments = [f"--workdir={both}", str(image), f"--out={tmp_path / 'out'}", "--adjust", "--coverage=0.8"]
    assert command_line.run(predict.main, arguments) == 0
    record = files.read_json(tmp_path / "out" / "predictions.json")
    adjustment = metrics_of(both, "val")["adjusted"]["adjustment"]
    assert [entry["image_size"] for entry in record["preprocessing"]] == [32, 48]
    assert record["adjustment"] == adjustment and record["images"][0]["overlay"] == ""
    chosen = fit_adjustment(evaluated["logits"], evaluated["label"], np.array(adjustment["class_counts"]))
    expected = probabilities(chosen(evaluated["logits"][0], np.array(adjustment["class_counts"])))
    np.testing.assert_allclose(list(record["images"][0]["probabilities"].values()), expected, atol=0.01)
    before = metrics_of(both)
    assert command_line.run(evaluate.main, [f"--workdir={both}", "--split=test"]) == 0
    assert metrics_of(both) == before
    page = report_files.render_report([both])
    assert "mean of the probabilities of 2 runs" in page and "test, adjusted" in page


def test_what_is_no_ensemble_is_refused(both, runs, data, tmp_path, capsys):
    assert "given twice" in error_of(capsys, ensemble.main, runs / "a", runs / "a", f"--out={tmp_path / 'x'}")
    assert "is an ensemble" in error_of(capsys, ensemble.main, both, runs / "a", f"--out={tmp_path / 'x'}")
    assert "holds no ensemble" in error_of(capsys, ensemble.main, runs / "a", f"--out={runs / 'b'}")
    assert "is a file" in error_of(capsys, ensemble.main, runs / "a", f"--out={runs / 'a.pth'}")
    assert "train its members" in error_of(capsys, train.main, f"--workdir={both}")
    assert "drop --checkpoint" in error_of(capsys, evaluate.main, f"--workdir={both}", "--checkpoint=newest")
    other = tmp_path / "other"
    shutil.copytree(runs / "b", other)
    split = splits.load(other, manifests.load(other))
    turned = dataclasses.replace(split.folds[0], assignment=split.folds[0].assignment[::-1])
    splits.save(dataclasses.replace(split, folds=(turned,)), manifests.load(other), other)
    assert "was trained on another split" in error_of(
        capsys, ensemble.main, runs / "a", other, f"--out={tmp_path / 'x'}"
    )
    assert not (tmp_path / "x").exists()


def test_a_member_that_was_trained_further_is_noticed(runs, tmp_path, capsys):
    for name in "ab":
        shutil.copytree(runs / name, tmp_path / name)
    make_ensemble([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a", "b", "all"):
        (tmp_path / name).rename(moved / name)  # members are named relative to the ensemble
    state = checkpoints.restore(moved / "a" / loop.BEST).state
    checkpoints.save(moved / "a" / loop.BEST, 99, state, {"best": None}, keep=1)
    line = error_of(capsys, evaluate.main, f"--workdir={moved / 'all'}")
    assert "was made of step 32" in line and "is now of step 99; make it again" in line
    files.write_json(moved / "all" / "config.json", {"trainer": "ensemble", "members": [3]})
    assert "must list the runs" in error_of(capsys, evaluate.main, f"--workdir={moved / 'all'}")
