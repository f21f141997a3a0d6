import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.models import scales

IMAGES = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)


@pytest.mark.parametrize(("size", "small"), [(64, 32), (128, 64), (256, 128), (512, 128), (1024, 128)])
def test_small_image_is_half_as_large_but_at_most_128(size, small):
    assert scales.small_size(size) == small


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_nearest_by_a_whole_factor_takes_the_first_pixel_of_each_block(size):
    step = 12 // size
    np.testing.assert_array_equal(scales.shrink_nearest(IMAGES, size), IMAGES[:, ::step, ::step])


def test_nearest_by_other_factors_rounds_the_source_down():
    ramp = np.arange(5.0, dtype=np.float32)[None, :, None, None] * 10 + np.arange(5.0)[None, None, :, None]
    expected = [[0, 1, 3], [10, 11, 13], [30, 31, 33]]  # floor of 0, 5/3 and 10/3
    np.testing.assert_array_equal(scales.shrink_nearest(ramp, 3)[0, :, :, 0], expected)


@given(steps=st.sampled_from([(6, 3), (6, 2), (4, 2), (3, 1), (12, 4)]))
def test_averaging_in_two_steps_is_averaging_in_one(steps):
    between, size = steps
    twice = scales.shrink_area(scales.shrink_area(jnp.asarray(IMAGES), between), size)
    np.testing.assert_allclose(twice, scales.shrink_area(jnp.asarray(IMAGES), size), rtol=0, atol=1e-6)


def test_averaging_is_the_mean_of_each_block_and_spares_flat_images():
    shrunk = scales.shrink_area(jnp.asarray(IMAGES), 4)
    np.testing.assert_allclose(shrunk[1, 3, 2], IMAGES[1, 9:12, 6:9].mean((0, 1)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(shrunk.mean((1, 2)), IMAGES.mean((1, 2)), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(scales.shrink_area(jnp.full((1, 8, 8, 1), 0.3), 2), np.full((1, 2, 2, 1), 0.3, "f4"))


def test_quadrants_make_up_the_image_in_reading_order():
    cut = jax.jit(scales.quadrant)
    parts = [np.asarray(cut(IMAGES, part)) for part in range(4)]
    np.testing.assert_array_equal(
        np.concatenate([np.concatenate(parts[:2], axis=2), np.concatenate(parts[2:], axis=2)], axis=1), IMAGES
    )
    for part in range(4):
        np.testing.assert_array_equal(scales.quadrant(jnp.asarray(IMAGES), part), parts[part])


@pytest.mark.parametrize(
    ("shrink", "shape", "argument", "named"),
    [
        (scales.shrink_area, (1, 12, 12, 3), 5, "12 px .* 5 px"),
        (scales.shrink_area, (1, 12, 12, 3), 24, "12 px .* 24 px"),
        (scales.shrink_nearest, (1, 12, 12, 3), 0, "12 px .* 0 px"),
        (scales.shrink_nearest, (1, 12, 12, 3), 13, "12 px .* 13 px"),
        (scales.shrink_nearest, (1, 12, 8, 3), 4, r"\(1, 12, 8, 3\)"),
        (scales.quadrant, (12, 12, 3), 0, r"\(12, 12, 3\)"),
        (scales.quadrant, (1, 5, 5, 3), 0, "5 px"),
        (scales.quadrant, (1, 4, 4, 3), 4, "part=4"),
    ],
)
def test_sizes_that_do_not_fit_are_named(shrink, shape, argument, named):
    with pytest.raises(ValueError, match=named):
        shrink(jnp.zeros(shape), argument)
