"""Linear heads on features of known distributions: chance, separable sets, cases, and training on generated images."""

import numpy as np
import pytest

from dim_jax.gan import linear_heads


def features(number, seed, shift=0.0, dimensions=8):
    return np.random.default_rng(seed).standard_normal((number, dimensions)) + shift


def test_equal_distributions_are_told_apart_by_chance_alone_and_shifted_ones_nearly_always():
    real, same, shifted = features(120, 0), features(80, 1), features(80, 2, shift=2.0)
    equal = linear_heads.separability(real, same)
    assert equal["images"] == 60 and equal["generated"] == pytest.approx(0.5, abs=0.12)
    assert equal["real_vs_real"] == pytest.approx(0.5, abs=0.12)
    assert linear_heads.separability(real, shifted)["generated"] > 0.97


def test_the_order_of_the_generated_images_hardly_matters():
    real, generated = features(80, 0), features(40, 1, shift=0.7)
    orders = [np.arange(40), np.random.default_rng(3).permutation(40)]
    values = [linear_heads.separability(real, generated[order])["generated"] for order in orders]
    assert values[0] == pytest.approx(values[1], abs=0.05)


def test_images_of_one_case_are_never_on_both_sides_of_a_fold():
    """Each case has a direction of its own: a head that saw the case would tell its images from all others."""
    rng = np.random.default_rng(0)
    cases = np.repeat(np.arange(24), 5)
    real = np.eye(24)[cases] * 20 + 0.1 * rng.standard_normal((120, 24))
    by_case = linear_heads.separability(real, real[rng.permutation(120)], groups=cases)["real_vs_real"]
    each_alone = linear_heads.separability(real, real[rng.permutation(120)])["real_vs_real"]
    assert by_case < 0.6
    assert each_alone != by_case


def test_versions_of_the_same_images_are_told_apart_only_by_what_was_changed():
    images = features(100, 0)
    assert linear_heads.separability_of_versions(images, images)["accuracy"] == pytest.approx(0.5, abs=0.15)
    assert linear_heads.separability_of_versions(images, images + 2.0)["accuracy"] > 0.97


def three_classes(per_class, seed, spread=1.0):
    centres = 4 * np.eye(3, 6)
    labels = np.repeat(["a", "b", "c"], per_class)
    noise = np.random.default_rng(seed).standard_normal((3 * per_class, 6))
    return np.repeat(centres, per_class, 0) + spread * noise, labels


def test_generated_images_like_the_real_ones_leave_no_gap_and_images_of_another_class_a_large_one():
    train, labels = three_classes(40, 0)
    held_out, held_out_labels = three_classes(20, 1)
    good, good_labels = three_classes(40, 2)
    result = linear_heads.generated_to_real(train, labels, good, good_labels, held_out, held_out_labels)
    balanced = result["balanced_accuracy"]
    assert result["images"] == {"a": 40, "b": 40, "c": 40}
    assert balanced["real"] > 0.95 and abs(balanced["gap"]) < 0.04
    assert balanced["gap_interval"][0] <= 0 <= balanced["gap_interval"][1]
    # Images of class "b" that are called "a".
    wrong = linear_heads.generated_to_real(
        train, labels, good[40:80], np.repeat("a", 40), held_out, held_out_labels, groups=np.arange(60) // 2
    )
    assert wrong["recall"].keys() == {"a"} and wrong["recall"]["a"]["generated"] < 0.5 < wrong["recall"]["a"]["real"]
    assert wrong["balanced_accuracy"]["gap_interval"][0] > 0


def test_both_heads_learn_from_equally_many_images():
    train, labels = three_classes(40, 0)
    few = np.r_[0:12, 40:80, 80:120]  # of class "a" 12
    held_out, held_out_labels = three_classes(10, 1)
    generated = features(30, 3)
    result = linear_heads.generated_to_real(
        train[few], labels[few], generated[:, :6], np.repeat("a", 30), held_out, held_out_labels
    )
    assert result["images"] == {"a": 12}


def test_too_few_images_are_refused_by_class():
    train, labels = three_classes(20, 0)
    held_out, held_out_labels = three_classes(5, 1)
    with pytest.raises(ValueError, match="class a has 9 real or generated images"):
        linear_heads.generated_to_real(train, labels, train[:9], labels[:9], held_out, held_out_labels)
    with pytest.raises(ValueError, match="no validation images of the generated classes"):
        linear_heads.generated_to_real(train, labels, train[:15], labels[:15], held_out[5:], held_out_labels[5:])
    with pytest.raises(ValueError, match="9 generated images are too few"):
        linear_heads.separability(train, train[:9])
    with pytest.raises(ValueError, match="12 real images do not give two halves"):
        linear_heads.separability(train[:12], train)
