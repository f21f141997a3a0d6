"""Waiting less for programs: tracing and compiling them, and letting go of those that are done with."""

import gc
import os
from pathlib import Path

import jax

COLLECTED_EVERY = 100_000  # new objects; by Python's own 700, an eighth of a start until the program is read goes there


def configure_compilation() -> None:
    """Prepares a process that is going to compile networks.

    Compiled programs are kept on disk for the next start, in JAX_COMPILATION_CACHE_DIR or ~/.cache/dim_jax/xla, and
    garbage is looked for less often: tracing makes millions of objects, which stay.
    """
    if not jax.config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "dim_jax" / "xla"))
    youngest, *older = gc.get_threshold()
    if 0 < youngest < COLLECTED_EVERY:  # 0: whoever runs this wants no collection at all
        gc.set_threshold(COLLECTED_EVERY, *older)


def clear_compiled_programs() -> None:
    """Lets go of compiled programs; each holds tens of memory maps, of which a process may have 65,530."""
    jax.clear_caches()
