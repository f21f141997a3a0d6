"""Grad-CAM: definition, scale, and dependence on the learned weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.steps import grad_cam


class Bright(nn.Module):
    """Its feature map is the image itself; class k is the mean of channel k, class 0 negated."""

    @nn.compact
    def __call__(self, images):
        self.sow("intermediates", grad_cam.FEATURE_MAP, images)
        images = self.perturb(grad_cam.FEATURE_MAP, images)
        features = images.mean((1, 2))
        return features * jnp.array([-1.0, 1.0, 2.0]), features


def maps_of(images, classes):
    return [np.asarray(output) for output in grad_cam.grad_cam(Bright(), {}, jnp.asarray(images), jnp.asarray(classes))]


def test_the_map_of_a_network_with_a_known_map():
    """Class k of `Bright` depends on channel k alone, so its map is that channel over its maximum."""
    images = np.random.default_rng(0).uniform(0.1, 1, (4, 5, 7, 3)).astype(np.float32)
    logits, features, maps = maps_of(images, np.array([1, 2, 0, -1]))
    np.testing.assert_allclose(features, images.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(maps[0], images[0, :, :, 1] / images[0, :, :, 1].max(), rtol=1e-5)
    np.testing.assert_allclose(maps[1], images[1, :, :, 2] / images[1, :, :, 2].max(), rtol=1e-5)
    assert not maps[2].any()  # bright pixels lower the logit of class 0
    predicted = int(logits[3].argmax())
    np.testing.assert_allclose(maps[3], images[3, :, :, predicted] / images[3, :, :, predicted].max(), rtol=1e-5)


@pytest.fixture(scope="module")
def network():
    model = LRFCNN(3, stem_width=8, stages=((8,), (12,)), attention_width=8)
    variables = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 48, 48, 3)))
    images = np.random.default_rng(0).normal(size=(6, 48, 48, 3)).astype(np.float32)
    return model, {name: variables[name] for name in ("params", "batch_stats")}, images


def test_grad_cam_does_not_change_the_outputs(network):
    model, variables, images = network
    logits, features, maps = grad_cam.grad_cam(model, variables, images, np.full(6, -1))
    expected = model.apply(variables, images)
    np.testing.assert_allclose(logits, expected[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(features, expected[1], rtol=1e-6, atol=1e-7)
    assert maps.shape == (6, 6, 6)
    largest = np.asarray(maps).max((1, 2))
    assert set(np.round(largest, 5).tolist()) <= {0.0, 1.0} and maps.min() >= 0


def test_the_map_is_the_gradient_of_the_requested_class(network):
    """Against finite differences of the logit along each channel of the feature map."""
    model, variables, images = network
    image, label = images[:1], 2
    _, _, maps = grad_cam.grad_cam(model, variables, image, np.array([label]))
    _, collections = model.apply(variables, image, mutable=["intermediates"])
    activations = np.asarray(collections["intermediates"][grad_cam.FEATURE_MAP][0])

    def logit(shift):
        perturbed = {**variables, "perturbations": {grad_cam.FEATURE_MAP: jnp.asarray(shift, jnp.float32)}}
        return float(model.apply(perturbed, image)[0][0, label])

    weights = np.zeros(activations.shape[-1])
    for channel in range(len(weights)):
        shift = np.zeros_like(activations)
        shift[..., channel] = 0.05
        weights[channel] = (logit(shift) - logit(-shift)) / 0.1
    expected = np.maximum((activations[0] * weights).sum(-1), 0)
    np.testing.assert_allclose(maps[0], expected / max(expected.max(), 1e-30), atol=0.02)


def test_maps_change_when_the_weights_of_the_last_block_are_shuffled(network):
    """The sanity check of Adebayo et al.: an unchanged map would show the image, not the network."""
    model, variables, images = network
    assert model.last_block in variables["params"] and f"block{2}" not in variables["params"]
    shuffled = {**variables, "params": grad_cam.shuffle_weights(variables["params"], model.last_block)}
    for name, module in shuffled["params"].items():
        for ours, theirs in zip(jax.tree.leaves(module), jax.tree.leaves(variables["params"][name]), strict=True):
            assert np.array_equal(np.sort(ours, None), np.sort(theirs, None))
            if name != model.last_block:
                np.testing.assert_array_equal(ours, theirs)
    classes = np.array([0, 1, 2, 0, 1, 2])
    before = grad_cam.grad_cam(model, variables, images, classes)[2]
    after = grad_cam.grad_cam(model, shuffled, images, classes)[2]
    assert not np.allclose(before, after, atol=0.1)
    assert abs(grad_cam.rank_correlation(np.asarray(before), np.asarray(after))) < 0.8


def test_rank_correlation_of_equal_reversed_and_empty_maps():
    maps = np.random.default_rng(0).uniform(size=(3, 4, 4))
    assert grad_cam.rank_correlation(maps, maps**3) == pytest.approx(1)
    assert grad_cam.rank_correlation(maps, 1 - maps) == pytest.approx(-1)
    assert grad_cam.rank_correlation(maps, np.zeros_like(maps)) is None
