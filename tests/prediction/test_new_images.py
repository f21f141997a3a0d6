"""Classification of new images: output files, abstention, unreadable files and errors."""

import csv
import dataclasses
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_inputs.corpus import tissue
from PIL import Image
from published_weights import SMALL, small_state_dict
from torch_pickles import write_state_dict

from dim_jax import predict
from dim_jax.cli import command_line
from dim_jax.data.dataset import open_dataset
from dim_jax.evaluation import adjustment, calibration, costs, split_evaluation, validation
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.evaluation.predictor import make_predictor
from dim_jax.interop import convert
from dim_jax.prediction import output_files
from dim_jax.prediction.folder_images import FolderImages
from dim_jax.runs import files
from dim_jax.training import checkpoints, loop


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """An imported run, evaluated on validation images."""
    folder = tmp_path_factory.mktemp("runs")
    path = write_state_dict(folder / "model.pth", small_state_dict())
    classes = ",".join(open_dataset(data).classes)
    arguments = [str(path), f"--out={folder / 'a'}", f"--data={data}", f"--classes={classes}", "--image-size=32"]
    assert command_line.run(convert.main, arguments) == 0
    split_evaluation.evaluate_split(folder / "a", "val")
    return folder / "a"


@pytest.fixture(scope="module")
def images(data, tmp_path_factory):
    """Seven images of the data in folders, three unreadable image files, a text file and a hidden file."""
    root = tmp_path_factory.mktemp("images") / "new"
    dataset = open_dataset(data)
    for row in dataset.rows("val")[:7]:
        target = root / dataset.classes[dataset.labels[row]] / f"{row}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.file(row), target)
    (root / "empty.png").write_bytes(b"")
    (root / "page.jpg").write_bytes(b"<html>")
    whole = next(root.rglob("*/*.png")).read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_bytes(whole)
    return root


def call(run, images, out, *options):
    return command_line.run(predict.main, [f"--workdir={run}", str(images), f"--out={out}", *options])


def read_predictions(out):
    return json.loads((out / "predictions.json").read_text())


def error_line(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture(scope="module")
def predicted(run, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("predictions") / "out"
    assert call(run, images, out, "--overlays=3", "--batch-size=8") == 0
    return out


def test_every_file_has_a_line_that_agrees_with_the_evaluation(predicted, run, data, images):
    predictions = read_predictions(predicted)
    assert "not a medical device" in predictions["notice"] and predictions["checkpoint_step"] == 7
    assert predictions["files_passed_over"] == 1 and predictions["preprocessing"]["image_size"] == 32
    lines = {Path(line["path"]).relative_to(images).as_posix(): line for line in predictions["images"]}
    assert len(lines) == 10
    assert {name for name, line in lines.items() if line["status"] == "unreadable"} == {
        "empty.png", "page.jpg", "cut.png",
    }  # fmt: skip
    assert "empty" in lines["empty.png"]["reason"] and "known kind" in lines["page.jpg"]["reason"]
    evaluated, dataset = np.load(run / "eval" / "val" / "predictions.npz"), open_dataset(data)
    expected = dict(zip(evaluated["index"].tolist(), calibration.probabilities(evaluated["logits"]), strict=True))
    for name, line in lines.items():
        if line["status"] == "answered":
            shares = np.array([line["probabilities"][class_name] for class_name in dataset.classes])
            # The run evaluates through TensorFlow's decoder, which is within one grey level of Pillow's.
            np.testing.assert_allclose(shares, expected[int(Path(name).stem)], atol=5e-3)
            assert line["predicted"] == dataset.classes[shares.argmax()] and line["confidence"] == shares.max()


def test_the_csv_agrees_with_the_json(predicted):
    with (predicted / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = read_predictions(predicted)["images"]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        assert row["status"] == line["status"] and row["reason"] == line.get("reason", "")
        for name, share in line.get("probabilities", {}).items():
            assert float(row[f"probability {name}"]) == pytest.approx(share, abs=1e-6)


def test_doubtful_images_are_marked(run, images, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    Image.new("RGB", (40, 40), "white").save(folder / "blank.png")
    Image.fromarray(tissue(3, 40)[..., 0].astype(np.uint16) * 16).save(folder / "deep.png")
    assert call(run, folder, tmp_path / "out", "--overlays=0") == 0
    doubts = {"blank.png": "one colour", "deep.png": "12 of 16 bits, by its largest value"}
    lines = {Path(line["path"]).name: line for line in read_predictions(tmp_path / "out")["images"]}
    assert {name: line["doubt"] for name, line in lines.items() if line.get("doubt")} == doubts
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert {Path(row["path"]).name: row["doubt"] for row in csv.DictReader(file) if row["doubt"]} == doubts
    output = capsys.readouterr().out
    assert "WARNING: 2 images are doubtful: " in output and "deep.png (12 of 16 bits, by its largest value)" in output


def test_the_number_of_overlays_is_the_requested_one_and_old_ones_are_removed(predicted, run, images):
    names = [line["overlay"] for line in read_predictions(predicted)["images"] if line.get("overlay")]
    assert len(names) == 3
    assert sorted(names) == sorted(f"overlays/{path.name}" for path in (predicted / "overlays").iterdir())
    for name in names:
        assert Image.open(predicted / name).size == (32, 32)


def test_more_overlays_replace_those_of_the_earlier_call_and_no_other_file(run, images, tmp_path, capsys):
    out = tmp_path / "out"
    for name in ("12_x.png", "00099_mine.png", "overlays/12_x.png", "overlays/00099_mine.png", "notes.csv"):
        files.write_text(out / name, "mine")
    mine = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for count in (2, 1):
        assert call(run, images, out, f"--overlays={count}", "--batch-size=8") == 0
        listed = {out / line["overlay"] for line in read_predictions(out)["images"] if line.get("overlay")}
        assert len(listed) == count
        assert set(out.glob("overlays/*")) == {*listed, *(path for path in mine if path.parent.name == "overlays")}
        assert {path: path.read_bytes() for path in mine} == mine
    files.write_text(tmp_path / "other" / "predictions.csv", "mine")
    capsys.readouterr()
    assert call(run, images, tmp_path / "other", "--overlays=0") == 2
    assert f"would overwrite {tmp_path / 'other' / 'predictions.csv'}" in error_line(capsys)


def folder_images(folder, names):
    for name in names:
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "purple").save(folder / name)
    return FolderImages([folder / name for name in names], 8, "squash", np.full(3, 0.5), np.full(3, 0.5))


def write(out, images, rows):
    """Writes predictions with overlays of some rows."""
    names = output_files.overlay_names(images, rows)
    entries = [
        {"path": str(path), "status": "answered", "predicted": "a", "confidence": 1.0, "overlay": names.get(row, "")}
        for row, path in enumerate(images.paths)
    ]
    predictions = {"notice": output_files.NOTICE, "checkpoint_step": 1, "classes": ["a"], "images": entries}
    output_files.write(out, predictions, images, names, np.zeros((len(rows), 2, 2), np.float32))


NAMES = st.sampled_from(["predictions.json", "predictions.csv", "notes.txt", "12_x.png", ".hidden"]) | st.builds(
    "overlays/{:05d}_{}.png".format, st.integers(0, 5), st.sampled_from(["a", "b", "x"])
)


@given(mine=st.sets(NAMES, max_size=4), calls=st.lists(st.sets(st.integers(0, 2)), min_size=1, max_size=3))
def test_no_call_changes_or_removes_a_file_that_no_call_listed(tmp_path_factory, mine, calls):
    root = tmp_path_factory.mktemp("outputs")
    out, images = root / "out", folder_images(root / "images", ["a.png", "b.png", "c.png"])
    for name in mine:
        files.write_text(out / name, "mine")
    for rows in calls:
        before = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        new = {f"overlays/{row + 1:05d}_{'abc'[row]}.png" for row in rows} | {"predictions.json", "predictions.csv"}
        if new & mine:
            with pytest.raises(ValueError, match="would overwrite"):
                write(out, images, sorted(rows))
            expected = before
        else:
            write(out, images, sorted(rows))
            expected = {*mine, *new}
        after = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert after == expected or set(after) == expected
        assert all(after[name] == b"mine" for name in mine)


def test_two_calls_into_one_folder_leave_nothing_that_is_not_listed(tmp_path):
    first, second = (folder_images(tmp_path / name, [f"{name}{at}.png" for at in range(6)]) for name in "ab")
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            for done in [pool.submit(write, tmp_path / "out", images, range(6)) for images in (first, second)]:
                done.result()
    listed = {line["overlay"] for line in read_predictions(tmp_path / "out")["images"]}
    assert listed == {f"overlays/{path.name}" for path in (tmp_path / "out" / "overlays").iterdir()}
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert {row["overlay"] for row in csv.DictReader(file)} == listed
    assert not list(tmp_path.glob(".*"))


def test_predictions_do_not_depend_on_the_batch_size_or_other_images(predicted, run, images, tmp_path):
    whole = {line["path"]: line for line in read_predictions(predicted)["images"]}
    one = next(path for path, line in whole.items() if line["status"] == "answered")
    assert call(run, one, tmp_path / "out", "--batch-size=3", "--overlays=0") == 0  # eight devices: rounded up to 8
    (line,) = read_predictions(tmp_path / "out")["images"]
    assert line["probabilities"] == whole[one]["probabilities"] and line["overlay"] == ""
    assert not (tmp_path / "out" / "overlays").exists()


def test_temperature_and_coverage_are_fitted_on_validation(run, images, tmp_path, capsys):
    assert call(run, images, tmp_path / "out", "--calibrate", "--coverage=0.5", "--overlays=0", "--batch-size=8") == 0
    printed, predictions = capsys.readouterr().out, read_predictions(tmp_path / "out")
    rule, evaluated = predictions["abstention"], np.load(run / "eval" / "val" / "predictions.npz")
    assert predictions["temperature"] == calibration.fit_temperature(evaluated["logits"], evaluated["label"])
    assert f"{rule['error']:.1%} of the answers wrong" in printed and f"{predictions['temperature']:.3f}" in printed
    for line in predictions["images"]:
        if line["status"] != "unreadable":
            assert (line["status"] == "answered") == (line["confidence"] >= rule["threshold"])


def test_the_stored_adjustment_is_applied_on_request_and_to_the_test_split(
    run, images, predicted, data, tmp_path, capsys
):
    stored, dataset = files.read_json(run / "eval" / "val" / "adjustment.json"), open_dataset(data)
    evaluated = np.load(run / "eval" / "val" / "predictions.npz")
    counts = np.bincount(dataset.labels[dataset.rows("train")])
    chosen = adjustment.fit_adjustment(evaluated["logits"], evaluated["label"], counts)
    assert (stored["tau"], stored["temperature"], stored["class_counts"]) == (
        chosen.tau, chosen.temperature, counts.tolist(),
    )  # fmt: skip
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    files.write_json(copied / "eval" / "val" / "adjustment.json", stored | {"tau": 2.0})
    assert call(copied, images, tmp_path / "out", "--adjust", "--overlays=0", "--batch-size=8") == 0
    assert "tau 2" in capsys.readouterr().out
    plain, adjusted = read_predictions(predicted), read_predictions(tmp_path / "out")
    assert plain["adjustment"] is None and adjusted["adjustment"]["tau"] == 2.0
    chosen = dataclasses.replace(chosen, tau=2.0)
    for before, after in zip(plain["images"], adjusted["images"], strict=True):
        if before["status"] != "unreadable":
            logits = np.log(list(before["probabilities"].values()))
            shares = calibration.probabilities(chosen(logits, counts))
            np.testing.assert_allclose(shares, list(after["probabilities"].values()), atol=1e-9)
    predictor = make_predictor(open_classifier_run(copied).config, dataset)
    values = split_evaluation.evaluate_split(copied, "test", predictor=predictor)
    test = np.load(copied / "eval" / "test" / "predictions.npz")
    logits = chosen(test["logits"], counts)
    assert values["adjusted"]["accuracy"] == (logits.argmax(-1) == test["label"]).mean()
    assert values["accuracy"] == (test["logits"].argmax(-1) == test["label"]).mean()
    # Chosen again on request, by validation images.
    choice = {"criterion": "g_mean", "offsets": "class"}
    values = split_evaluation.evaluate_split(copied, "test", predictor=predictor, choice=choice)
    assert values["adjusted"]["adjustment"]["num_images"] == len(evaluated["label"])
    assert files.read_json(copied / "eval" / "val" / "adjustment.json") == values["adjusted"]["adjustment"]
    # By costs, which decide on abstention.
    matrix = (1.0 - np.eye(5)).tolist()
    for row in matrix:
        row.append(0.25)
    priced = costs.Costs(tuple(map(tuple, matrix)))
    values = split_evaluation.evaluate_split(copied, "test", predictor=predictor, choice={"criterion": priced})
    logits = validation.adjusted(test["logits"], values["adjusted"]["adjustment"])
    shares = calibration.probabilities(logits)
    assert values["cost"]["least_expected"]["abstained"] == (shares.max(-1) < 0.75).mean()
    assert values["cost"]["plain"]["value"] == pytest.approx((test["logits"].argmax(-1) != test["label"]).mean())
    assert call(copied, images, tmp_path / "out", "--adjust", "--overlays=0", "--batch-size=8") == 0
    for line in read_predictions(tmp_path / "out")["images"]:
        if line["status"] != "unreadable":
            assert line["status"] == ("abstained" if line["confidence"] < 0.75 else "answered")
            assert line["expected_cost"] == pytest.approx(min(0.25, 1 - line["confidence"]))
    capsys.readouterr()
    assert call(copied, images, tmp_path / "out", "--adjust", "--coverage=0.9") == 2
    assert "drop --coverage" in error_line(capsys)
    (copied / "eval" / "val" / "adjustment.json").unlink()  # as in a run of an earlier version
    assert split_evaluation.evaluate_split(copied, "test", predictor=predictor)["adjusted"] is None
    assert call(copied, images, tmp_path / "out", "--adjust") == 2
    assert "has no adjustment of the checkpoint of step 7" in error_line(capsys)
    files.write_json(copied / "eval" / "val" / "adjustment.json", stored | {"temperature": 0})
    assert call(copied, images, tmp_path / "out", "--adjust") == 2
    assert "is no adjustment of 5 classes" in error_line(capsys)


def test_views_are_averaged_alike_in_evaluation_and_prediction(run, images, data, tmp_path, capsys):
    turned = tmp_path / "run"
    shutil.copytree(run, turned)
    config = files.read_json(run / "config.json")
    augment = {"flip": True, "rotate": False, "stain_jitter": 0.0, "function": "", "test_time_views": True}
    files.write_json(turned / "config.json", config | {"augment": augment})
    assert call(turned, images, tmp_path / "out", "--calibrate") == 2
    assert "is of 1 view(s) per image, and 2 are asked for" in error_line(capsys)
    metrics = split_evaluation.evaluate_split(turned, "val")
    evaluated, before = (np.load(folder / "eval" / "val" / "predictions.npz") for folder in (turned, run))
    assert metrics["views"] == metrics["adjusted"]["adjustment"]["views"] == 2
    assert (evaluated["logits"] != before["logits"]).any()
    np.testing.assert_allclose(evaluated["features"], before["features"], atol=1e-5)
    assert call(turned, images, tmp_path / "out", "--overlays=0", "--batch-size=8") == 0
    expected = dict(zip(evaluated["index"].tolist(), calibration.probabilities(evaluated["logits"]), strict=True))
    for line in read_predictions(tmp_path / "out")["images"]:
        if line["status"] == "answered":
            row = int(Path(line["path"]).stem)
            np.testing.assert_allclose(list(line["probabilities"].values()), expected[row], atol=5e-3)


def test_cases_are_answered_by_the_mean_and_the_worst_of_their_images(run, images, predicted, tmp_path, capsys):
    out, options = tmp_path / "out", ("--overlays=0", "--batch-size=8")
    plain = {Path(line["path"]).name: line for line in read_predictions(predicted)["images"]}
    classes = read_predictions(predicted)["classes"]
    regex = r"--group-regex=new/(?:[^/]+/)?([^/])[^/]*$"  # the first character of a name
    assert call(run, images, out, *options, regex, f"--severity={','.join(classes)}") == 0
    cases = read_predictions(out)["cases"]
    assert f"{len(cases)} cases" in capsys.readouterr().out
    assert {case["case"] for case in cases} == {name[0] for name in plain}
    for case in cases:
        lines = [line for name, line in plain.items() if name[0] == case["case"]]
        shares = [list(line["probabilities"].values()) for line in lines if "probabilities" in line]
        assert (case["images"], case["unreadable"]) == (len(lines), len(lines) - len(shares))
        if shares:
            np.testing.assert_allclose(list(case["probabilities"].values()), np.mean(shares, 0))
            assert case["predicted"] == classes[np.mean(shares, 0).argmax()]
            assert case["worst"] == classes[np.argmax(shares, 1).max()]
        else:
            assert case["predicted"] is case["worst"] is case["confidence"] is None
    with (out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == [case["predicted"] or "" for case in cases]
    assert call(run, images, out, *options) == 0
    assert not (out / "cases.csv").exists() and read_predictions(out)["cases"] is None
    capsys.readouterr()
    assert call(run, images, tmp_path / "x", "--group-regex=(zzz)") == 2
    assert "finds no group in" in error_line(capsys)
    assert call(run, images, tmp_path / "x", "--severity=a,b") == 2
    assert "give --group-regex" in error_line(capsys)
    assert not (tmp_path / "x").exists()


def test_errors_are_one_line_and_write_nothing(run, images, tmp_path, capsys):
    out = tmp_path / "out"
    unevaluated = tmp_path / "run"
    shutil.copytree(run, unevaluated, ignore=shutil.ignore_patterns("eval"))
    cases = [
        (call(run, tmp_path / "none", out), "no such file or folder"),
        (call(run, images / "notes.txt", out, "--batch-size=8"), "none of the 1 files can be read"),
        (call(run, images, images / "out"), "is inside"),
        (call(tmp_path, images, out), "holds no run"),
        (call(run, images, out, "--batch-size=-1"), "--batch-size=-1 must be at least 1"),
        (call(run, images, out, "--coverage=1.5"), "--coverage=1.5 must be"),
        (call(run, images, out, "--views"), "was trained without flips and turns"),
        (call(unevaluated, images, out, "--coverage=0.9"), "python -m dim_jax.evaluate --workdir="),
    ]
    errors = capsys.readouterr().err.splitlines()
    assert [code for code, _ in cases] == [2] * len(cases) and len(errors) == len(cases)
    for line, (_, expected) in zip(errors, cases, strict=True):
        assert expected in line
    stale = tmp_path / "stale"
    shutil.copytree(run, stale)
    state = checkpoints.restore(stale / loop.BEST).state
    checkpoints.save(stale / loop.BEST, 9, state, {"best": None}, keep=1)
    assert call(stale, images, out, "--calibrate") == 2
    assert "is of step 7, the best checkpoint of step 9" in error_line(capsys)
    files.write_json(stale / "config.json", files.read_json(run / "config.json") | {"trainer": "gan"})
    assert call(stale, images, out) == 2
    assert "not of a classifier" in error_line(capsys)
    assert not out.exists() and not (images / "out").exists()


def test_a_run_without_images_predicts_without_tensorflow(run, images, tmp_path, monkeypatch):
    """A run imported from a .pth file alone."""
    path = write_state_dict(tmp_path / "model.pth", small_state_dict())
    arguments = [str(path), f"--out={tmp_path / 'bare'}", "--image-size=32", "--classes=a,b,c,d,e"]
    assert command_line.run(convert.main, arguments) == 0
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert call(tmp_path / "bare", images, tmp_path / "out", "--overlays=0", "--batch-size=8") == 0
    assert read_predictions(tmp_path / "out")["classes"] == list("abcde") and SMALL.num_classes == 5


def test_the_temperature_recovers_the_scale_of_the_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    labels = np.array([rng.choice(3, p=row) for row in calibration.probabilities(logits)])
    for scale in (0.5, 1.0, 4.0):
        assert calibration.fit_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.1)
    confident = np.eye(3)[labels]
    assert calibration.fit_temperature(confident, labels) == pytest.approx(calibration.BOUNDS[0], rel=1e-3)


def test_the_threshold_is_the_highest_that_reaches_the_coverage():
    confidence = np.array([0.9, 0.8, 0.8, 0.7, 0.6])
    probability = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 0, 1, 1, 1])
    rule = calibration.fit_abstention(probability, labels, 0.4)
    assert (rule.threshold, rule.coverage, rule.error, rule.error_of_all) == pytest.approx((0.8, 0.6, 1 / 3, 0.6))
    everything = calibration.fit_abstention(probability, labels, 1.0)
    assert everything.coverage == 1 and everything.error == everything.error_of_all
    with pytest.raises(ValueError, match=r"--coverage=0 must"):
        calibration.fit_abstention(probability, labels, 0)
