import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from dim_jax.augmentation import diff_augment
from dim_jax.models import scales

KEYS = jax.random.split(jax.random.key(0), 6)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (6, 16, 16, 3)).astype(np.float32)
NEUTRAL = np.full(6, 0.5, np.float32)  # the draw of any colour that changes nothing

draw = jax.jit(diff_augment.draw)
apply = jax.jit(diff_augment.apply)
apply_to_scales = jax.jit(diff_augment.apply_to_scales)


def uniform_of(shifts, side):
    """Uniform draws that give these shifts in pixels, in the middle of their interval."""
    limit = diff_augment.largest_shift(side)
    return ((np.asarray(shifts) + limit + 0.5) / (2 * limit + 1)).astype(np.float32)


def test_the_other_images_of_a_batch_do_not_matter():
    together = apply(IMAGES, draw(KEYS, 0.7))
    for row in range(6):
        alone = apply(IMAGES[row : row + 1], draw(KEYS[row : row + 1], 0.7))
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=1e-6)
    assert np.abs(np.diff(np.asarray(apply(np.ones_like(IMAGES), draw(KEYS, 1.0))), axis=0)).max((1, 2, 3)).all()


@pytest.mark.parametrize(("size", "small_size"), [(16, 8), (32, 8), (48, 12)])
def test_shrinking_what_was_augmented_is_augmenting_what_was_shrunk(size, small_size):
    images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (6, size, size, 3)).astype(np.float32))
    for seed in range(5):
        draws = draw(jax.random.split(jax.random.key(seed), 6), 0.8)
        large, small = apply_to_scales(images, scales.shrink_area(images, small_size), draws)
        assert large.shape == images.shape
        np.testing.assert_allclose(scales.shrink_area(large, small_size), small, rtol=0, atol=2e-6)


def test_shifts_of_both_scales_correspond_exactly():
    """Bit for bit, without colour jitter and for values with exact means."""
    images = jnp.asarray(np.random.default_rng(2).integers(-64, 65, (6, 32, 32, 3)).astype(np.float32))
    draws = draw(KEYS, 1.0).replace(brightness=NEUTRAL, saturation=NEUTRAL, contrast=NEUTRAL)
    large, small = apply_to_scales(images, scales.shrink_area(images, 16), draws)
    np.testing.assert_array_equal(scales.shrink_area(large, 16), small)
    assert np.any(large != images)


def test_scales_without_a_whole_ratio_are_refused():
    with pytest.raises(ValueError, match="16 px and 6 px"):
        diff_augment.apply_to_scales(IMAGES, IMAGES[:, :6, :6], draw(KEYS, 1.0))


def test_probability_is_the_share_of_augmented_images():
    keys = jax.random.split(jax.random.key(1), 4000)
    for probability in (0.0, 0.25, 0.6, 1.0):
        share = np.mean(draw(keys, probability).applied)
        assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / 4000)


def test_images_that_are_not_augmented_are_unchanged():
    draws = draw(KEYS, 1.0)
    some = np.array([True, False, True, False, False, True])
    result = np.asarray(apply(IMAGES, draws.replace(applied=some)))
    np.testing.assert_array_equal(result[~some], IMAGES[~some])
    np.testing.assert_allclose(result[some], apply(IMAGES, draws)[some], rtol=0, atol=1e-6)
    large, small = apply_to_scales(IMAGES, IMAGES[:, ::2, ::2], draw(KEYS, 0.0))
    np.testing.assert_array_equal(large, IMAGES)
    np.testing.assert_array_equal(small, IMAGES[:, ::2, ::2])


def test_strongest_and_weakest_colours_are_those_of_the_paper():
    def coloured(**uniform):
        draws = diff_augment.Draws(NEUTRAL, NEUTRAL, NEUTRAL, np.zeros((6, 2)), np.ones(6, bool))
        draws = draws.replace(**{name: np.full(6, value, np.float32) for name, value in uniform.items()})
        return np.asarray(diff_augment.change_colours(jnp.asarray(IMAGES), draws))

    grey = IMAGES.mean(-1, keepdims=True)
    middle = IMAGES.mean((1, 2, 3), keepdims=True)
    np.testing.assert_array_equal(coloured(), IMAGES)
    for result, expected in (
        (coloured(brightness=0.0), IMAGES - 0.5),
        (coloured(brightness=1.0), IMAGES + 0.5),
        (coloured(saturation=0.0), grey.repeat(3, -1)),
        (coloured(saturation=1.0), 2 * IMAGES - grey),
        (coloured(contrast=0.0), (IMAGES + middle) / 2),
        (coloured(contrast=1.0), (3 * IMAGES - middle) / 2),
    ):
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def published_cutout(image, offsets):
    """The square as the published code cuts it out of one image: indices clamped to the image, ratio 0.5."""
    side = len(image)
    size = int(side * 0.5 + 0.5)
    rows, columns = (np.clip(np.arange(size) + offset - size // 2, 0, side - 1) for offset in offsets)
    mask = np.ones((side, side, 1), image.dtype)
    mask[np.ix_(rows, columns)] = 0
    return image * mask


@pytest.mark.parametrize("side", [8, 9, 10, 16])
def test_cutout_is_the_papers_at_every_place(side):
    size = int(side * 0.5 + 0.5)
    places = side + (1 - size % 2)  # of randint in the published code
    offsets = np.stack(np.meshgrid(np.arange(places), np.arange(places)), -1).reshape(-1, 2)
    images = np.random.default_rng(0).uniform(0.5, 1, (len(offsets), side, side, 3)).astype(np.float32)
    neutral, zeros = np.full(len(offsets), 0.5), np.full((len(offsets), 2), 0.5)
    draws = diff_augment.Draws(neutral, neutral, neutral, zeros, np.ones(len(offsets), bool), (offsets + 0.5) / places)
    result = np.asarray(diff_augment.apply(jnp.asarray(images), draws))
    np.testing.assert_array_equal(result, np.stack(list(map(published_cutout, images, offsets))))


def test_cutout_changes_nothing_else_and_no_image_that_is_not_augmented():
    plain, cut = draw(KEYS, 0.5), diff_augment.draw(KEYS, 0.5, cutout=True)
    assert plain.cutout is None
    jax.tree.map(np.testing.assert_array_equal, plain, cut.replace(cutout=None))
    squares = np.asarray(diff_augment.cutout_squares(cut, 16))
    expected = np.where(squares, 0, apply(IMAGES, plain))
    np.testing.assert_array_equal(apply(IMAGES, cut), expected)
    assert not squares[~np.asarray(cut.applied)].any() and squares[np.asarray(cut.applied)].any((1, 2, 3)).all()


def test_cutout_of_both_scales_corresponds_and_blocks_the_gradient():
    draws = diff_augment.draw(KEYS, 1.0, cutout=True)
    images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (6, 32, 32, 3)).astype(np.float32))
    large, small = apply_to_scales(images, scales.shrink_area(images, 8), draws)
    np.testing.assert_allclose(scales.shrink_area(large, 8), small, rtol=0, atol=2e-6)
    squares = np.asarray(diff_augment.cutout_squares(draws, 16))
    colours = draws.replace(shift=np.full((6, 2), 0.5, np.float32), contrast=NEUTRAL)
    gradient = jax.grad(lambda images: diff_augment.apply(images, colours).sum())(jnp.asarray(IMAGES))
    assert not np.asarray(gradient)[squares.repeat(3, -1)].any()


@pytest.mark.parametrize(("side", "limit"), [(8, 1), (32, 4), (60, 8), (64, 8), (128, 16), (1024, 128)])
def test_shifts_reach_an_eighth_of_the_side_each_equally_often(side, limit):
    assert diff_augment.largest_shift(side) == limit
    places = 2 * limit + 1
    uniform = np.repeat((np.arange(8 * places) / (8 * places) + 1e-6).astype(np.float32)[:, None], 2, axis=1)
    uniform[-1] = 1 - 2**-23  # the largest number that JAX draws
    nothing = np.zeros(len(uniform))
    draws = diff_augment.Draws(nothing, nothing, nothing, uniform, np.ones(len(uniform), bool))
    shifts = np.asarray(diff_augment.shifts_in_pixels(draws, limit))
    np.testing.assert_array_equal(shifts, np.repeat(np.arange(-limit, limit + 1), 8)[:, None].repeat(2, 1))


translate = jax.jit(diff_augment.translate, static_argnums=2)


@given(rows=st.integers(-3, 3), cols=st.integers(-3, 3))
def test_translation_moves_pixels_and_fills_with_zeros(rows, cols):
    image = IMAGES[0, :6, :5]
    result = np.asarray(translate(image[None], np.array([[rows, cols]], np.int32), 3))[0]
    for r in range(6):
        for c in range(5):
            inside = 0 <= r + rows < 6 and 0 <= c + cols < 5
            np.testing.assert_array_equal(result[r, c], image[r + rows, c + cols] if inside else 0)


def test_translation_takes_shifts_of_any_width():
    with jax.enable_x64(True):
        result = diff_augment.translate(jnp.asarray(IMAGES, jnp.float64), jnp.full((6, 2), 1, jnp.int32), 2)
    np.testing.assert_array_equal(result[:, :-1, :-1], IMAGES[:, 1:, 1:])


@given(seed=st.integers(0, 2**32 - 1))
def test_gradient_of_the_translation_is_the_opposite_translation(seed):
    rng = np.random.default_rng(seed)
    shifts = rng.integers(-2, 3, (6, 2)).astype(np.int32)
    weights = rng.normal(size=IMAGES.shape).astype(np.float32)
    gradient = jax.grad(lambda images: (weights * translate(images, shifts, 2)).sum())(jnp.asarray(IMAGES))
    np.testing.assert_array_equal(gradient, translate(weights, -shifts, 2))


def test_custom_gradients_match_finite_differences():
    """Against central differences, along one direction per image."""
    draws = draw(KEYS, 1.0)
    rng = np.random.default_rng(3)
    weights, direction = rng.normal(size=(2, *IMAGES.shape)).astype(np.float32)
    images = jnp.asarray(IMAGES)

    def per_image(images):
        return (weights * apply(images, draws)).sum((1, 2, 3))

    gradient = jax.grad(lambda images: per_image(images).sum())(images)
    # Each image's augmentation is affine in the image, so a long step gives exact differences.
    difference = (per_image(images + direction) - per_image(images - direction)) / 2
    np.testing.assert_allclose((gradient * direction).sum((1, 2, 3)), difference, rtol=1e-4, atol=1e-4)


def test_gradient_of_a_gradient_is_finite_and_right():
    """As needed by a gradient penalty: d/dx |d/dx f(Ax)|^2 for f = sum of cubes."""
    draws = draw(KEYS[:2], 1.0)
    images = jnp.asarray(IMAGES[:2, :8, :8])

    @jax.jit
    def penalty(images):
        gradient = jax.grad(lambda images: (diff_augment.apply(images, draws) ** 3).sum())(images)
        return (gradient**2).sum()

    second = jax.jit(jax.grad(penalty))(images)
    direction = jnp.asarray(IMAGES[2:4, :8, :8])
    step = 1e-2
    difference = (penalty(images + step * direction) - penalty(images - step * direction)) / (2 * step)
    np.testing.assert_allclose((second * direction).sum(), difference, rtol=1e-2)


def test_a_scan_over_steps_and_probabilities_augments_as_single_calls_do():
    probabilities = jnp.array([0.0, 0.5, 1.0])

    @jax.jit
    def scanned(images):
        return lax.scan(lambda carry, p: (carry, diff_augment.apply(images, draw(KEYS, p))), 0, probabilities)[1]

    for result, probability in zip(scanned(IMAGES), probabilities, strict=True):
        np.testing.assert_allclose(result, apply(IMAGES, draw(KEYS, probability)), rtol=0, atol=1e-6)


@given(
    probability=st.floats(0, 1, width=32),
    sign_mean=st.integers(-400, 400).map(lambda total: total / 400),  # of 8 images with 50 logits each
    target=st.integers(-10, 10).map(lambda tenths: tenths / 10),
    step_images=st.integers(1, 4096),
)
def test_probability_moves_towards_the_target_by_its_step_and_stays_a_probability(
    probability, sign_mean, target, step_images
):
    moved = float(diff_augment.adapt_probability(jnp.float32(probability), sign_mean, target, step_images, 10_000.0))
    assert 0 <= moved <= 1
    expected = np.clip(probability + np.sign(sign_mean - target) * step_images / 10_000, 0, 1)
    assert moved == pytest.approx(expected, abs=1e-6)


def test_probability_goes_from_zero_to_one_in_as_many_images_as_asked():
    def step(probability, _):
        probability = diff_augment.adapt_probability(probability, 1.0, 0.6, 8, 800.0)
        return probability, probability

    probabilities = lax.scan(step, jnp.float32(0), length=120)[1]
    np.testing.assert_allclose(probabilities[:100], np.arange(1, 101) / 100, atol=1e-5)
    np.testing.assert_allclose(probabilities[100:], 1.0)
