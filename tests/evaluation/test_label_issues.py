"""Labels that look wrong: planted ones are found in the pooled predictions of several runs."""

import dataclasses

import numpy as np
import pytest
from report_runs import Page, links

from dim_jax import label_issues as command
from dim_jax.cli import command_line
from dim_jax.data import manifest as manifests
from dim_jax.data import phantom, splits, tables
from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.label_issues import find_label_issues
from dim_jax.evaluation.out_of_fold import pool_runs
from dim_jax.reporting import label_issues_page
from dim_jax.runs import files

FOLDS = 3


@pytest.fixture(scope="module")
def flipped():
    """The phantom's images with 5 % of the labels changed, logits of a stand-in for a network, and what was changed.

    The stand-in sees the grade, as far as the case and the field show it, so that it mistakes neighbouring classes.
    """
    rng = np.random.default_rng(0)
    images = phantom.plan(scale=1.0, seed=0)
    truth = np.array([phantom.CLASSES.index(image.label) for image in images])
    cases = np.unique([image.case for image in images], return_inverse=True)[1]
    grade = truth + rng.normal(0, 0.25, cases.max() + 1)[cases] + rng.normal(0, 0.25, len(truth))
    logits = -3 * (grade[:, None] - np.arange(5)) ** 2 + np.log(np.bincount(truth) / len(truth))
    changed = rng.choice(len(truth), len(truth) // 20, replace=False)
    labels = truth.copy()
    labels[changed] = (labels[changed] + rng.integers(1, 5, len(changed))) % 5
    return images, labels, logits, set(changed.tolist())


def test_most_of_the_flipped_labels_are_found_and_come_first(flipped):
    _, labels, logits, changed = flipped
    issues = find_label_issues(labels, probabilities(logits))
    places = issues.places.tolist()
    assert len(changed & set(places)) > 0.8 * len(changed) and len(places) < 1.5 * len(changed)
    first = set(places[: len(changed)])
    assert len(changed & first) > 0.7 * len(changed)
    assert (np.diff(issues.confidence[issues.places]) >= 0).all()
    assert (issues.suggested[issues.places] != labels[issues.places]).all()


def test_perfect_predictions_find_nothing_and_the_joint_counts_every_confident_image():
    labels = np.repeat([0, 1, 2], (2, 10, 30))
    certain = find_label_issues(labels, np.eye(3)[labels])
    assert not len(certain.places) and certain.joint.tolist() == np.diag([2, 10, 30]).tolist()
    # The only image with label 3 of 4 is predicted as 2; a class without images is never suggested.
    shares = np.full((43, 5), 0.01)
    shares[np.arange(43), [*labels, 2]] = 0.96
    one = find_label_issues(np.array([*labels, 3]), shares)
    assert one.places.tolist() == [42] and one.suggested[42] == 2 and np.isnan(one.thresholds[4])
    assert one.joint[3, 2] == 1 and one.joint.sum() == 43


def test_a_class_that_the_network_is_unsure_of_needs_less_confidence():
    labels = np.array([0] * 10 + [1] * 10)
    shares = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    shares[0] = (0.55, 0.45)  # more like class 1 than images of class 1 are, though class 0 is the most probable
    assert find_label_issues(labels, shares).places.tolist() == [0]


@pytest.fixture(scope="module")
def runs(flipped, tmp_path_factory):
    """A run for each of three folds, with stored test predictions."""
    images, labels, logits, _ = flipped
    folder = tmp_path_factory.mktemp("runs")
    rows = [
        manifests.Row(image.path, phantom.CLASSES[label], image.case, str(at), 8, 8)
        for at, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    manifest = manifests.Manifest(folder / "images", phantom.CLASSES, tuple(rows))
    part = splits.units_of([row.group for row in rows], np.zeros((0, 2), int)) % FOLDS
    folds = [np.array(["test", "val", "train"])[(part - fold) % FOLDS] for fold in range(FOLDS)]
    split = splits.Split("kfold", 0, tuple(splits.Fold(tuple(fold), (0.5,) * 3, (0.2,) * 3) for fold in folds))
    for fold in range(FOLDS):
        run = folder / f"fold{fold}"
        files.write_json(run / "config.json", {"trainer": "classifier", "data": {"fold": fold}})
        manifests.save(manifest, run)
        splits.save(split, manifest, run)
        test = split.rows(fold, "test")[::-1]
        (run / "eval" / "test").mkdir(parents=True)
        np.savez(run / "eval" / "test" / "predictions.npz", index=test, logits=logits[test].astype(np.float32))
    return [folder / f"fold{fold}" for fold in range(FOLDS)]


def call(*arguments):
    return command_line.run(command.main, [str(argument) for argument in arguments])


def test_runs_of_all_folds_judge_every_image_and_several_seeds_are_averaged(runs, flipped):
    _, _, logits, _ = flipped
    pooled = pool_runs(runs)
    np.testing.assert_array_equal(pooled.rows, np.arange(len(logits)))
    np.testing.assert_allclose(pooled.probability, probabilities(logits), atol=1e-5)
    twice = pool_runs([*runs, runs[0]])
    assert set(twice.num_models.tolist()) == {1, 2}
    np.testing.assert_allclose(twice.probability, pooled.probability)
    assert len(pool_runs(runs[:1]).rows) < len(logits) / 2


def test_the_command_writes_pictures_and_a_table_that_prepare_takes(runs, flipped, tmp_path, capsys):
    images, labels, logits, _ = flipped
    issues, out = find_label_issues(labels, probabilities(logits.astype(np.float32))), tmp_path / "out"
    assert call(*runs, f"--out={out}") == 0
    assert f"{len(issues.places)} of {len(labels)} labels look wrong" in capsys.readouterr().out
    assert tables.read_paths(out / "label_issues.csv") == [images[place].path for place in issues.places]
    html = (out / "label_issues.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "image file not found" in page.text and "Networks are wrong too" in page.text
    assert len(next(iter(links(html).values()))) == 1 + len(issues.places)
    assert "weak network" not in page.text
    assert call(*runs[:1], f"--out={out}") == 0  # replaces what it wrote
    assert "are in no test part of these runs" in capsys.readouterr().out
    first, *lines = (out / "label_issues.csv").read_text().splitlines()
    edited = "\n".join([first, *lines[1:], ""])
    (out / "label_issues.csv").write_text(edited)  # without a line, for --exclude-list
    assert call(*runs, f"--out={out}") == 2
    assert "would overwrite" in capsys.readouterr().err and (out / "label_issues.csv").read_text() == edited


def test_what_cannot_be_judged_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "label_issues.csv").write_text("path,label\n")
    unevaluated = tmp_path / "run"
    files.write_json(unevaluated / "config.json", {"trainer": "classifier", "data": {"fold": 0}})
    for name in ("manifest.json", "split.json"):
        (unevaluated / name).write_bytes((runs[0] / name).read_bytes())
    cases = [
        (call(tmp_path / "none", f"--out={tmp_path / 'x'}"), "holds no run"),
        (call(unevaluated, f"--out={tmp_path / 'x'}"), "dim_jax.evaluate --workdir="),
        (call(runs[0], "--arm=dim", f"--out={tmp_path / 'x'}"), "--arm=dim is of an experiment"),
        (call(runs[0], f"--out={runs[0] / 'config.json'}"), "is a file"),
        (call(runs[0], f"--out={tmp_path / 'mine'}"), "no earlier call of this command listed"),
    ]
    errors = capsys.readouterr().err.splitlines()
    assert [code for code, _ in cases] == [2] * len(cases) == [2] * len(errors)
    for line, (_, words) in zip(errors, cases, strict=True):
        assert words in line
    assert not (tmp_path / "x").exists()


def test_a_network_that_disagrees_with_most_labels_is_doubted_itself(runs):
    pooled = pool_runs(runs)
    guess = dataclasses.replace(pooled, probability=np.random.default_rng(0).dirichlet(np.ones(5), len(pooled.rows)))
    issues = find_label_issues(pooled.manifest.labels[pooled.rows], guess.probability)
    assert "sign of a weak network" in label_issues_page.summary(guess, issues)
