"""Each kind of write on a full or read-only disk: one error line with path and advice, and no data loss."""

import contextlib
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_task import assert_ends_alike, fit, make_task

from dim_jax import evaluate, prepare, report, train
from dim_jax.cli import command_line
from dim_jax.data.preparation import prepare_dataset
from dim_jax.evaluation import split_evaluation
from dim_jax.gan import pool_writer, pools
from dim_jax.reporting import report_files
from dim_jax.training import checkpoints, loop
from dim_jax.training.writers import MetricWriter

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'classifier.py'}:test"


class Disk:
    """A file system of its own, of 48 MiB."""

    def __init__(self, folder):
        self.folder, self._filler = folder, folder / "filler"

    def fill(self):
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while True:  # another thread may write meanwhile
                filler.write(bytes(2**12))

    def clear(self):
        self._filler.unlink()

    @contextlib.contextmanager
    def read_only(self):
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", self.folder], check=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system may be mounted here ({error})")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def error_line(capsys):
    """The error line, the last one of the output."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if "Traceback" in line or "Error" in line] == []
    assert lines[-1].startswith("error: ")
    return lines[-1]


def filled_before(disk, function, is_the_one):
    """Wraps `function` to fill the disk before the first call for whose arguments `is_the_one` is true."""
    is_filled = []

    def call(*arguments, **options):
        if not is_filled and is_the_one(*arguments):
            disk.fill()
            is_filled.append(True)
        return function(*arguments, **options)

    return call


def lengthen(values):
    """Makes a line of metrics longer than the free space in the last block of its file."""
    values["note"] = "x" * 5000
    return True


@pytest.mark.parametrize(
    ("where", "owner", "name", "is_the_one"),
    [
        ("metrics.jsonl", MetricWriter, "write", lambda _, step, split, values: step == 10 and lengthen(values)),
        ("checkpoints/8", checkpoints, "save", lambda folder, step, *_: step == 8),
        ("best/6", checkpoints, "save", lambda folder, step, *_: step == 6),
    ],
)
def test_a_run_on_a_full_disk_reports_it_and_resumes_after_space_is_freed(
    disk, tmp_path, monkeypatch, capsys, where, owner, name, is_the_one
):
    fit(tmp_path / "whole", make_task())
    run = disk.folder / where.replace("/", "_")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, filled_before(disk, getattr(owner, name), is_the_one))
        assert command_line.run(lambda _: fit(run, make_task()), []) == command_line.BAD_INPUT
    error = error_line(capsys)
    # Checkpoints are written while training goes on, so the next line of metrics may be the first that fails.
    assert re.search(rf"{run}/({where}|metrics.jsonl): No space left on device; free space", error)
    before = checkpoints.restore(run / loop.CHECKPOINTS, make_task().state)
    assert before.step in ((4, 8) if name == "write" else (4,))
    disk.clear()
    fit(run, make_task())
    assert_ends_alike(run, tmp_path / "whole")


def class_folders(root):
    for number in range(24):
        path = root / ("normal", "polyp")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((64, 64), Image.Resampling.BILINEAR).quantize(64).save(path)  # a palette must be converted
    return root


def test_preparing_onto_a_full_or_read_only_disk_leaves_nothing(disk, tmp_path, capsys):
    arguments = [f"--source={class_folders(tmp_path / 'source')}", f"--out={disk.folder / 'data'}", "--image-size=32"]
    disk.fill()
    assert command_line.run(prepare.main, arguments) == 2
    assert f"{disk.folder / 'data'}: No space left on device; free space" in error_line(capsys)
    assert [path.name for path in disk.folder.iterdir() if "data" in path.name] == []
    disk.clear()
    with disk.read_only():
        assert command_line.run(prepare.main, arguments) == 2
        assert "Read-only file system; allow this user to write there, or choose another place" in error_line(capsys)
    assert command_line.run(prepare.main, arguments) == 0


def test_generating_onto_a_full_disk_reports_it(disk, capsys):
    def draw(_):
        images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
        facts = {"workdir": "run", "checkpoint_step": 1, "model_sha256": "", "split_sha256": ""}
        writer = pool_writer.PoolWriter(disk.folder / "pool", "polyp", **facts)
        writer.list(writer.write(images, range(3)))

    disk.fill()
    assert command_line.run(draw, []) == 2
    assert "No space left on device; free space" in error_line(capsys)
    disk.clear()
    assert command_line.run(draw, []) == 0
    (pool,) = pools.load(disk.folder / "pool")
    assert len(pool.images) == 3 and not list(disk.folder.rglob("*.tmp"))


def test_evaluation_and_report_on_a_full_or_read_only_disk(disk, tmp_path, monkeypatch, capsys):
    """The training is not done again for what comes after it."""
    data = prepare_dataset("phantom", tmp_path / "data", image_size=32, scale=0.03)
    run = disk.folder / "run"
    more = ["--config.train.global_batch_size=8", "--config.optimizer.warmup_epochs=0"]
    arguments = [CONFIG, *more, f"--config.data.path={data}", f"--workdir={run}"]
    functions = (
        (split_evaluation, "evaluate_split", "eval/val/predictions.npz"),
        (report_files, "write_report", "report.html"),
    )
    for owner, name, where in functions:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, filled_before(disk, getattr(owner, name), lambda *_: True))
            assert command_line.run(train.main, arguments) == 2
        assert re.search(rf"{run}/({where}|report_data/\S+): No space left on device; free space", error_line(capsys))
        assert not (run / where).exists() and checkpoints.restore(run / loop.CHECKPOINTS).step > 0
        disk.clear()
    lines = (run / "metrics.jsonl").read_bytes()
    assert command_line.run(train.main, arguments) == 0
    assert (run / "metrics.jsonl").read_bytes() == lines and not list(run.rglob("*.tmp"))
    before = (run / "eval" / "val" / "predictions.npz").read_bytes()
    with disk.read_only():
        commands = [(train.main, []), (evaluate.main, ["--split=val"])]
        for main, options in commands:
            assert command_line.run(main, [f"--workdir={run}", *options]) == 2
            assert "Read-only file system; allow this user to write there" in error_line(capsys)
        assert command_line.run(report.main, [str(run)]) == 2
        assert "Read-only file system; allow this user to write there" in error_line(capsys)
    assert (run / "eval" / "val" / "predictions.npz").read_bytes() == before
