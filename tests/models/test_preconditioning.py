"""Identities of EDM's preconditioning, for images of known variance at all noise levels."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.models import preconditioning

LEVELS = st.floats(0.002, 80.0)
DEVIATIONS = st.floats(0.05, 4.0)


def coefficients(sigma, sigma_data):
    return [float(value) for value in preconditioning.precondition(jnp.float32(sigma), sigma_data)]


@given(LEVELS, DEVIATIONS)
def test_inputs_and_targets_of_the_network_have_unit_variance(sigma, sigma_data):
    """Of y + sigma n with independent y and n; the target is (y - c_skip (y + sigma n)) / c_out."""
    skip, out, scale, _ = coefficients(sigma, sigma_data)
    assert scale**2 * (sigma_data**2 + sigma**2) == pytest.approx(1, rel=1e-5)
    target_variance = ((1 - skip) ** 2 * sigma_data**2 + skip**2 * sigma**2) / out**2
    assert target_variance == pytest.approx(1, rel=1e-3)


@given(LEVELS, DEVIATIONS)
def test_no_other_skip_would_amplify_errors_less(sigma, sigma_data):
    """c_out^2 = (1 - c_skip)^2 sigma_data^2 + c_skip^2 sigma^2 is at its minimum over c_skip."""
    skip, out, _, _ = coefficients(sigma, sigma_data)
    for other in (skip - 0.01, skip + 0.01):
        assert (1 - other) ** 2 * sigma_data**2 + other**2 * sigma**2 > out**2 * (1 - 1e-5)


@given(LEVELS, DEVIATIONS)
def test_the_loss_of_the_network_has_weight_one(sigma, sigma_data):
    _, out, _, noise = coefficients(sigma, sigma_data)
    weight = float(preconditioning.loss_weight(jnp.float32(sigma), sigma_data))
    assert weight * out**2 == pytest.approx(1, rel=1e-5)
    assert weight == pytest.approx((sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2, rel=1e-4)
    assert noise == pytest.approx(np.log(sigma) / 4, abs=1e-6)


def test_a_network_of_zeros_is_the_best_linear_denoiser():
    """Of images with mean 0 and variance sigma_data^2: the posterior mean of a normal distribution."""
    noisy, sigma = jnp.array([1.0, -2.0]).reshape(2, 1, 1, 1), jnp.array([0.5, 3.0])
    denoised = preconditioning.denoise(lambda x, noise: jnp.zeros_like(x), noisy, sigma, 0.5)
    np.testing.assert_allclose(np.ravel(denoised), [1 * 0.25 / 0.5, -2 * 0.25 / 9.25], rtol=1e-6)
