"""Augmentation: geometry, stains, and independence of the rest of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.augmentation import histology
from dim_jax.data import phantom

SIDE = 16
OPTIONS = {"flip": True, "rotate": True, "stain_jitter": 0.2}
augmented = jax.jit(histology.augment, static_argnames=("flip", "rotate", "stain_jitter"))
jittered = jax.jit(jax.vmap(histology.jitter_stains, in_axes=(0, None, None)))


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def batch(count, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (count, SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def tissue():
    """Synthetic H&E tissue with values in [0, 1]."""
    fields = [phantom.draw(phantom.PhantomImage(label, "case0001", 1), 24) for label in phantom.CLASSES[:3]]
    return np.stack(fields).astype(np.float32) / 255


def stain_amounts(images):
    """Amounts of the three stains per pixel in optical density, by the Beer-Lambert law."""
    density = -np.log((np.asarray(images, np.float64) * 255 + 1) / 256)
    return density @ np.linalg.inv(histology.STAINS.astype(np.float64))


def test_with_everything_off_images_are_unchanged():
    images = batch(4)
    off = augmented(keys(4), images, flip=False, rotate=False, stain_jitter=0.0)
    np.testing.assert_array_equal(off, images)


@settings(max_examples=20)
@given(order=st.permutations(range(6)), seed=st.integers(0, 3))
def test_permuting_the_batch_permutes_the_result(order, seed):
    images, own = batch(6, seed), keys(6, seed)
    order = np.array(order)
    result = np.asarray(augmented(own, images, **OPTIONS))
    np.testing.assert_array_equal(augmented(own[order], images[order], **OPTIONS), result[order])


def test_the_other_images_of_a_batch_do_not_matter():
    images, own = batch(6), keys(6)
    others = images.copy()
    others[1:] = 0.5
    result = augmented(own, images, **OPTIONS)
    np.testing.assert_array_equal(augmented(own, others, **OPTIONS)[0], result[0])
    other_keys = jnp.concatenate([own[:1], keys(5, seed=9)])
    np.testing.assert_array_equal(augmented(other_keys, images, **OPTIONS)[0], result[0])
    alone = augmented(own[:1], images[:1], **OPTIONS)[0]
    np.testing.assert_allclose(alone, result[0], rtol=0, atol=1e-6)


def test_equal_images_get_different_draws_by_their_keys():
    images = np.repeat(batch(1), 24, 0)
    for options in (
        {"flip": False, "rotate": False, "stain_jitter": 0.2},
        {"flip": False, "rotate": True, "stain_jitter": 0.0},
        {"flip": True, "rotate": False, "stain_jitter": 0.0},
    ):
        result = np.asarray(augmented(keys(24), images, **options))
        expected = 24 if options["stain_jitter"] else 4 if options["rotate"] else 2
        assert len({image.tobytes() for image in result}) == expected


@pytest.mark.parametrize("turns", range(4))
def test_turns_are_numpys_counter_clockwise_quarter_turns(turns):
    image = batch(1)[0]
    turned = jax.jit(histology.rotate_by_right_angles)(image, turns)
    np.testing.assert_array_equal(turned, np.rot90(image, turns))


def test_flip_mirrors_left_and_right_half_of_the_time():
    images = np.repeat(batch(1), 400, 0)
    result = np.asarray(augmented(keys(400), images, flip=True, rotate=False, stain_jitter=0.0))
    mirrored = (result == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (result == images).all((1, 2, 3))).all()
    assert 150 < mirrored.sum() < 250  # 5 standard deviations


def test_flip_and_turns_give_all_eight_symmetries_equally_often():
    image = batch(1)[0]
    symmetries = [np.rot90(side, turns).tobytes() for side in (image, image[:, ::-1]) for turns in range(4)]
    assert len(set(symmetries)) == 8
    result = np.asarray(augmented(keys(800), np.repeat(image[None], 800, 0), flip=True, rotate=True, stain_jitter=0.0))
    counts = {one: 0 for one in symmetries}
    for one in result:
        counts[np.ascontiguousarray(one).tobytes()] += 1
    # 100 of each are expected; 5 standard deviations are 47.
    assert all(53 < count < 147 for count in counts.values())


def test_stain_vectors_have_unit_length_and_are_far_from_parallel():
    np.testing.assert_allclose(np.linalg.norm(histology.STAINS, axis=1), 1, rtol=1e-6)
    assert np.linalg.cond(histology.STAINS) < 4
    # The residual is orthogonal to the two stains.
    np.testing.assert_allclose(histology.STAINS[:2] @ histology.STAINS[2], 0, atol=1e-6)


def test_jitter_of_strength_0_is_the_identity_up_to_rounding(tissue):
    for image in (*tissue, batch(1)[0], np.zeros((4, 4, 3), np.float32), np.ones((4, 4, 3), np.float32)):
        unchanged = histology.jitter_stains(jax.random.key(0), image, 0.0)
        np.testing.assert_allclose(unchanged, image, rtol=0, atol=2e-6)


def test_empty_glass_stays_near_white():
    strength = 0.2
    result = np.asarray(jittered(keys(200), np.ones((2, 2, 3), np.float32), strength))
    # Glass has no stain, so only the shifts apply: at most a tenth of the strength along each of three vectors.
    largest = 0.1 * strength * np.abs(histology.STAINS).sum(0).max()
    assert result.min() >= (256 * np.exp(-largest) - 1) / 255 - 1e-6 > 0.95
    assert result.min() < 0.985  # and they do apply


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), strength=st.sampled_from([0.05, 0.3, 1.0, 3.0]))
def test_jitter_stays_within_0_and_1_and_finite(seed, strength):
    images = batch(1, seed)[0]
    images[0], images[1] = 0.0, 1.0
    result = np.asarray(jittered(keys(4, seed), images, strength))
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
    assert result.dtype == np.float32


@pytest.mark.parametrize("strength", [0.05, 0.2])
def test_jitter_changes_each_stains_amount_within_its_bounds(tissue, strength):
    """Where nothing is clipped, amounts become c (1 + a) + b with one a and b per stain and image."""
    image = tissue[1]
    before = stain_amounts(image)
    gains, shifts = [], []
    for after in np.asarray(jittered(keys(60), image, strength)):
        inside = ((after > 0) & (after < 1)).all(-1)
        assert inside.mean() > 0.5
        amounts = stain_amounts(after)
        for stain in range(3):
            gain, shift = np.polyfit(before[inside, stain], amounts[inside, stain], 1)
            fitted = gain * before[inside, stain] + shift
            np.testing.assert_allclose(amounts[inside, stain], fitted, rtol=0, atol=1e-3)
            gains.append(gain)
            shifts.append(shift)
    gains, shifts = np.reshape(gains, (-1, 3)), np.reshape(shifts, (-1, 3))
    assert np.abs(gains - 1).max() <= strength + 1e-3 and np.abs(shifts).max() <= 0.1 * strength + 1e-3
    # The draws cover their range, independently per stain.
    assert (gains.max(0) > 1 + 0.8 * strength).all() and (gains.min(0) < 1 - 0.8 * strength).all()
    assert (shifts.max(0) > 0.08 * strength).all() and (shifts.min(0) < -0.08 * strength).all()
    draws = np.concatenate([gains, shifts], 1)
    correlation = np.corrcoef(draws.T) - np.eye(6)
    assert np.abs(correlation).max() < 0.6


def test_pure_haematoxylin_stays_haematoxylin():
    """Only the amount along its own vector changes much; the others change by the small shifts."""
    image = np.exp(-0.8 * histology.STAINS[0])[None, None].astype(np.float32)
    result = np.asarray(jittered(keys(100), image, 0.3)).reshape(100, 3)
    amounts = stain_amounts(result)
    assert np.ptp(amounts[:, 0]) > 0.3
    assert np.abs(amounts[:, 1:] - stain_amounts(image)[0, :, 1:]).max() < 0.1 * 0.3 + 0.01


def test_jit_and_vmap_change_no_result(tissue):
    own = keys(len(tissue))
    plain = histology.augment(own, tissue, **OPTIONS)
    np.testing.assert_allclose(augmented(own, tissue, **OPTIONS), plain, rtol=0, atol=1e-6)
    one_by_one = [histology.augment(own[n : n + 1], tissue[n : n + 1], **OPTIONS)[0] for n in range(len(tissue))]
    np.testing.assert_allclose(plain, np.stack(one_by_one), rtol=0, atol=1e-6)
    assert plain.shape == tissue.shape and plain.dtype == np.float32


def test_normalised_training_images_have_mean_0_and_deviation_1(tissue):
    mean, std = tissue.mean((0, 1, 2)), tissue.std((0, 1, 2))
    result = np.asarray(histology.normalize(tissue, mean, std))
    np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(result.std((0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_allclose(result * std + mean, tissue, atol=1e-6)
