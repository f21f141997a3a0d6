"""Locks that let several processes share the runs of one experiment."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import filelock


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
    lock = filelock.FileLock(path, blocking=wait, poll_interval=1.0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    except NotImplementedError:
        raise OSError(errno.ENOLCK, "the file system has no file locks", str(folder)) from None
    try:
        yield True
    finally:
        lock.release()
