"""Images of more than 8 bits and pages: samples come out at the right place of 0 to 255."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_inputs.images import GREY, PICTURE, PLANES, chunk, png, tiff

from dim_jax.data import images

ENCODERS = {
    "png": png,
    "tiff": lambda samples: tiff([samples]),
    "big-endian tiff": lambda samples: tiff([samples], order=">"),
}


@given(
    st.sampled_from(sorted(ENCODERS)),
    st.sampled_from([8, 10, 12, 14, 16]),
    st.sampled_from([1, 3, 4]),
    st.floats(0.3, 1),
    st.integers(0, 2**32 - 1),
)
def test_samples_are_scaled_by_the_bits_in_use(kind, bits, channels, brightest, seed):
    most = 2**bits - 1
    shape = (9, 12) if channels == 1 else (9, 12, channels)
    samples = np.random.default_rng(seed).integers(0, int(most * brightest), shape, np.uint16, endpoint=True)
    samples.flat[0] = int(most * brightest)
    if channels == 4:
        samples[..., 3] = most
    inspected = images.inspect(ENCODERS[kind](samples), "a")
    expected = (samples[..., :3] if channels == 4 else samples) * 255.0 / most
    pixels = inspected.pixels if channels > 1 else inspected.pixels[..., 0]
    assert np.abs(pixels - expected).max() <= 0.501
    assert (f"{bits} of 16 bits" in inspected.conversion) == (f"{bits} of 16 bits" in inspected.doubt) == (bits < 16)


def test_one_transparent_colour_of_sixteen_bits_is_white():
    samples = PICTURE.astype(np.uint16) * 257
    samples[:5] = (1, 2, 3)
    transparent = chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3]))
    pixels = images.inspect(png(samples, before=transparent), "a").pixels
    assert (pixels[:5] == 255).all() and np.abs(pixels[5:].astype(int) - PICTURE[5:]).max() <= 1


@given(st.integers(1, 7), st.sampled_from([np.uint8, np.uint16]), st.sampled_from(["", "slices=3", "channels=3"]))
def test_three_grey_pages_are_one_colour_image_and_other_numbers_are_refused(count, kind, description):
    factor = 1 if kind == np.uint8 else 257
    pages = [(PLANES[number % 3] * np.uint16(factor)).astype(kind) for number in range(count)]
    encoded = tiff(pages, description=description and f"ImageJ=1.53\n{description}\n")
    if count == 1:
        np.testing.assert_array_equal(images.inspect(encoded, "a").pixels[..., 1], PLANES[0])
    elif count == 3 and description != "slices=3":
        inspected = images.inspect(encoded, "a")
        np.testing.assert_array_equal(inspected.pixels, PICTURE)
        assert "three grey pages as one colour image" in inspected.conversion and not inspected.doubt
    else:
        with pytest.raises(ValueError, match="grey pages"):
            images.inspect(encoded, "a")


def test_a_stack_in_ome_is_refused_and_its_channels_are_merged():
    for name, is_stack in (("Z", True), ("T", True), ("C", False)):
        sizes = {"Z": 1, "T": 1, "C": 1} | {name: 3}
        text = "<OME>" + " ".join(f'Size{key}="{value}"' for key, value in sizes.items()) + "</OME>"
        if is_stack:
            with pytest.raises(ValueError, match="a stack, no colours"):
                images.inspect(tiff(PLANES, description=text), "a")
        else:
            np.testing.assert_array_equal(images.inspect(tiff(PLANES, description=text), "a").pixels, PICTURE)


def test_pages_of_other_sizes_are_previews():
    inspected = images.inspect(tiff([PICTURE, PICTURE[::2, ::2]]), "a")
    assert "first of several frames" in inspected.conversion and not inspected.doubt
    inspected = images.inspect(tiff([GREY, GREY[::2, ::2], GREY[::4, ::4]]), "a")
    assert "first of several frames" in inspected.conversion and not inspected.doubt
