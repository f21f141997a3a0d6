"""Training curves as JSON lines and TensorBoard events."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.runs.metrics_file import FILE_NAME
from dim_jax.training import writers
from dim_jax.training.writers import MetricWriter


def lines(workdir):
    return [json.loads(line) for line in (workdir / FILE_NAME).read_text().splitlines()]


def write_steps(workdir, steps, resume_step=0, **values):
    writer = MetricWriter(workdir, resume_step, tensorboard=False)
    for step in steps:
        writer.write(step, "train", {"loss": 1 / step, **values})
    writer.close()


def test_each_line_holds_step_split_and_values(tmp_path):
    writer = MetricWriter(tmp_path, 0, tensorboard=False)
    writer.write(10, "train", {"loss": 0.5, "learning_rate": 1e-3})
    writer.write(10, "val", {"macro_f1": np.float32(0.25), "macro_auroc": None})
    writer.close()
    assert lines(tmp_path) == [
        {"step": 10, "split": "train", "loss": 0.5, "learning_rate": 1e-3},
        {"step": 10, "split": "val", "macro_f1": 0.25, "macro_auroc": None},
    ]


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = MetricWriter(tmp_path, 0, tensorboard=False)
    writer.write(1, "train", {"loss": 2.0})
    assert lines(tmp_path) == [{"step": 1, "split": "train", "loss": 2.0}]
    writer.close()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("-inf")])
def test_numbers_that_are_not_finite_become_null(tmp_path, bad):
    write_steps(tmp_path, [1], gradient_norm=bad)
    text = (tmp_path / FILE_NAME).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["gradient_norm"] is None


def test_a_resumed_run_drops_the_lines_after_its_step_and_appends(tmp_path):
    write_steps(tmp_path, [1, 2, 3, 4])
    write_steps(tmp_path, [3], resume_step=2, second=True)
    assert [(line["step"], "second" in line) for line in lines(tmp_path)] == [(1, False), (2, False), (3, True)]
    write_steps(tmp_path, [4], resume_step=3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_new_run_drops_all_lines(tmp_path):
    write_steps(tmp_path, [1, 2])
    write_steps(tmp_path, [])
    assert (tmp_path / FILE_NAME).read_bytes() == b""


@given(cut=st.integers(1, 60))
def test_a_last_line_cut_off_anywhere_is_dropped_and_the_file_stays_valid(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("cut")
    write_steps(folder, [1, 2, 3])
    path = folder / FILE_NAME
    data = path.read_bytes()
    last = len(data.splitlines(keepends=True)[-1])
    cut = min(cut, last)
    path.write_bytes(data[:-cut])
    write_steps(folder, [4], resume_step=3)
    # Without the newline alone the line is whole.
    assert [line["step"] for line in lines(folder)] == ([1, 2, 3, 4] if cut == 1 else [1, 2, 4])


def test_bytes_left_by_a_crash_are_dropped(tmp_path):
    write_steps(tmp_path, [1])
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b"\0" * 40 + b"\n17\n[]\n")
    write_steps(tmp_path, [2], resume_step=1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_unreadable_lines_are_reported_with_their_numbers_on_resume(tmp_path, caplog):
    write_steps(tmp_path, [1])
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'\xff\xfe\n{"step": 2}\n{"step": true}\n\n{"step": 3, "loss"')
    with caplog.at_level("WARNING"):
        write_steps(tmp_path, [3], resume_step=2)
    assert caplog.messages == [f"{tmp_path / FILE_NAME}: 2 unreadable line(s): 2, 4"]
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_kept_line_keeps_its_bytes(tmp_path):
    write_steps(tmp_path, [1], rate=1e-7, note="\u2028\u00e9", none=None, third=1 / 3)
    before = (tmp_path / FILE_NAME).read_bytes()
    write_steps(tmp_path, [], resume_step=1)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_without_tensorboard_no_events_are_written(tmp_path):
    write_steps(tmp_path, [1])
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_without_clu_the_lines_are_still_written(tmp_path, monkeypatch):
    import clu

    monkeypatch.setitem(sys.modules, "clu.metric_writers", None)
    monkeypatch.delattr(clu, "metric_writers", raising=False)
    writer = MetricWriter(tmp_path, 0, tensorboard=True)
    writer.write(1, "train", {"loss": 2.0})
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "split": "train", "loss": 2.0}]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_the_first_line_does_not_wait_for_tensorboard(tmp_path, monkeypatch):
    """Opening it imports TensorFlow."""
    events = []
    monkeypatch.setattr(writers, "_tensorboard_writer", lambda folder: events.append((folder, lines(tmp_path))))
    writer = MetricWriter(tmp_path, 0, tensorboard=True)
    assert not events
    for step in (1, 2):
        writer.write(step, "train", {"loss": 2.0})
    writer.close()
    assert events == [(tmp_path / "tensorboard", [{"step": 1, "split": "train", "loss": 2.0}])]


def test_tensorboard_gets_every_number_under_its_split(tmp_path):
    pytest.importorskip("clu.metric_writers")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.util import tensor_util

    writer = MetricWriter(tmp_path, 0, tensorboard=True)
    writer.write(5, "train", {"loss": 0.5, "epoch": 1, "seconds_per_step": None, "rate": np.float32(0.25)})
    writer.write(10, "val", {"loss": 0.75})
    writer.write(15, "diverged", {"loss": "nan"})
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    numbers = {
        tag: [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    assert numbers == {
        "train/loss": [(5, 0.5)],
        "train/epoch": [(5, 1.0)],
        "train/rate": [(5, 0.25)],
        "val/loss": [(10, 0.75)],
    }
    assert len(lines(tmp_path)) == 3
