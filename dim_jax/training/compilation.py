"""Compilation cache and garbage-collector settings for processes that compile networks."""

import contextlib
import gc
import os
from pathlib import Path
from typing import Any

import filelock
import jax

CACHE_BYTES = 2 * 2**30
LOCK_TIMEOUT = 10  # seconds, as in JAX
# New objects per collection of the youngest generation. With Python's default (700) collections take an eighth of the
# time from the start to the first step.
COLLECTION_THRESHOLD = 100_000


def configure_compilation() -> None:
    """Turns on the compilation cache on disk and makes garbage collections rarer.

    Compiled programs are stored in ~/.cache/dim_jax/xla, under XDG_CACHE_HOME if that is set. Beyond 2 GiB the least
    recently used ones are deleted; JAX_COMPILATION_CACHE_MAX_SIZE sets another limit in bytes, -1 for none. With a
    limit JAX locks the cache, so processes may share it. If JAX_COMPILATION_CACHE_DIR is set, or the cache was
    configured in Python, all of JAX's own settings stay.
    """
    config: Any = jax.config  # its options are no attributes to type checkers
    if not config.jax_compilation_cache_dir:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dim_jax" / "xla"
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ and config.jax_compilation_cache_max_size == -1:
            config.update("jax_compilation_cache_max_size", CACHE_BYTES)
        if config.jax_compilation_cache_max_size > 0:
            remove_entries_without_time(folder)
        config.update("jax_compilation_cache_dir", str(folder))
    make_collections_rare()


def make_collections_rare() -> None:
    """Raises the threshold of the garbage collector: tracing creates millions of objects that stay alive."""
    youngest, *older = gc.get_threshold()
    if 0 < youngest < COLLECTION_THRESHOLD:  # 0 turns automatic collections off
        gc.set_threshold(COLLECTION_THRESHOLD, *older)


def clear_compiled_programs() -> None:
    """Frees all compiled programs; each holds tens of memory maps, of which Linux gives a process 65,530."""
    jax.clear_caches()


def remove_entries_without_time(folder: Path) -> None:
    """Deletes cache entries without a time of use, with which JAX can't enforce a limit and writes nothing more.

    A process killed while it writes leaves such an entry, possibly incomplete, and so does a cache without a limit.
    """
    # A cache that can't be written or locked is JAX's to report: it warns and compiles without the cache.
    with (
        contextlib.suppress(OSError, NotImplementedError),
        filelock.FileLock(folder / ".lockfile", timeout=LOCK_TIMEOUT),
    ):
        for entry in folder.glob("*-cache"):
            if not entry.with_name(f"{entry.name.removesuffix('-cache')}-atime").is_file():
                entry.unlink()
