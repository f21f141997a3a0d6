"""Sampling against closed forms: the noise levels, and normally distributed data, whose denoiser is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.gan import heun_sampler

MEAN, DEVIATION = 0.3, 0.5
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


def exact(x, sigma):
    """The posterior mean of N(MEAN, DEVIATION^2) given x = y + sigma n."""
    return (DEVIATION**2 * x + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)


def sampled(steps, noise, denoise=exact):
    with jax.enable_x64(True):
        levels = jnp.asarray(heun_sampler.noise_levels(steps, SIGMA_MIN, SIGMA_MAX))
        return np.asarray(heun_sampler.sample(denoise, jnp.asarray(noise), levels))


def test_noise_levels_follow_the_closed_form_and_end_without_noise():
    levels = heun_sampler.noise_levels(18, SIGMA_MIN, SIGMA_MAX)
    assert levels.shape == (19,) and levels[-1] == 0 and (np.diff(levels) < 0).all()
    expected = [(SIGMA_MAX ** (1 / 7) + i / 17 * (SIGMA_MIN ** (1 / 7) - SIGMA_MAX ** (1 / 7))) ** 7 for i in range(18)]
    np.testing.assert_allclose(levels[:-1], expected, rtol=1e-12)
    assert levels[0] == pytest.approx(80.0) and levels[-2] == pytest.approx(0.002)


def exact_end(noise):
    """Where the differential equation ends at sigma_min, and the denoiser's answer there."""
    shrink = np.sqrt((DEVIATION**2 + SIGMA_MIN**2) / (DEVIATION**2 + SIGMA_MAX**2))
    return exact(MEAN + shrink * (SIGMA_MAX * noise - MEAN), SIGMA_MIN)


def test_the_error_is_of_second_order_in_the_steps():
    noise = np.linspace(-2, 2, 12).reshape(1, 2, 2, 3)
    errors = [np.abs(sampled(steps, noise) - exact_end(noise)).max() for steps in (33, 65, 129)]
    ratios = np.divide(errors[:-1], errors[1:])
    assert errors[-1] < 1e-3
    np.testing.assert_allclose(ratios, 4, atol=0.5)


def test_samples_have_the_mean_and_the_variance_of_the_data():
    noise = np.random.default_rng(0).normal(size=(8, 32, 32, 3))
    samples = sampled(40, noise)
    # Within four standard errors of 24,576 values.
    assert samples.mean() == pytest.approx(MEAN, abs=4 * DEVIATION / 24_576**0.5)
    assert samples.std() == pytest.approx(DEVIATION, rel=4 / (2 * 24_576) ** 0.5 + 0.01)


def test_guidance_of_one_is_with_and_of_zero_without_the_label():
    noise = np.random.default_rng(1).normal(size=(1, 4, 4, 3))

    def other(x, sigma):
        return 0.9 * exact(x, sigma) - 0.2

    with_label, without = sampled(10, noise), sampled(10, noise, other)
    for guidance, expected in ((1.0, with_label), (0.0, without)):
        np.testing.assert_allclose(
            sampled(10, noise, heun_sampler.guided(exact, other, guidance)), expected, rtol=1e-12, atol=1e-12
        )
    # Of shifted normal distributions guidance moves the mean on: by as much as the shift for each further unit.
    shifted = heun_sampler.guided(exact, lambda x, sigma: exact(x + 0.2, sigma) - 0.2, 2.0)
    assert np.mean(sampled(40, noise, shifted)) == pytest.approx(np.mean(sampled(40, noise)) + 0.2, abs=0.01)
