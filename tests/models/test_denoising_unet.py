"""The denoising U-Net: its first output, its size, labels and patches."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.models import make_denoiser
from dim_jax.models.denoising_unet import DenoisingUNet, fold, unfold

TINY = {"channels": (8, 8), "blocks": 1, "attention_side": 4}


def inputs(size, number=2):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(number, size, size, 3)), jnp.float32), jnp.linspace(-1.5, 1.0, number)


def test_by_default_it_has_about_five_million_parameters():
    images, noise = inputs(64)
    shapes = jax.eval_shape(DenoisingUNet(6).init, jax.random.key(0), images, noise, jnp.zeros(2, jnp.int32))
    assert 5.0e6 < sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) < 6.0e6


def test_it_starts_at_zero_and_then_follows_image_noise_level_and_label():
    network, (images, noise), labels = make_denoiser(2, **TINY), inputs(16), jnp.array([0, 1])
    variables = network.init(jax.random.key(0), images, noise, labels)
    assert not network.apply(variables, images, noise, labels).any()
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), variables)
    apply = jax.jit(network.apply)
    output = apply(moved, images, noise, labels)
    assert output.shape == images.shape and output.dtype == jnp.float32
    # Each image by itself.
    np.testing.assert_allclose(apply(moved, images[::-1], noise[::-1], labels[::-1])[::-1], output, atol=1e-5)
    for changed in ((2 * images, noise, labels), (images, noise + 0.5, labels), (images, noise, jnp.array([2, 2]))):
        assert (jnp.abs(apply(moved, *changed) - output).max((1, 2, 3)) > 1e-3).all()


@given(st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(1, 3))
def test_folding_keeps_every_pixel_in_its_square(side, rows, columns):
    images = jnp.arange(2 * rows * side * columns * side * 3).reshape(2, rows * side, columns * side, 3)
    maps = fold(images, side)
    assert maps.shape == (2, rows, columns, 3 * side**2)
    np.testing.assert_array_equal(unfold(maps, side), images)
    np.testing.assert_array_equal(maps[1, 0, 0], images[1, :side, :side].reshape(-1))


def test_labels_are_for_class_conditional_networks_alone():
    images, noise = inputs(16)
    for num_classes, labels in ((2, None), (0, jnp.zeros(2, jnp.int32))):
        with pytest.raises(ValueError, match="labels are required"):
            make_denoiser(num_classes, **TINY).init(jax.random.key(0), images, noise, labels)
