"""The test of data copying: planted copies as positive control, new images, and images far from the training images."""

import numpy as np
import pytest
import scipy.stats

from dim_jax.gan import memorisation


def features(number, seed, shift=0.0):
    return np.random.default_rng(seed).standard_normal((number, 6)) + shift


TRAIN, HELD_OUT, NEW = features(100, 0), features(30, 1), features(60, 2)


def test_planted_copies_are_caught_and_new_images_are_not():
    copies = TRAIN[:60] + 0.05 * features(60, 3)
    caught = memorisation.data_copying(TRAIN, HELD_OUT, copies)
    clean = memorisation.data_copying(TRAIN, HELD_OUT, NEW)
    assert caught["c_t"] < -5 and caught["c_t"] == pytest.approx(caught["all_copies"], abs=0.5)
    assert abs(clean["c_t"]) < 2.5 and 0.3 < clean["closer"] < 0.7
    half = memorisation.data_copying(TRAIN, HELD_OUT, np.concatenate([copies[:30], NEW[:30]]))
    assert caught["c_t"] < half["c_t"] < -2 < clean["c_t"]


def test_copies_in_some_cells_are_caught_though_the_other_images_are_far_from_the_training_images():
    """What the partition is for: without it, far images hide copies."""
    left, right = TRAIN - 8, features(100, 4) + 8
    held_out = np.concatenate([HELD_OUT - 8, features(30, 5) + 8])
    generated = np.concatenate([left[:60], 3 * features(60, 6) + 8])
    train = np.concatenate([left, right])
    together = memorisation.data_copying(train, held_out, generated, cells=1)
    assert abs(together["c_t"]) < 2
    alone = memorisation.data_copying(left, HELD_OUT - 8, left[:60], cells=1)
    apart = memorisation.data_copying(train, held_out, generated, cells=2)
    far = memorisation.data_copying(right, features(30, 5) + 8, 3 * features(60, 6) + 8, cells=1)
    assert apart["cells"] == 2 and alone["c_t"] < -5 and far["c_t"] > 5
    assert apart["c_t"] == pytest.approx((alone["c_t"] + far["c_t"]) / 2)


def test_images_far_from_the_training_images_are_no_copies():
    assert memorisation.data_copying(TRAIN, HELD_OUT, NEW + 5)["c_t"] > 5


def test_one_cell_is_the_test_of_mann_and_whitney():
    to_train = [np.linalg.norm(images[:, None] - TRAIN, axis=-1).min(1) for images in (NEW, HELD_OUT)]
    p_value = scipy.stats.mannwhitneyu(*to_train, use_continuity=False, method="asymptotic").pvalue
    statistic = memorisation.data_copying(TRAIN, HELD_OUT, NEW, cells=1)["c_t"]
    assert 2 * scipy.stats.norm.sf(abs(statistic)) == pytest.approx(p_value)


def test_the_order_of_the_images_does_not_matter():
    rng = np.random.default_rng(7)
    orders = [rng.permutation(len(images)) for images in (HELD_OUT, NEW)]
    for cells in (1, 3):
        one = memorisation.data_copying(TRAIN, HELD_OUT, NEW, cells=cells)
        other = memorisation.data_copying(TRAIN, HELD_OUT[orders[0]], NEW[orders[1]], cells=cells)
        assert one == pytest.approx(other)


@pytest.mark.parametrize("numbers, words", [
    ((1, 30, 60), "1 training images"), ((100, 4, 60), "4 validation images"), ((100, 30, 4), "4 generated images"),
])  # fmt: skip
def test_too_few_images_are_refused(numbers, words):
    sets = [images[:number] for images, number in zip((TRAIN, HELD_OUT, NEW), numbers, strict=True)]
    with pytest.raises(ValueError, match=words):
        memorisation.data_copying(*sets)
