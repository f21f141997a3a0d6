"""Locks name their holder, and are refused where their file cannot be made."""

import logging
import os
import threading
import time

import filelock
import pytest

from dim_jax.runs import files, locks


def test_waiting_names_the_process_that_holds_the_lock(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(locks, "SECONDS_BEFORE_NOTICE", 0.02)
    caplog.set_level(logging.WARNING)
    path, holds = tmp_path / "a.lock", threading.Event()

    def hold():
        lock = locks.acquire(path, tmp_path)
        holds.set()
        time.sleep(0.2)
        lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    with pytest.raises(filelock.Timeout):
        locks.acquire(path, tmp_path, wait=False)
    locks.acquire(path, tmp_path).release()
    thread.join()
    assert f"waiting for process {os.getpid()} on " in caplog.text and f"which uses {tmp_path}" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\xff", b" \n"])
def test_a_lock_without_a_name_is_of_another_process(tmp_path, content):
    (tmp_path / "a.lock").write_bytes(content)
    assert locks.holder(tmp_path / "a.lock") == "another process"
    assert locks.holder(tmp_path / "none.lock") == "another process"


@pytest.mark.parametrize("target", ["/proc/out", "/proc/out/deep"])
def test_a_lock_that_cannot_be_made_is_refused_at_once(target):
    started = time.monotonic()
    with pytest.raises(OSError, match="No such file"), files.turn(target):
        pass
    assert time.monotonic() - started < locks.SECONDS_BEFORE_NOTICE


def test_the_lock_of_a_volume_is_in_it(tmp_path, monkeypatch):
    """The folder around a mounted volume is often another user's."""
    volume, real_access = tmp_path / "volume", os.access
    volume.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and real_access(path, mode))
    with files.turn(volume):
        assert [path.name for path in volume.iterdir()] == [".volume.turn.lock"]
    assert not list(volume.iterdir()) and list(tmp_path.iterdir()) == [volume]
