"""Eight fake CPU devices and a compilation cache for the whole suite, set before JAX starts."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
cache = Path(__file__).parents[1] / ".pytest_cache" / "xla" / os.environ.get("PYTEST_XDIST_WORKER", "")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")

# The first example of a property may include a compilation.
hypothesis.settings.register_profile("dim_jax", deadline=None)
hypothesis.settings.load_profile("dim_jax")


@pytest.fixture(scope="module", autouse=True)
def programs_end_with_their_module():
    """A compiled program holds tens of memory maps; a process that reaches the system's limit (65,530) crashes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
