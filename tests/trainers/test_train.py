"""The train command end to end: training on synthetic tissue, resume, dry run and bad input."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from dim_jax import evaluate, predict, train
from dim_jax.cli import command_line
from dim_jax.data import images, manifest, splits
from dim_jax.evaluation import calibration
from dim_jax.runs import files
from dim_jax.runs.workdir import claim
from dim_jax.training import checkpoints, loop

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'classifier.py'}:test"
# The suite has eight fake devices: batches must divide by them.
BASE = [
    CONFIG,
    "--config.train.global_batch_size=8",
    "--config.train.eval_batch_size=16",
    "--config.optimizer.warmup_epochs=0",
]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of the test variant from the command line to the report."""
    run = tmp_path_factory.mktemp("runs") / "a"
    assert command_line.run(train.main, [*BASE, f"--config.data.path={data}", f"--workdir={run}"]) == 0
    return run


def error_line(capsys):
    """The error message, the only line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_a_run_leaves_everything_that_the_design_names(finished):
    for name in (
        "config.json", "environment.json", "manifest.json", "split.json", "metrics.jsonl", "report.html", "run.log",
        "eval/val/metrics.json", "eval/test/metrics.json", "eval/test/predictions.npz", "card.md", "card.json",
    ):  # fmt: skip
        assert (finished / name).is_file(), name
    environment = files.read_json(finished / "environment.json")
    assert environment["devices"] and environment["versions"]["jax"]
    assert environment["command"].endswith(f"--workdir={finished}") and "-m dim_jax.train" in environment["command"]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "val"}
    log = (finished / "run.log").read_text()
    for said in ("start: python ", f"jax {jax.__version__}", "training on ", "images sha256 ", "first dispatch: ",
                 ": val macro_f1 ", ": checkpoint in "):  # fmt: skip
        assert said in log, said


def test_every_test_image_is_predicted_once_by_the_best_checkpoint(finished):
    predictions = np.load(finished / "eval" / "test" / "predictions.npz")
    dataset = manifest.load(finished)
    rows = splits.load(finished, dataset).rows(0, "test")
    np.testing.assert_array_equal(np.sort(predictions["index"]), rows)
    np.testing.assert_array_equal(predictions["label"], dataset.labels[predictions["index"]])
    metrics = files.read_json(finished / "eval" / "test" / "metrics.json")
    assert metrics["num_images"] == len(rows)
    assert metrics["checkpoint_step"] == checkpoints.steps(finished / loop.BEST)[-1]
    assert metrics["accuracy"] == np.mean(predictions["logits"].argmax(-1) == predictions["label"])


def test_evaluating_again_from_the_files_gives_the_same_numbers(finished, capsys):
    before = files.read_json(finished / "eval" / "test" / "metrics.json")
    assert command_line.run(evaluate.main, [f"--workdir={finished}", "--split=test"]) == 0
    after = files.read_json(finished / "eval" / "test" / "metrics.json")
    timings = {"test_seconds_per_image", "evaluation_seconds"}
    assert {k: v for k, v in before.items() if k not in timings} == {k: v for k, v in after.items() if k not in timings}
    assert "macro_f1" in capsys.readouterr().out


def test_a_trained_run_predicts_new_images_as_it_was_evaluated(finished, data, tmp_path):
    evaluated, dataset = np.load(finished / "eval" / "val" / "predictions.npz"), manifest.load(data)
    arguments = [f"--workdir={finished}", str(dataset.file(int(evaluated["index"][0]))), f"--out={tmp_path / 'out'}"]
    assert command_line.run(predict.main, [*arguments, "--coverage=0.9", "--calibrate"]) == 0
    record = files.read_json(tmp_path / "out" / "predictions.json")
    shares = calibration.probabilities(evaluated["logits"][0], record["temperature"])
    np.testing.assert_allclose(list(record["images"][0]["probabilities"].values()), shares, atol=0.02)
    assert record["preprocessing"]["mean"] == pytest.approx(splits.load(finished, dataset).folds[0].mean)


def test_the_same_command_again_trains_no_further(finished, data):
    before = (finished / "metrics.jsonl").read_bytes()
    assert command_line.run(train.main, [f"--workdir={finished}"]) == 0
    assert (finished / "metrics.jsonl").read_bytes() == before


def final_state(run):
    return checkpoints.restore(run / loop.CHECKPOINTS).state


def flip_a_byte(folder):
    """Changes a byte in the middle of the largest file below a folder."""
    victim = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)


def test_damaged_checkpoints_are_reported_and_the_one_before_is_used_if_any(finished, tmp_path, caplog, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (before,) = checkpoints.steps(run / loop.CHECKPOINTS)
    newest = before + 2
    shutil.copytree(run / loop.CHECKPOINTS / str(before), run / loop.CHECKPOINTS / str(newest))
    flip_a_byte(run / loop.CHECKPOINTS / str(newest))
    assert command_line.run(evaluate.main, [f"--workdir={run}", "--split=val", "--checkpoint=newest"]) == 0
    assert f"{run / loop.CHECKPOINTS / str(newest)} is damaged" in caplog.text
    assert files.read_json(run / "eval" / "val" / "metrics.json")["checkpoint_step"] == before
    flip_a_byte(run / loop.BEST)
    assert command_line.run(evaluate.main, [f"--workdir={run}", "--split=val"]) == 2
    assert f"{run / loop.BEST}: every checkpoint is damaged; bring back a copy" in capsys.readouterr().err


def test_a_raw_class_folder_is_prepared_inside_the_run_and_followed_when_it_moves(data, tmp_path, capsys):
    raw = tmp_path / "raw"
    source = manifest.load(data)
    for row in source.rows:
        target = raw / row.label / Path(row.path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.root / row.path, target)
    run = tmp_path / "run"
    arguments = [*BASE, f"--config.data.path={raw}", f"--workdir={run}"]
    assert command_line.run(train.main, arguments) == 0
    assert len(manifest.load(run)) == len(source)
    assert (run / "data" / "split.json").is_file() and (run / "eval" / "test" / "metrics.json").is_file()

    relabelled, name = next((raw / "polyp").iterdir()), "normal/relabelled.png"
    relabelled.rename(raw / name)
    capsys.readouterr()
    assert command_line.run(train.main, arguments) == 2
    assert "1 label was changed" in (error := error_line(capsys)) and "another --workdir" in error
    (raw / name).rename(relabelled)

    before = files.read_json(run / "eval" / "test" / "metrics.json")["accuracy"]
    moved = raw.rename(tmp_path / "moved")
    assert command_line.run(evaluate.main, [f"--workdir={run}"]) == 2
    assert f"{len(source)} of the {len(source)} images" in (error := error_line(capsys)) and "--data-root" in error
    assert command_line.run(evaluate.main, [f"--workdir={run}", f"--data-root={moved}"]) == 0
    assert files.read_json(run / "eval" / "test" / "metrics.json")["accuracy"] == before
    assert command_line.run(evaluate.main, [f"--workdir={run}"]) == 0  # it is remembered
    assert command_line.run(train.main, arguments) == 2
    assert "--data-root" in capsys.readouterr().err
    assert command_line.run(train.main, [*arguments, f"--data-root={moved}"]) == 0
    assert command_line.run(train.main, arguments) == 0


def test_generated_images_are_trained_on_and_never_evaluated(data, tmp_path):
    source = manifest.load(data)
    normal = [row for row in source.rows if row.label == "normal"][:3]
    for row in normal:  # smaller than the input, which must be allowed
        files.write_bytes(tmp_path / row.path, images.png_bytes(images.read_square(source.root / row.path, 8)))
    entries = [{"path": row.path, "label": row.label} for row in normal]
    files.write_json(tmp_path / "selected.json", {"image_size": 8, "images": entries})
    run = tmp_path / "run"
    arguments = [*BASE, f"--config.data.path={data}", f"--config.data.generated={tmp_path / 'selected.json'}"]
    arguments += ["--config.data.enlarge_generated=True", f"--workdir={run}"]
    assert command_line.run(train.main, arguments) == 0
    evaluated = np.concatenate([np.load(run / "eval" / name / "predictions.npz")["index"] for name in ("val", "test")])
    assert evaluated.max() < len(source)
    assert len(files.read_json(run / "generated.json")["images"]) == 3


def test_a_dry_run_shows_data_and_options_and_writes_nothing(data, tmp_path, capsys):
    arguments = [*BASE, f"--config.data.path={data}", f"--workdir={tmp_path / 'run'}", "--dry-run"]
    assert command_line.run(train.main, arguments) == 0
    out = capsys.readouterr().out
    assert "adenocarcinoma" in out and "optimizer.learning_rate = 0.001" in out and "steps" in out
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_configuration_is_refused_with_the_difference(finished, data, capsys):
    arguments = [*BASE, f"--config.data.path={data}", f"--workdir={finished}", "--config.loss.m=9.5"]
    assert command_line.run(train.main, arguments) == 2
    assert "loss.m: 4.0 there, 9.5 now" in error_line(capsys)


def test_options_that_change_no_number_may_differ_on_resume(finished, data):
    arguments = [*BASE, f"--config.data.path={data}", f"--workdir={finished}", "--config.data.cache_gib=1"]
    assert command_line.run(train.main, arguments) == 0


def test_a_run_resumes_with_the_other_backend(finished, data, tmp_path):
    """The metrics of the resumed part agree up to the difference of one grey level between the backends."""
    assert files.read_json(finished / "config.json")["data"]["backend"] == "tf"
    runs = {"tf": shutil.copytree(finished, tmp_path / "tf"), "resident": tmp_path / "resident"}
    resident = [*BASE, f"--config.data.path={data}", "--config.data.backend=resident"]
    assert command_line.run(train.main, [*resident, f"--workdir={runs['resident']}"]) == 0
    last = max(checkpoints.steps(runs["tf"] / loop.CHECKPOINTS))
    shutil.rmtree(runs["tf"] / loop.CHECKPOINTS / str(last))
    shutil.rmtree(runs["tf"] / "eval")
    assert command_line.run(train.main, [*resident, f"--workdir={runs['tf']}"]) == 0
    states = [final_state(runs[backend]) for backend in ("tf", "resident")]
    assert [int(state["step"]) for state in states] == [last, last]
    for ours, theirs in zip(*(jax.tree.leaves(state["batch_stats"]) for state in states), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.05, atol=0.02)
    evaluated = [np.load(runs[backend] / "eval" / "test" / "predictions.npz") for backend in ("tf", "resident")]
    np.testing.assert_array_equal(evaluated[0]["index"], evaluated[1]["index"])


def test_a_second_process_on_a_run_directory_is_refused(finished, capsys):
    with claim(finished):
        assert command_line.run(train.main, [f"--workdir={finished}"]) == 2
    assert f"in use by process {os.getpid()} on" in capsys.readouterr().err


def test_a_diverging_run_stops_with_exit_code_1(data, tmp_path, capsys):
    arguments = [*BASE, f"--config.data.path={data}", f"--workdir={tmp_path / 'run'}"]
    # An infinite learning rate makes the parameters, and so the loss of the second step, non-finite.
    arguments += ["--config.optimizer.learning_rate=1e38"]
    assert command_line.run(train.main, arguments) == 1
    assert "not finite at step" in capsys.readouterr().err
    assert '"diverged"' in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.data.pth=x"], "unknown configuration field .*pth"),
        (["--config.train.num_epochs=many"], "num_epochs"),
        (["--config.loss.name=fafll"], "config.loss.name='fafll' is not a loss; choose one of"),
        (["--config.loss.m=-1"], "config.loss.m=-1.0 must be"),
        (["--config.model.name=resnet"], "config.model.name='resnet' is not a model"),
        (["--config.model.dtype=float16"], "must be one of float32, bfloat16"),
        (["--config.optimizer.name=adamw2"], "config.optimizer.name"),
        (["--config.optimizer.schedule=linear"], "config.optimizer.schedule"),
        (["--config.trainer=gann"], "config.trainer='gann'"),
        (["--config.data.backend=files"], "config.data.backend"),
        (["--config.data.resize=stretch"], "config.data.resize='stretch'"),
        (["--config.data.image_size=4"], "config.data.image_size=4"),
        (["--config.data.mean=(0.5,0.5,0.5)"], "give three numbers in"),
        (["--config.data.fold=3"], "fold 3 does not exist"),
        (["--config.data.generated=nowhere.json"], "nowhere.json: no such file"),
        (["--config.data.generated_weight=-1"], "config.data.generated_weight"),
        (["--config.train.best_metric=loss"], "config.train.best_metric"),
        (["--config.train.global_batch_size=12"], "config.train.global_batch_size=12 must be a multiple"),
        (["--config.train.eval_batch_size=0"], "config.train.eval_batch_size=0"),
        (["--config.train.num_epochs=0"], "config.train.num_epochs=0.0 must be a number above 0"),
        (["--config.data.path=/no/such/folder"], "no such folder"),
        (["--profile=-1"], "profile"),
        (["extra"], "'extra' is not an option"),
        (["--verbose"], "verbose"),
    ],
)
def test_bad_options_give_one_line_and_leave_nothing(arguments, expected, data, tmp_path, capsys):
    run = tmp_path / "run"
    assert command_line.run(train.main, [*BASE, f"--config.data.path={data}", f"--workdir={run}", *arguments]) == 2
    assert re.search(expected, error_line(capsys))
    assert not run.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workdir=x"], "x holds no run to resume"),
        ([CONFIG], "--workdir is missing"),
        (["--config=configs/none.py", "--workdir=x"], "there is no file 'configs/none.py'"),
        ([CONFIG.replace(":test", ":tset"), "--workdir=x"], "no variant 'tset'"),
        (["--dry-run"], "--config is missing"),
    ],
)
def test_incomplete_commands_report_what_is_missing(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line.run(train.main, arguments) == 2
    assert expected in error_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["one class", "empty class"])
def test_data_that_cannot_be_trained_on_is_refused_before_anything_is_written(case, data, tmp_path, capsys):
    source = manifest.load(data)
    raw = tmp_path / "raw"
    (raw / "normal").mkdir(parents=True)
    for row in [row for row in source.rows if row.label == "normal"][:6]:
        shutil.copyfile(source.root / row.path, raw / "normal" / Path(row.path).name)
    if case == "empty class":
        (raw / "polyp").mkdir()
    run = tmp_path / "run"
    assert command_line.run(train.main, [*BASE, f"--config.data.path={raw}", f"--workdir={run}"]) == 2
    assert "class" in capsys.readouterr().err.splitlines()[-1]
    assert not run.exists()


def test_a_missing_image_is_reported_before_training(data, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    gone = manifest.load(copy).file(0)
    gone.unlink()
    run = tmp_path / "run"
    assert command_line.run(train.main, [*BASE, f"--config.data.path={copy}", f"--workdir={run}"]) == 2
    assert str(gone) in error_line(capsys) and not run.exists()


def test_evaluate_needs_a_run_with_a_checkpoint(data, finished, tmp_path, capsys):
    assert command_line.run(evaluate.main, [f"--workdir={data}"]) == 2
    assert "holds no run" in error_line(capsys)
    unfinished = tmp_path / "run"
    shutil.copytree(finished, unfinished)
    shutil.rmtree(unfinished / loop.BEST)
    assert command_line.run(evaluate.main, [f"--workdir={unfinished}"]) == 2
    assert "holds no checkpoint yet" in error_line(capsys)
    assert command_line.run(evaluate.main, [f"--workdir={unfinished}", "--split=all"]) == 2
    assert "--split" in error_line(capsys)
