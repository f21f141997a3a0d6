"""Radial power spectra of images: how much detail there is at every spatial frequency."""

import numpy as np

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def radial_power(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radially averaged power spectrum of the brightness of each image.

    The mean is subtracted and a Hann window applied, or the jump between opposite borders would add power at all
    frequencies.

    Args:
      pixels: uint8 (N, S, S, 3), S at least 4.

    Returns:
      Frequencies in cycles per pixel, ascending, (K,); up to 0.5 along the axes, and up to about 0.7 along diagonals.
      Base-10 logarithm of the mean power in the ring of every frequency, (N, K); brightness is in 0..1.

    Raises:
      ValueError: the images are not square or smaller than 4 px.
    """
    if pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or pixels.shape[1] < 4:
        raise ValueError(f"images of shape {pixels.shape} must be (N, S, S, 3) with S at least 4")
    side = pixels.shape[1]
    ring = np.round(np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) * side).astype(int)
    counts = np.bincount(ring.ravel())
    window = np.outer(np.hanning(side), np.hanning(side))
    powers = np.zeros((len(pixels), len(counts)))
    for row, image in enumerate(pixels):
        brightness = image.astype(np.float64) @ LUMA / 255
        power = np.abs(np.fft.fft2((brightness - brightness.mean()) * window)) ** 2
        powers[row] = np.bincount(ring.ravel(), power.ravel()) / counts
    # Without the mean, which was subtracted; the floor keeps the logarithm of uniform images finite.
    return np.arange(1, len(counts)) / side, np.log10(np.maximum(powers[:, 1:], 1e-12))
