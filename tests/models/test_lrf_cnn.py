"""LRF-CNN's layers, fields and initial weights; test_parity.py compares it with the published network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_rule import normal

from dim_jax.models.batch_norm import BatchNorm
from dim_jax.models.layers import Conv
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.models.prepared_weights import prepare_weights
from dim_jax.weights import torch_names


def test_batch_norm_stores_the_unbiased_variance_and_normalises_with_the_biased_one():
    x = normal("bn", (4, 3, 3, 2))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)
    y, updates = norm.apply(variables, x, True, mutable=["batch_stats"])
    flat = x.reshape(-1, 2)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    standardised = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 2), standardised, rtol=1e-4, atol=1e-5)


SMALL = LRFCNN(num_classes=3, stem_width=8, stages=((8,), (12,)), attention_width=8)


@pytest.fixture(scope="module")
def small_variables():
    return SMALL.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_drop_connect_depends_on_the_key_of_the_example_alone(small_variables):
    images = jnp.broadcast_to(normal("i", (1, 32, 32, 3)), (4, 32, 32, 3))
    keys = jax.random.split(jax.random.key(1), 4)

    def logits(keys):
        return SMALL.apply(small_variables, images, True, keys, mutable=["batch_stats"])[0][0]

    first, again = logits(keys), logits(keys[jnp.array([0, 3, 2, 1])])
    np.testing.assert_allclose(first[jnp.array([0, 3, 2, 1])], again, rtol=1e-6)
    assert not np.allclose(first[0], first[1])
    with pytest.raises(ValueError, match="example_keys"):
        logits(None)


def test_bfloat16_stays_near_float32(small_variables):
    images = normal("i", (4, 32, 32, 3))
    exact = SMALL.apply(small_variables, images)[0]
    low_precision = SMALL.clone(dtype=jnp.bfloat16).apply(small_variables, images)[0]
    assert low_precision.dtype == jnp.float32
    np.testing.assert_allclose(low_precision, exact, atol=0.03 * float(np.abs(exact).max()))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_prepared_weights_give_the_same_numbers(small_variables, dtype):
    model, images = SMALL.clone(dtype=dtype), normal("i", (4, 32, 32, 3))
    collections = prepare_weights(model, small_variables, images[:1])
    names = {
        path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(collections, is_leaf=lambda x: type(x) is tuple)
    }
    assert names == {"normalization", "matrix"} | ({"weights"} if dtype == jnp.bfloat16 else set())
    # Prepared weights are not computed again from the variables.
    zeros = jax.tree.map(jnp.zeros_like, small_variables["batch_stats"])
    got = model.apply({**small_variables, **collections, "batch_stats": zeros}, images)
    for ours, expected in zip(got, model.apply(small_variables, images), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_depthwise_variant_is_lighter_and_widths_are_fields(small_variables):
    light = SMALL.clone(depthwise=True)
    variables = light.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))  # noqa: E731
    assert count(variables) < count(small_variables)
    logits, features = light.apply(variables, jnp.zeros((2, 32, 32, 3)))
    assert logits.shape == (2, 3) and features.shape == (2, 12)
    names = torch_names.lrf_cnn_names(light)
    assert len(torch_names.to_torch(variables, names)) == len(jax.tree.leaves(variables))


def test_initial_weights_follow_pytorchs_bound():
    params = Conv(32, 3).init(jax.random.key(0), jnp.zeros((1, 8, 8, 16)))["params"]
    bound = 1 / np.sqrt(9 * 16)
    assert bound * 0.98 < np.abs(params["kernel"]).max() <= bound
    assert np.abs(params["bias"]).max() <= bound
