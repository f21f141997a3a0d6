"""The compilation cache that the commands use."""

import os
import subprocess
import sys

import pytest

# Prints the size limit, whether the program came from the cache, and its value.
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from jax._src import monitoring
from dim_jax.training import compilation

compilation.configure_compilation()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
for number in range(int(sys.argv[1])):
    value = jax.jit(lambda x: jnp.sin(x) * (number + 2))(jnp.ones(3))
print(jax.config.jax_compilation_cache_max_size, jax.config.jax_compilation_cache_dir, len(hits), float(value[0]))
"""


@pytest.fixture
def environment(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return environment | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}


def start(environment, count=1):
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(count)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    limit, folder, hits, value = output.split()
    return int(limit), folder, int(hits), float(value), errors


def test_two_processes_share_a_limited_cache(environment, tmp_path):
    first = [finish(process) for process in [start(environment, 8), start(environment, 8)]]
    third = finish(start(environment, 8))
    for limit, folder, _, value, errors in [*first, third]:
        assert limit == 2 * 2**30 and folder == str(tmp_path / "dim_jax" / "xla")
        assert value == first[0][3] and "cache entry" not in errors
    assert third[2] >= 8
    entries = [path.name for path in (tmp_path / "dim_jax" / "xla").iterdir()]
    assert {name.removesuffix("-cache") for name in entries if name.endswith("-cache")} == {
        name.removesuffix("-atime") for name in entries if name.endswith("-atime")
    }


def test_an_incomplete_entry_is_written_again(environment, tmp_path):
    finish(start(environment))
    folder = tmp_path / "dim_jax" / "xla"
    for path in folder.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:10])
    for path in folder.glob("*-atime"):
        path.unlink()
    *_, errors = finish(start(environment))
    assert "cache entry" not in errors
    assert finish(start(environment))[2] >= 1


@pytest.mark.parametrize(
    ("variables", "limit", "folder"),
    [
        ({"JAX_COMPILATION_CACHE_MAX_SIZE": "1000000"}, 1_000_000, "dim_jax/xla"),
        ({"JAX_COMPILATION_CACHE_MAX_SIZE": "-1"}, -1, "dim_jax/xla"),
        ({"JAX_COMPILATION_CACHE_DIR": "mine"}, -1, "mine"),
    ],
)
def test_variables_of_jax_take_precedence(environment, tmp_path, variables, limit, folder):
    if "JAX_COMPILATION_CACHE_DIR" in variables:
        variables = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine")}
    assert finish(start(environment | variables))[:2] == (limit, str(tmp_path / folder))
