"""The owner of a folder in a bucket: an object that names the only process that may write there."""

import contextlib
import datetime
import json
import logging
import os
import platform
import uuid
from typing import Any

from dim_jax.runs.buckets import BucketFolder

FILE_NAME = ".owner.json"

log = logging.getLogger(__name__)


class Owner:
    """This process as the owner of a folder in a bucket, until `release`.

    A process that is killed stays the owner, because a bucket cannot tell that it has ended; `take_over` replaces it.

    Attributes:
      has_taken_over: whether there was another owner.
    """

    def __init__(self, folder: BucketFolder, take_over: bool = False):
        """Args:
          folder: the folder.
          take_over: replace another owner.

        Raises:
          ValueError: the folder has another owner.
          OSError: nothing can be written there.
        """
        self._folder = folder
        record = {
            "host": platform.node(),
            "process": os.getpid(),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "token": uuid.uuid4().hex,
        }
        self._data = json.dumps(record).encode()
        self.has_taken_over = not folder.create(FILE_NAME, self._data)
        if self.has_taken_over:
            holder = self._holder()
            if not take_over:
                raise ValueError(
                    f"{folder.url} is in use by {holder}; wait for it or, if it has crashed, add --take-over"
                )
            log.warning("taking %s over from %s", folder.url, holder)
            folder.write(FILE_NAME, self._data)
        elif folder.create(FILE_NAME, self._data + b"\n"):
            folder.write(FILE_NAME, self._data)
            log.warning("the store of %s ignores preconditions; see that no two processes write there", folder.url)
        self.check()

    def check(self) -> None:
        """Raises ValueError if another process has taken the folder over."""
        if not self._is_here():
            raise ValueError(
                f"{self._folder.url} was taken over by {self._holder()}; this process has uploaded nothing since"
            )

    def release(self) -> None:
        """Deletes the object, unless another process has taken the folder over."""
        if self._is_here():
            self._folder.delete([FILE_NAME])

    def _is_here(self) -> bool:
        try:
            return self._folder.read(FILE_NAME) == self._data
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        """Returns the process that the object names."""
        record: Any = None
        with contextlib.suppress(FileNotFoundError, ValueError):
            record = json.loads(self._folder.read(FILE_NAME))
        if not isinstance(record, dict):
            return "another process"
        return f"process {record.get('process')} on {record.get('host')} since {record.get('time')}"
