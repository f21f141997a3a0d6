"""Locks that let several processes share the runs of one experiment."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import filelock

from dim_jax.runs import locks

POLL_SECONDS = 1.0  # runs take minutes


@contextlib.contextmanager
def claim(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Claims the work on a folder for this process; the claim ends with the block or the process.

    The lock is the file `.NAME.lane` beside the folder, which stays.

    Args:
      folder: for example a run directory; it need not exist.
      wait: wait for another process that holds the claim.

    Yields:
      Whether it is claimed; without `wait` another process may hold it.

    Raises:
      OSError: the file system has no locks.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f".{folder.name}.lane")
    try:
        lock = locks.acquire(path, folder, wait=wait, poll_interval=POLL_SECONDS)
    except filelock.Timeout:
        yield False
        return
    except NotImplementedError:
        raise OSError(errno.ENOLCK, "the file system has no file locks", str(folder)) from None
    try:
        yield True
    finally:
        lock.release()
