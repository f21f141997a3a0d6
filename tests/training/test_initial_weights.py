"""Initial weights depend only on the seed and the position of a tensor in the network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.models import make_classifier
from dim_jax.training import initial_weights

SIZE = 32


def initial_variables(seed, width=1 / 16):
    model = make_classifier("lrf_cnn", 5, width=width)
    return initial_weights.draw(lambda key: model.init(key, jnp.zeros((1, SIZE, SIZE, 3))), seed)


def test_weights_are_reproducible_by_seed_and_differ_between_seeds():
    first, again, other = initial_variables(0), initial_variables(0), initial_variables(1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    same = jax.tree.map(np.array_equal, first["params"], other["params"])
    assert not any(leaf for path, leaf in jax.tree_util.tree_leaves_with_path(same) if "kernel" in str(path))


def test_tensors_are_independent_and_follow_pytorchs_distribution():
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(initial_variables(0, width=0.25)["params"])
        if "kernel" in str(path)
    ]
    assert len({kernel.ravel()[:2].tobytes() for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        bound = np.prod(kernel.shape[:-1]) ** -0.5
        assert np.abs(kernel).max() <= bound
        if kernel.size > 2000:
            # The standard deviation of a uniform distribution, to five of its own standard errors.
            assert kernel.std() == pytest.approx(bound / 3**0.5, rel=5 * 0.45 / kernel.size**0.5)


def test_flax_initializers_accept_these_keys():
    values = initial_weights.draw(lambda key: nn.initializers.normal(1.0)(key, (4000,)), 3)
    assert np.mean(values) == pytest.approx(0, abs=0.08)
    assert np.std(values) == pytest.approx(1, abs=0.06)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), data=st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=8, unique=True))
def test_keys_differ_by_the_folded_in_numbers_and_their_order(seed, data):
    def keys(key):
        folded = jax.vmap(lambda value: jax.random.fold_in(key, value))(jnp.array(data, jnp.uint32))
        parts = jax.random.split(key, 3)
        within_parts = jax.vmap(lambda part: jax.random.fold_in(part, jnp.uint32(data[0])))(parts)
        return [jax.random.key_data(some) for some in (folded, within_parts)]

    for derived in initial_weights.draw(keys, seed):
        assert len(np.unique(derived, axis=0)) == len(derived)
