"""Atomic writes of files, and JSON."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.runs import files, locks


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
    path, versions = tmp_path / "a", [bytes([letter]) * 300_000 for letter in b"abcd"]
    files.write_bytes(path, versions[0])
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(lambda c: [files.write_bytes(path, c) for _ in range(20)], data) for data in versions]
        states = {path.read_bytes() for _ in range(200)}
        assert all(len(future.result()) == 20 for future in futures)
    assert states <= set(versions) and list(tmp_path.iterdir()) == [path]


def test_only_listed_files_and_new_ones_may_be_written(tmp_path):
    ours, mine = files.write_text(tmp_path / "a.txt", "ours"), files.write_text(tmp_path / "b.txt", "mine")
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere")
    files.check_replaceable([ours, tmp_path / "new" / "c.txt"], {ours})
    files.check_replaceable(["no such folder/new.txt"])
    for foreign in (mine, tmp_path / "link.txt", tmp_path):
        with pytest.raises(ValueError, match=f"would overwrite {re.escape(str(foreign))}, which no earlier call"):
            files.check_replaceable([ours, foreign], {ours})
    with pytest.raises(ValueError, match=f"would overwrite {re.escape(str(mine))}, which"):
        files.check_replaceable([mine / "in a file" / "c.txt"])
    with pytest.raises(ValueError, match=f"would overwrite {re.escape(str(mine))} and 1 more, which"):
        files.check_replaceable([mine, tmp_path / "link.txt"])


@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_that_another_process_writes_meanwhile_is_not_replaced(tmp_path, is_there):
    if is_there:
        (tmp_path / "a").mkdir()
    barrier = threading.Barrier(2)

    def write(name):
        barrier.wait()
        try:
            with files.replacement(tmp_path / "a", is_folder=True) as folder:
                time.sleep(0.1)
                (folder / name).touch()
        except ValueError as error:
            return str(error)
        return name

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(write, ("x", "y")), key=len)
    assert [path.name for path in (tmp_path / "a").iterdir()] == results[:1]
    assert "was written by another process meanwhile; run the same command again" in results[1]
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_turns_wait_for_each_other_and_leave_no_lock(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_BEFORE_NOTICE", 0.02)
    caplog.set_level(logging.INFO)
    active, most = [], []

    def work(number):
        with files.turn(tmp_path / "new" / "out"):
            active.append(number)
            most.append(len(active))
            time.sleep(0.05)
            active.remove(number)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(6)))
    assert most == [1] * 6 and not list((tmp_path / "new").iterdir())
    assert "waiting for process" in caplog.text


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


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe"])
def test_a_file_that_is_not_json_is_named(tmp_path, data):
    path = files.write_bytes(tmp_path / "broken.json", data)
    with pytest.raises(ValueError, match=rf"{path} is not valid JSON"):
        files.read_json(path)


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path / 'no.json'}: no such file"):
        files.read_json(tmp_path / "no.json")
