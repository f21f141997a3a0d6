"""A long run holds no more memory, files and memory maps than a short one; soak.py tells the numbers."""

import pytest
import soak

from dim_jax.data.preparation import prepare_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=64, scale=0.05)


def assert_flat(seen, megabytes, megabytes_per_checkpoint):
    at_checkpoints, between = soak.growth(seen)
    assert between < megabytes * 1e6
    assert at_checkpoints < megabytes_per_checkpoint * 1e6 * seen["saved"].sum()
    assert seen["files"][1] - seen["files"][0] <= 2
    assert seen["maps"][1] - seen["maps"][0] <= 300  # of those 65,530 that a process may have


def test_some_hundred_steps_with_their_evaluations_and_checkpoints_pile_nothing_up(data, tmp_path):
    seen = soak.watch(soak.arguments("classifier", "resident", data, steps=600, every=60), tmp_path / "run")
    assert_flat(seen, megabytes=30, megabytes_per_checkpoint=10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", soak.KINDS)
def test_ten_thousand_steps_pile_nothing_up(kind, data, tmp_path):
    seen = soak.watch(soak.arguments(*kind.split("/"), data, steps=10_000, every=500), tmp_path / "run")
    assert_flat(seen, megabytes=20, megabytes_per_checkpoint=5)
