import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dim_jax.losses import gan as gan_losses

LOGITS = arrays(np.float32, (3, 4), elements=st.floats(-3, 3, width=32))
MARGINS = arrays(np.float32, (3, 4), elements=st.floats(np.float32(0.8), 1, width=32))


def gradient(loss, logits, *arguments):
    return np.asarray(jax.grad(lambda logits: loss(logits, *arguments).sum())(jnp.asarray(logits)))


def test_known_numbers():
    logits = np.array([[-1.0, 0.5, 2.0, 0.9], [0.0, 0.0, 0.0, 0.0]], np.float32)
    margins = np.array([[0.8, 0.9, 1.0, 0.9], [0.8, 0.9, 1.0, 0.9]], np.float32)
    np.testing.assert_allclose(gan_losses.hinge_real(logits, margins), [(1.8 + 0.4) / 4, 0.9], rtol=1e-6)
    np.testing.assert_allclose(gan_losses.hinge_fake(logits, margins), [(1.4 + 3.0 + 1.8) / 4, 0.9], rtol=1e-6)
    np.testing.assert_allclose(gan_losses.generator(logits), [-0.6, 0.0], rtol=1e-6)


@given(logits=LOGITS, margins=MARGINS)
def test_hinge_of_generated_images_is_that_of_real_images_mirrored(logits, margins):
    np.testing.assert_array_equal(gan_losses.hinge_fake(logits, margins), gan_losses.hinge_real(-logits, margins))


@given(logits=LOGITS, margins=MARGINS)
def test_hinge_is_never_negative_and_zero_only_beyond_the_margins(logits, margins):
    loss = np.asarray(gan_losses.hinge_real(logits, margins))
    assert (loss >= 0).all()
    np.testing.assert_array_equal(loss == 0, (logits >= margins).all(-1))


@given(logits=LOGITS, margins=MARGINS)
def test_gradients_are_zero_beyond_the_margins(logits, margins):
    within = np.abs(logits - margins) > 1e-6  # at the kink either slope is valid
    pushed_up = np.where(logits < margins, -1 / 4, 0)
    np.testing.assert_array_equal(gradient(gan_losses.hinge_real, logits, margins)[within], pushed_up[within])
    within = np.abs(logits + margins) > 1e-6
    pushed_down = np.where(logits > -margins, 1 / 4, 0)
    np.testing.assert_array_equal(gradient(gan_losses.hinge_fake, logits, margins)[within], pushed_down[within])


@given(logits=LOGITS)
def test_without_random_margins_it_is_the_plain_hinge(logits):
    """The losses of real and generated images of the same logits within the margin sum to 2."""
    inside = np.clip(logits, -1, 1)
    total = gan_losses.hinge_real(inside) + gan_losses.hinge_fake(inside)
    np.testing.assert_allclose(total, 2.0, rtol=1e-6)


@given(logits=LOGITS)
def test_the_gradient_of_the_generators_loss_is_constant(logits):
    np.testing.assert_array_equal(gradient(gan_losses.generator, logits), np.full((3, 4), -1 / 4))


@given(logits=LOGITS, margins=MARGINS)
def test_losses_of_images_are_independent_and_the_batch_is_their_mean(logits, margins):
    for loss, arguments in (
        (gan_losses.hinge_real, (logits, margins)),
        (gan_losses.hinge_fake, (logits, margins)),
        (gan_losses.generator, (logits,)),
    ):
        together = loss(*arguments)
        alone = np.concatenate([loss(*(argument[row : row + 1] for argument in arguments)) for row in range(3)])
        np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-7)
        # All images have the same number of logits: the mean over images is the mean over logits.
        as_one = loss(*(argument.reshape(1, -1) for argument in arguments))[0]
        np.testing.assert_allclose(np.mean(together), as_one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_extreme_logits_give_finite_losses_and_gradients(scale):
    logits = scale * np.random.default_rng(0).choice([-1.0, 1.0], (8, 50)).astype(np.float32)
    margins = gan_losses.margins(jax.random.split(jax.random.key(0), 8), 50)
    for loss, arguments in (
        (gan_losses.hinge_real, (margins,)),
        (gan_losses.hinge_fake, (margins,)),
        (gan_losses.generator, ()),
    ):
        assert np.isfinite(loss(logits, *arguments)).all()
        assert np.isfinite(gradient(loss, logits, *arguments)).all()


def test_margins_are_drawn_per_logit_between_the_published_bounds():
    keys = jax.random.split(jax.random.key(1), 200)
    margins = np.asarray(gan_losses.margins(keys, 50))
    assert margins.shape == (200, 50) and len(np.unique(margins)) > 9_900
    assert margins.min() >= np.float32(0.8) and margins.max() <= 1
    assert margins.mean() == pytest.approx(0.9, abs=0.003) and margins.std() == pytest.approx(0.2 / 12**0.5, rel=0.03)
    np.testing.assert_array_equal(gan_losses.margins(keys[7:9], 50), margins[7:9])


def test_pixel_distance_is_the_mean_square_per_image():
    images = np.random.default_rng(2).normal(size=(2, 4, 4, 3)).astype(np.float32)
    shifted = images + np.array([0.5, -2.0], np.float32)[:, None, None, None]
    np.testing.assert_allclose(gan_losses.pixel_distance(images, shifted), [0.25, 4.0], rtol=1e-5)
    np.testing.assert_array_equal(gan_losses.pixel_distance(images, images), [0.0, 0.0])
