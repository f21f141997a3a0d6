"""Training of diffusion models from the command line: resume, backends, devices, one class and all, and bad input."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dim_jax import generate, train
from dim_jax.cli import command_line
from dim_jax.data import manifest, splits
from dim_jax.data.preparation import prepare_dataset
from dim_jax.gan import copying_audit, sample_sheets
from dim_jax.gan.diffusion_run import open_diffusion_run
from dim_jax.trainers import job
from dim_jax.training import checkpoints, loop
from dim_jax.weights import pretrained

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'diffusion.py'}:test"
LABEL = "low_grade_in"
ONE_CLASS = [f"--config.diffusion.label={LABEL}", "--config.diffusion.conditional=False"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=32, scale=0.05)


def arguments(data, run, *more):
    return [CONFIG, f"--config.data.path={data}", f"--workdir={run}", *more]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "diffusion"
    assert command_line.run(train.main, arguments(data, run)) == 0
    return run


def logged(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def error_line(capsys):
    """The error message, the only line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_a_run_leaves_metrics_checkpoints_sheets_and_a_report(data, finished):
    for name in ("config.json", "manifest.json", "split.json", "report.html", "samples/animation.webp"):
        assert (finished / name).is_file(), name
    assert checkpoints.steps(finished / loop.CHECKPOINTS) == [2, 4]
    assert [(line["step"], line["split"]) for line in logged(finished)] == [
        (2, "train"), (2, "samples"), (4, "train"), (4, "samples"),
    ]  # fmt: skip
    assert logged(finished)[0]["loss"] == pytest.approx(1, abs=0.5)  # of a network that returns zeros
    with Image.open(finished / "samples" / "samples_0000004.png") as sheet:
        assert sheet.size == (8 * 34 - 2, len(manifest.load(data).classes) * 34 - 2)


def test_a_killed_and_resumed_run_has_the_bits_of_an_uninterrupted_one(data, finished, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed_at_the_second(self, state):
        if (self.folder / "samples_0000002.png").exists():
            raise Killed
        return original(self, state)

    original, run = sample_sheets.SampleSheets.draw, tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sample_sheets.SampleSheets, "draw", killed_at_the_second)
        train.main(arguments(data, run))
    assert checkpoints.steps(run / loop.CHECKPOINTS) == [2]
    assert command_line.run(train.main, [f"--workdir={run}"]) == 0
    ours, theirs = (checkpoints.restore(root / loop.CHECKPOINTS) for root in (run, finished))
    assert ours.step == theirs.step == 4
    jax.tree.map(np.testing.assert_array_equal, ours.state, theirs.state)
    name = "samples/samples_0000004.png"
    assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_one_device_and_eight_resident_and_streamed_pixels_give_the_same_losses(data, finished, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert jax.local_device_count() == 8
    with monkeypatch.context() as patch:
        for count in ("device_count", "local_device_count"):
            patch.setattr(jax, count, lambda: 1)
        patch.setattr(jax, "local_devices", lambda *_, **options: jax.devices(options.get("backend"))[:1])
        assert command_line.run(train.main, arguments(data, run, "--config.data.backend=resident")) == 0
    for ours, theirs in zip(logged(run), logged(finished), strict=True):
        if ours["split"] == "train":
            # Pixels of the two backends agree within one grey level.
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-3)


def test_only_training_images_of_the_class_reach_the_network_of_one_class(data, tmp_path, monkeypatch):
    run, rows = tmp_path / "run", set()
    original = job.training_batches

    def recording(*parts):
        for batch in original(*parts):
            rows.update(np.ravel(batch["index"]).tolist())
            yield batch

    monkeypatch.setattr(job, "training_batches", recording)
    assert command_line.run(train.main, arguments(data, run, *ONE_CLASS, "--config.train.num_train_steps=2")) == 0
    listed = manifest.load(data)
    train_rows = splits.load(data, listed).rows(0, "train")
    label = listed.classes.index(LABEL)
    assert rows and rows <= set(train_rows[listed.labels[train_rows] == label].tolist())
    params = checkpoints.restore(run / loop.CHECKPOINTS).state["params"]
    assert "labels" not in params  # a network without a table of classes


def test_a_finished_run_can_be_given_more_steps(data, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    assert command_line.run(train.main, arguments(data, run, "--config.train.num_train_steps=6")) == 0
    assert checkpoints.restore(run / loop.CHECKPOINTS).step == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.diffusion.label=polyp"], "give the class to learn with --config.diffusion.label=NAME"),
        (["--config.diffusion.label=nothing", "--config.diffusion.conditional=False"], "not a class"),
        (["--config.diffusion.label=normal", "--config.diffusion.conditional=False"], "too few for a diffusion model"),
        (["--config.data.image_size=34"], "image_size=34 must be a multiple of 4"),
        (["--config.diffusion.sampling_steps=1"], "sampling_steps=1"),
        (["--config.diffusion.sigma_data=0"], "sigma_data=0"),
        (["--config.diffusion.audit_images=9"], "audit_images=9 must be at least 10, or 0 for no audit"),
        (["--config.model.gate=gc"], "config.model.gate"),
        (["--config.train.global_batch_size=9"], "multiple"),
    ],
)
def test_bad_options_give_one_line_and_leave_nothing(data, tmp_path, capsys, more, message):
    run = tmp_path / "run"
    assert command_line.run(train.main, arguments(data, run, *more)) == 2
    assert message in error_line(capsys)
    assert not run.exists()


def test_the_newest_checkpoint_that_passes_the_audit_generates(data, tmp_path, monkeypatch, capsys):
    """The audit passes at step 2, fails at 4, passes at 6 and fails at 8; and then a run in which it always fails."""
    monkeypatch.setattr(pretrained, "lite_path", lambda network=None: None)
    more = ["--config.diffusion.audit_images=16", "--config.train.num_train_steps=8", "--config.data.backend=resident"]
    for outcomes, step in (([0.5, -4.0, -2.9, -3.1], 6), ([-4.0] * 4, 0)):
        values, run = iter(outcomes), tmp_path / f"run{step}"
        monkeypatch.setattr(copying_audit.CopyingAudit, "__call__", lambda self, synthesizer: next(values))  # noqa: B023
        assert command_line.run(train.main, arguments(data, run, *more)) == 0
        samples = [line for line in logged(run) if line["split"] == "samples"]
        assert [line["c_t"] for line in samples] == outcomes
        generation = [f"--workdir={run}", f"--label={LABEL}", "--num=1", f"--out={tmp_path / 'pool'}"]
        if step:
            assert open_diffusion_run(run).step == step
            assert command_line.run(generate.main, generation) == 0
            assert "The newest images copy training images (C_T -3.1, below -3): generate uses step 6." in (
                (run / "report.html").read_text()
            )
        else:
            capsys.readouterr()
            assert command_line.run(generate.main, generation) == 2
            assert "was audited copies training images (C_T below -3)" in error_line(capsys)
