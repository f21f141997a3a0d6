"""Radial power spectra: waves of known frequency, Parseval's theorem, blur and rotation."""

import numpy as np
import pytest
from scipy import ndimage

from dim_jax.gan import spectra

SIDE = 32


def grey(brightness):
    return np.repeat(np.clip(np.round(255 * brightness), 0, 255).astype(np.uint8)[..., None], 3, -1)


def noise(number, seed=0):
    return grey(np.random.default_rng(seed).random((number, SIDE, SIDE)))


@pytest.mark.parametrize("cycles", [3, 8, 13])
def test_a_wave_has_its_power_at_its_frequency(cycles):
    wave = 0.5 + 0.4 * np.sin(2 * np.pi * cycles * np.arange(SIDE) / SIDE)
    for image in (np.tile(wave, (SIDE, 1)), np.tile(wave[:, None], (1, SIDE))):
        frequency, power = spectra.radial_power(grey(image)[None])
        assert frequency[power[0].argmax()] == pytest.approx(cycles / SIDE)


def test_the_spectrum_of_white_noise_is_flat_and_its_height_is_that_of_parsevals_theorem():
    pixels = noise(200)
    frequency, power = spectra.radial_power(pixels)
    window = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    expected = (pixels[..., 0] / 255).var() * (window**2).sum()
    means = (10**power).mean(0)
    np.testing.assert_allclose(means[3:], expected, rtol=0.15)
    assert frequency[0] == 1 / SIDE and 0.7 < frequency[-1] < 0.72


def test_blur_takes_high_frequencies_away_and_leaves_low_ones():
    pixels = noise(20)
    blurred = np.stack([ndimage.gaussian_filter(image, (1, 1, 0)) for image in pixels])
    frequency, sharp = spectra.radial_power(pixels)
    _, soft = spectra.radial_power(blurred)
    lost = (sharp - soft).mean(0)
    assert lost[frequency > 0.4].min() > 1 > 0.3 > lost[frequency < 0.06].max()


def test_turned_and_mirrored_images_have_the_same_spectrum():
    pixels = noise(4)
    for changed in (np.rot90(pixels, 1, (1, 2)), pixels[:, ::-1], np.swapaxes(pixels, 1, 2)):
        np.testing.assert_allclose(spectra.radial_power(changed)[1], spectra.radial_power(pixels)[1], atol=1e-9)


def test_uniform_images_have_a_finite_spectrum():
    assert np.isfinite(spectra.radial_power(np.full((1, 8, 8, 3), 200, np.uint8))[1]).all()


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="must be"):
        spectra.radial_power(np.zeros((1, 8, 9, 3), np.uint8))
