"""Locks of files between processes, which say who holds them."""

import contextlib
import logging
import os
import platform
from pathlib import Path

import filelock

SECONDS_BEFORE_NOTICE = 2.0
LONGEST_HOLDER = 200  # characters of a lock's file that are shown

log = logging.getLogger(__name__)


def acquire(path: Path, target: Path, *, wait: bool = True, poll_interval: float = 0.01) -> filelock.FileLock:
    """Acquires the lock of a file and writes this process into it.

    Args:
      path: file of the lock, in an existing folder; it stays when the lock is released.
      target: what the lock is for. Waiting is logged with it and the process that holds the lock.
      wait: whether to wait for that process.
      poll_interval: seconds between attempts.

    Returns:
      The lock, for the caller to release.

    Raises:
      filelock.Timeout: another process holds the lock, and `wait` is False.
      NotImplementedError: the file system has no locks.
      OSError: the file cannot be created or opened, or as NotImplementedError.
    """
    # filelock would retry for ever where a file can't be created although its folder exists, as in /proc.
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o666))
    # A soft lock would outlive a killed process.
    lock = filelock.FileLock(path, poll_interval=poll_interval, fallback_to_soft=False)
    try:
        lock.acquire(timeout=SECONDS_BEFORE_NOTICE, blocking=wait)
    except filelock.Timeout:
        if not wait:
            raise
        log.warning("waiting for %s, which uses %s", holder(path), target)
        lock.acquire()
    with contextlib.suppress(OSError):
        path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    return lock


def holder(path: Path) -> str:
    """Returns the process that holds a lock, as `acquire` wrote it into the lock's file."""
    with contextlib.suppress(OSError, ValueError):
        if text := path.read_text(encoding="utf-8")[:LONGEST_HOLDER].strip():
            return text
    return "another process"
