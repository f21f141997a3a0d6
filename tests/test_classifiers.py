"""The networks beside LRF-CNN: what every classifier must do, and their published sizes."""

import jax
import jax.numpy as jnp
import pytest

from dim_jax.models import CLASSIFIERS, make_classifier


def num_params(model, side=64):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_the_light_network_is_lrf_cnn_with_separable_dilated_convolutions():
    light, published = (make_classifier(name, 5) for name in ("light_lrf_cnn", "lrf_cnn"))
    assert light == published.clone(depthwise=True)
    assert num_params(light) == 9_880_326
    with pytest.raises(ValueError, match=r"config\.model\.depthwise is not a field of light_lrf_cnn"):
        make_classifier("light_lrf_cnn", 5, depthwise=False)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_field_that_a_network_lacks_is_refused(name):
    with pytest.raises(ValueError, match=rf"config\.model\.heads is not a field of {name}"):
        make_classifier(name, 5, heads=3)
