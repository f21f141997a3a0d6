"""Mixing of pairs: identities, the distribution of shares, and independence of the rest of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dim_jax import losses
from dim_jax.augmentation import mixing

SIDE = 16
mixed = {
    name: jax.jit(jax.vmap(method, in_axes=(0, 0, 0, None)), static_argnums=3)
    for name, method in mixing.METHODS.items()
}


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def batch(count, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (count, SIDE, SIDE, 3)).astype(np.float32)


@pytest.mark.parametrize("name", mixing.METHODS)
def test_mixing_an_image_with_itself_changes_no_bit(name):
    images = batch(8)
    result, _ = mixed[name](keys(8), images, images, 1.0)
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("name", mixing.METHODS)
def test_the_share_of_the_label_is_that_of_the_image(name):
    result, shares = mixed[name](keys(32), np.zeros((32, SIDE, SIDE, 3)), np.ones((32, SIDE, SIDE, 3)), 1.0)
    np.testing.assert_allclose(np.mean(result, axis=(1, 2, 3)), shares, rtol=1e-5, atol=1e-6)
    assert 0 <= shares.min() < 0.3 and 0.6 < shares.max() <= 1


@pytest.mark.parametrize("name", mixing.METHODS)
def test_other_examples_of_the_batch_do_not_matter(name):
    images, partners = batch(6), batch(6, seed=1)
    result, shares = mixed[name](keys(6), images, partners, 0.4)
    order = np.array([3, 1, 5, 0, 2, 4])
    permuted, of_permuted = mixed[name](keys(6)[order], images[order], partners[order], 0.4)
    np.testing.assert_array_equal(permuted, result[order])
    np.testing.assert_array_equal(of_permuted, shares[order])


def test_cutmix_pastes_one_rectangle_of_the_partner():
    result, _ = mixed["cutmix"](keys(20), np.zeros((20, SIDE, SIDE, 3)), np.ones((20, SIDE, SIDE, 3)), 1.0)
    for image in np.asarray(result):
        rows, columns = image[..., 0].any(1), image[..., 0].any(0)
        np.testing.assert_array_equal(image, np.broadcast_to((rows[:, None] & columns)[..., None], image.shape))
        for inside in (rows, columns):  # no gap
            assert np.count_nonzero(np.diff(inside.astype(int))) <= 2 and inside[np.flatnonzero(inside)].all()


def test_shares_follow_their_beta_distributions():
    points = np.zeros((4000, 1), np.float32)
    shares = {name: np.asarray(mixed[name](keys(4000), points, points, 0.2)[1]) for name in ("mixup", "balanced_mixup")}
    assert shares["mixup"].mean() == pytest.approx(0.5, abs=0.03)
    # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert shares["mixup"].var() == pytest.approx(1 / 5.6, abs=0.01)
    assert shares["balanced_mixup"].mean() == pytest.approx(mixing.balanced_share(0.2), abs=0.02)
    for limit in (0.01, 0.3, 0.8):
        assert np.mean(shares["balanced_mixup"] <= limit) == pytest.approx(limit**0.2, abs=0.03)


def test_balanced_mixup_tends_to_plain_training_as_alpha_tends_to_0():
    images = batch(16)
    result, shares = mixed["balanced_mixup"](keys(16), images, batch(16, seed=1), 1e-6)
    np.testing.assert_array_equal(result, images)
    np.testing.assert_array_equal(shares, 0.0)


def test_the_loss_of_both_labels_by_their_shares_is_that_of_the_soft_label():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    labels, partners, shares = np.array([0, 1, 2, 0, 1]), np.array([2, 1, 0, 1, 0]), np.array([0.0, 0.3, 0.5, 0.9, 1.0])
    cross_entropy = lambda labels: losses.LOSSES["cross_entropy"](logits, labels, None, None, None)  # noqa: E731
    soft = (1 - shares)[:, None] * jax.nn.one_hot(labels, 3) + shares[:, None] * jax.nn.one_hot(partners, 3)
    np.testing.assert_allclose(
        (1 - shares) * cross_entropy(labels) + shares * cross_entropy(partners),
        optax.softmax_cross_entropy(logits, jnp.asarray(soft)),
        rtol=1e-5,
    )
