"""Weights of one GAN in another: what depends on the label is left out, and nothing else changes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.models import gcgan, make_gan
from dim_jax.trainers import initial_gan
from dim_jax.training.state import GanState, NetworkState

WIDTH = 1 / 32


def state_of(num_classes, seed, width=WIDTH):
    """The initial state of a GAN, and its networks."""
    generator, discriminator = make_gan(64, num_classes, width=width)
    labels = jnp.zeros(1, jnp.int32) if num_classes else None
    latents = jnp.zeros((1, generator.latent_size))
    small = gcgan.small_size(64)
    images = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, small, small, 3))
    first = jax.jit(lambda key: generator.init(key, latents, True, labels))(jax.random.key(seed))
    reconstruct = nn.nowrap(lambda key: discriminator.init(key, *images, 0, True, labels, method="reconstruct"))
    second = jax.jit(reconstruct)(jax.random.key(seed))
    networks = (NetworkState(**network, opt_state=()) for network in (first, second))
    state = GanState(jnp.zeros((), jnp.int32), *networks, first["params"], jnp.ones(()))
    return state, generator, discriminator


def saved(state):
    """The state as a checkpoint holds it."""
    networks = {name: getattr(state, name).variables for name in ("generator", "discriminator")}
    return jax.tree.map(np.asarray, {**networks, "ema_params": state.ema_params})


@pytest.fixture(scope="module")
def conditional():
    return state_of(3, seed=1)


def test_without_its_labels_a_conditional_gan_generates_and_discriminates_as_it_did(conditional):
    earlier, generator, discriminator = conditional
    state, own_generator, own_discriminator = state_of(0, seed=2)
    state = initial_gan.with_weights(state, saved(earlier), "runs/all")
    latents = jax.random.normal(jax.random.key(3), (4, generator.latent_size))
    labels, mutable = jnp.zeros(4, jnp.int32), ["batch_stats", "spectral"]

    # At a label strength of 0, and normalised by the batch: the norm after the first layer takes out its scale.
    expected, _ = generator.apply(earlier.generator.variables, latents, True, labels, None, 0.0, mutable=mutable)
    images, _ = own_generator.apply(state.generator.variables, latents, True, mutable=mutable)
    for ours, theirs in zip(images, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    logits = own_discriminator.apply(state.discriminator.variables, *images, False)
    theirs = discriminator.apply(earlier.discriminator.variables, *images, False, labels, 0.0)
    np.testing.assert_allclose(logits, theirs, rtol=1e-5, atol=1e-5)
    averaged = state.ema_params["seed"]["kernel"]
    np.testing.assert_array_equal(averaged, earlier.ema_params["seed"]["kernel"][: len(averaged)])


def test_a_gan_of_the_same_kind_is_taken_over_whole(conditional):
    earlier, *_ = conditional
    state = initial_gan.with_weights(state_of(3, seed=2)[0], saved(earlier), "runs/all")
    for name in ("generator", "discriminator"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name).variables, getattr(earlier, name).variables)


def test_networks_of_another_size_are_refused(conditional):
    with pytest.raises(ValueError, match=r"config\.gan\.initial_weights=runs/all is of another model"):
        initial_gan.with_weights(state_of(0, seed=2, width=1 / 16)[0], saved(conditional[0]), "runs/all")


@pytest.mark.parametrize(
    ("layer", "side"),
    [("big.stem", 64), ("big.down32", 32), ("big.gate16", 16), ("small.halve16", 16), ("small.halve8_norm", 8),
     ("big.hidden", 0), ("small.logits", 0), ("decode_whole.head", 0), ("big_labels.table", 0)],
)  # fmt: skip
def test_layers_are_frozen_by_the_side_of_their_maps(layer, side):
    assert gcgan.side_of_maps([*layer.split("."), "kernel"], 64) == side
