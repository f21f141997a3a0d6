"""Memory, files and memory maps do not grow during a run; soak.py prints the numbers."""

import pytest
import soak

from dim_jax.data.preparation import prepare_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=64, scale=0.05)


def assert_flat(usage, megabytes, megabytes_per_checkpoint):
    at_checkpoints, between = soak.growth(usage)
    assert between < megabytes * 1e6
    assert at_checkpoints < megabytes_per_checkpoint * 1e6 * usage["saved"].sum()
    assert usage["files"][1] - usage["files"][0] <= 2
    assert usage["maps"][1] - usage["maps"][0] <= 300  # of those 65,530 that a process may have


def test_memory_does_not_grow_over_some_hundred_steps_with_evaluations_and_checkpoints(data, tmp_path):
    usage = soak.watch(soak.arguments("classifier", "resident", data, steps=600, every=60), tmp_path / "run")
    assert_flat(usage, megabytes=30, megabytes_per_checkpoint=10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", soak.KINDS)
def test_memory_does_not_grow_over_ten_thousand_steps(kind, data, tmp_path):
    usage = soak.watch(soak.arguments(*kind.split("/"), data, steps=10_000, every=500), tmp_path / "run")
    assert_flat(usage, megabytes=20, megabytes_per_checkpoint=5)
