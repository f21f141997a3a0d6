"""Atomic files, and curves as JSON lines and TensorBoard events."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.runs import files
from dim_jax.runs.metrics_file import FILE_NAME, read_lines
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
    content = path.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    cut = min(cut, last)
    path.write_bytes(content[:-cut])
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


@pytest.mark.parametrize(
    ("content", "steps", "unreadable"),
    [
        (b"", [], []),
        (b'{"step": 1}\n{"step": 2}', [1, 2], []),
        (b'{"step": 1}\n{"step": 2', [1], []),
        (b'{"step": 1}\n{"step": 2\n{"step": 3}\n', [1, 3], [2]),
        (b'[1]\n17\n"step"\n{"loss": 1}\n{"step": "1"}\n{"step": NaN}\n{"step": 1e999}\n', [], [1, 2, 3, 4, 5, 6, 7]),
        (b'{"step": 1' + b"0" * 400 + b'}\n{"step": 9223372036854775808}\n{"step": 3.0}\r\n', [3], [1, 2]),
        (b"[" * 100000 + b'\n{"step": 4}\n', [4], [1]),
        ('{"step": 1, "note": "a\u2028b\u0085c"}\n'.encode(), [1], []),
    ],
)
def test_the_reader_skips_unreadable_lines(tmp_path, content, steps, unreadable):
    (tmp_path / FILE_NAME).write_bytes(content)
    records, numbers = read_lines(tmp_path)
    assert ([record["step"] for record in records], numbers) == (steps, unreadable)


def test_without_a_file_there_are_no_lines(tmp_path):
    assert read_lines(tmp_path) == ([], [])


@given(content=st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789stepnul\n ', max_size=200).map(str.encode))
def test_the_reader_accepts_any_bytes(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    (folder / FILE_NAME).write_bytes(content)
    records, numbers = read_lines(folder)
    assert len(records) + len(numbers) <= content.count(b"\n") + 1


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


def test_a_file_is_written_with_its_folders_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a" / "b.json"
    assert files.write_bytes(path, b"old") == path
    files.write_bytes(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert [other.name for other in path.parent.iterdir()] == ["b.json"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, fails):
    path = files.write_text(tmp_path / "a.txt", "old")

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_folder", [False, True])
def test_leftovers_of_a_killed_writer_are_replaced(tmp_path, is_folder):
    program = (
        "import os, sys; from dim_jax.runs import files\n"
        "with files.replacement(sys.argv[1], is_folder=bool(int(sys.argv[2]))) as path:\n"
        "    (path / 'half' if path.is_dir() else path).write_bytes(b'half of it')\n"
        "    os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "a"
    for _ in range(3):
        command = [sys.executable, "-c", program, str(target), str(int(is_folder))]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert sorted(path.name for path in tmp_path.iterdir()) == [".a.lock", ".a.tmp"]
    with files.replacement(target, is_folder=is_folder) as path:
        (path / "whole" if is_folder else path).write_bytes(b"w")
    assert list(tmp_path.iterdir()) == [target]
    assert [path.name for path in target.iterdir()] == ["whole"] if is_folder else target.read_bytes() == b"w"


def test_concurrent_writes_of_one_file_are_atomic(tmp_path):
    """A reader never sees a partial file."""
    path, contents = tmp_path / "a", [bytes([letter]) * 300_000 for letter in b"abcd"]
    files.write_bytes(path, contents[0])
    with ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(lambda c: [files.write_bytes(path, c) for _ in range(20)], content) for content in contents
        ]
        states = {path.read_bytes() for _ in range(200)}
        assert all(len(future.result()) == 20 for future in futures)
    assert states <= set(contents) and list(tmp_path.iterdir()) == [path]


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
    path = files.write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        files.write_json(path, {"x": object()})
    assert files.read_json(path) == [1] and list(tmp_path.iterdir()) == [path]


def test_json_takes_numpy_and_paths_and_turns_what_is_not_finite_into_null(tmp_path):
    value = {
        1: np.int64(2),
        "array": np.array([[1.5, np.nan], [np.inf, 0]], np.float32),
        "flag": np.bool_(True),
        "tuple": (float("-inf"), np.float32(0.5), None, "é"),
        "path": tmp_path,
    }
    path = files.write_json(tmp_path / "a.json", value)
    assert files.read_json(path) == {
        "1": 2,
        "array": [[1.5, None], [None, 0]],
        "flag": True,
        "tuple": [None, 0.5, None, "é"],
        "path": str(tmp_path),
    }
    json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=JSON.filter(lambda value: "\ud800" not in repr(value)))
def test_json_round_trip_is_exact(tmp_path_factory, value):
    assert files.read_json(files.write_json(tmp_path_factory.getbasetemp() / "value.json", value)) == value


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    path = files.write_bytes(tmp_path / "broken.json", content)
    with pytest.raises(ValueError, match=rf"{path} is not valid JSON"):
        files.read_json(path)


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path / 'no.json'}: no such file"):
        files.read_json(tmp_path / "no.json")
