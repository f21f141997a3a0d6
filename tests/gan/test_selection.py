"""Scores, thresholds and decisions of a selection: planted copies, one reason per image, independence of the order."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.gan import selection
from dim_jax.gan.selection import COPY, DUPLICATE, FAR, REASONS, SPARE, WRONG_CLASS, Limits, Rules

SIDE = 8


class Images:
    """Features and thumbnails of training images of two classes, and of a pool of class 0."""

    def __init__(self, seed=0, real=40, pool=30, dimensions=6):
        rng = np.random.default_rng(seed)
        self.rng, self.dimensions = rng, dimensions
        self.is_class = np.arange(2 * real) < real
        self.groups = np.array([f"case {number // 4}" for number in range(2 * real)])
        self.train = rng.standard_normal((2 * real, dimensions)) + np.where(self.is_class, 0, 20)[:, None]
        self.train_pixels = self.pixels(2 * real)
        self.held_out, self.held_out_pixels = rng.standard_normal((15, dimensions)), self.pixels(15)
        self.held_out_probability = np.linspace(0.6, 1, 15)
        self.features, self.thumbnails = rng.standard_normal((pool, dimensions)), self.pixels(pool)
        self.probability = rng.uniform(0.6, 1, pool)

    def pixels(self, number):
        return self.rng.integers(0, 256, (number, SIDE, SIDE, 3)).astype(np.uint8)

    def scores(self):
        return selection.score(
            np.arange(100, 100 + len(self.features)), self.probability, self.features, self.thumbnails, self.train,
            self.train_pixels, self.is_class,
        )  # fmt: skip

    def reference(self):
        return selection.reference(
            self.train, self.train_pixels, self.groups, self.is_class, self.held_out, self.held_out_pixels,
            self.held_out_probability,
        )  # fmt: skip

    def limits(self, **rules):
        return selection.limits(Rules(**rules), self.reference())

    def decide(self, keep=99, **rules):
        return selection.decide(self.scores(), keep, self.limits(**rules))


def test_images_of_the_real_distribution_are_nearly_all_selected():
    """By the quantiles, 5 % are too far from the class and 2 % too close to a training image (features or pixels)."""
    rates = [
        np.mean([reason in (COPY, FAR) for reason in Images(seed, real=100).decide().reasons]) for seed in range(10)
    ]
    assert 0.02 < np.mean(rates) < 0.15


@pytest.mark.parametrize("where", ["features", "pixels", "turned pixels", "mirrored pixels"])
def test_copies_of_training_images_are_rejected_as_such(where):
    images = Images()
    if where == "features":
        images.features[:5] = images.train[[3, 7, 11, 50, 60]] + 0.01
    else:
        copies = images.train_pixels[[3, 7, 11, 50, 60]]
        if where == "turned pixels":
            copies = np.rot90(copies, 3, (1, 2))
        elif where == "mirrored pixels":
            copies = copies[:, :, ::-1]
        noise = images.rng.integers(-3, 4, copies.shape)
        images.thumbnails[:5] = np.clip(copies + noise, 0, 255)
    scores, decision = images.scores(), images.decide()
    assert decision.reasons[:5] == (COPY,) * 5
    rows = scores.feature_row if where == "features" else scores.pixel_row
    assert rows[:5].tolist() == [3, 7, 11, 50, 60]
    assert decision.reasons[5:].count(COPY) <= 4


def test_a_copy_is_reported_as_a_copy_whatever_else_is_wrong_with_it():
    images = Images()
    images.thumbnails[0], images.features[0], images.probability[0] = images.train_pixels[9], 50.0, 0.0
    assert images.decide().reasons[0] == COPY


def test_wrong_and_far_images_are_rejected_as_such():
    images = Images()
    images.probability[:3] = 0.1
    images.features[2:5] += 10
    images.probability[5] = np.nan
    limits = replace(images.limits(), feature=0.0, pixel=0.0)
    reasons = selection.decide(images.scores(), 99, limits).reasons
    assert reasons[:6] == (WRONG_CLASS, WRONG_CLASS, WRONG_CLASS, FAR, FAR, WRONG_CLASS)


@pytest.mark.parametrize("where", ["features", "pixels"])
def test_of_duplicates_in_the_pool_one_remains(where):
    images = Images()
    values = images.features if where == "features" else images.thumbnails
    for index in (4, 9, 13):
        values[index] = values[2]
    decision = selection.decide(images.scores(), 99, Limits(0.5, 99.0, 0.3, 0.1))
    group = [decision.reasons[index] for index in (2, 4, 9, 13)]
    assert group.count(None) == 1 and group.count(DUPLICATE) == 3
    for index in (2, 4, 9, 13):
        if decision.reasons[index] == DUPLICATE:
            assert decision.duplicate_of[index] in (2, 4, 9, 13) and decision.duplicate_of[index] in decision.selected


def test_ties_are_broken_by_the_seed():
    images = Images()
    images.features[:], images.thumbnails[:], images.probability[:] = 0, images.thumbnails[0], 1
    scores = replace(images.scores(), seed=np.arange(len(images.features))[::-1])
    decision = selection.decide(scores, 9, Limits(0.5, 99.0, 0.3, 0.1))
    assert decision.selected == (len(images.features) - 1,)


def test_the_first_selected_images_are_the_most_diverse():
    images = Images(pool=4, dimensions=2)
    images.features[:] = [[0, 0], [0.5, 0], [4, 0], [0, 3]]
    scores = replace(images.scores(), class_distance=np.zeros(4))
    decision = selection.decide(scores, 3, Limits(0.0, 1.0, -1.0, -1.0))
    assert decision.selected == (0, 2, 3) and decision.reasons == (None, SPARE, None, None)


limit_values = st.builds(Limits, st.floats(0, 1), st.floats(0, 5), st.floats(0, 3), st.floats(0, 0.3))


@given(st.integers(0, 99), st.integers(0, 12), limit_values)
def test_every_image_is_selected_or_has_one_reason_that_follows_from_its_scores(seed, keep, limits):
    scores = Images(seed, pool=12).scores()
    decision = selection.decide(scores, keep, limits)
    selected = [index for index, reason in enumerate(decision.reasons) if reason is None]
    assert sorted(decision.selected) == selected and len(selected) <= keep
    is_copy = (scores.feature_distance <= limits.feature) | (scores.pixel_distance <= limits.pixel)
    for index, reason in enumerate(decision.reasons):
        assert reason is None or reason in REASONS
        assert (reason == COPY) == is_copy[index]
        if reason == WRONG_CLASS:
            assert scores.probability[index] < limits.probability
        elif reason == FAR:
            assert scores.class_distance[index] > limits.class_distance
        elif reason == DUPLICATE:
            other = decision.duplicate_of[index]
            assert decision.reasons[other] in (None, SPARE)
            alike = scores.feature_between[index, other] <= limits.feature
            assert alike or scores.pixel_between[index, other] <= limits.pixel
        elif reason is None:
            assert scores.probability[index] >= limits.probability
            assert scores.class_distance[index] <= limits.class_distance
    for rank, index in enumerate(decision.selected):
        for other in decision.selected[:rank]:
            assert scores.feature_between[index, other] > limits.feature
            assert scores.pixel_between[index, other] > limits.pixel
    assert SPARE not in decision.reasons or len(selected) == keep


@given(st.integers(0, 99), limit_values, st.integers(1, 12))
def test_each_selected_image_is_the_farthest_from_those_before(seed, limits, keep):
    scores = Images(seed, pool=12).scores()
    selected = selection.decide(scores, keep, limits).selected
    gaps = [scores.feature_between[index, selected[:rank]].min() for rank, index in enumerate(selected) if rank]
    assert gaps == sorted(gaps, reverse=True)
    # A smaller selection is the beginning of a larger one.
    assert selection.decide(scores, keep + 3, limits).selected[:keep] == selected


@given(st.integers(0, 99), limit_values, st.integers(1, 12), st.permutations(range(12)))
def test_the_decision_does_not_depend_on_the_order_of_the_pool(seed, limits, keep, order):
    images = Images(seed, pool=12)
    images.features[5], images.thumbnails[7] = images.features[1], images.thumbnails[2]
    scores, order = images.scores(), np.array(order)
    whole, permuted = selection.decide(scores, keep, limits), selection.decide(scores.take(order), keep, limits)
    assert [int(order[index]) for index in permuted.selected] == list(whole.selected)
    assert list(permuted.reasons) == [whole.reasons[index] for index in order]
    assert [order[other] if other >= 0 else -1 for other in permuted.duplicate_of] == [
        whole.duplicate_of[index] for index in order
    ]


def test_an_empty_pool_gives_an_empty_decision():
    images = Images()
    decision = selection.decide(images.scores().take(np.array([], int)), 5, images.limits())
    assert decision.selected == () and decision.reasons == ()


def test_thumbnail_distances_are_minimal_over_all_orientations():
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8) for _ in range(2))

    def slow(a, b):
        views = [np.rot90(view, quarter_turns) for view in (a, a.transpose(1, 0, 2)) for quarter_turns in range(4)]
        return min(np.sqrt(np.mean((view / 255 - b / 255) ** 2)) for view in views)

    expected = [[slow(a, b) for b in other] for a in one]
    np.testing.assert_allclose(selection.thumbnail_distances(one, other), expected)
    np.testing.assert_allclose(selection.thumbnail_distances(one, np.rot90(one[:, ::-1], 1, (1, 2))).diagonal(), 0,
                               atol=1e-7)  # fmt: skip
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert selection.thumbnail_distances(black, white) == pytest.approx(1)


def test_real_images_are_compared_with_other_cases_only():
    """Every case is one image four times: all distances within a case are zero and excluded."""
    images = Images()
    first = np.arange(len(images.train)) // 4 * 4
    images.train, images.train_pixels = images.train[first], images.train_pixels[first]
    reference = images.reference()
    cases = images.train[:40:4]
    between = np.linalg.norm(cases[:, None] - cases, axis=-1)
    np.testing.assert_allclose(reference.train_feature[::4], np.where(np.eye(10), np.inf, between).min(1), rtol=1e-6)
    # The nearest five of the class are four copies of the nearest case and one of the next.
    nearest = np.sort(between, axis=1)[:, 1:3]
    np.testing.assert_allclose(reference.class_distance[::4], (4 * nearest[:, 0] + nearest[:, 1]) / 5, rtol=1e-6)
    assert (reference.train_pixel > 0).all()


def test_a_class_of_one_case_is_measured_within_it():
    images = Images()
    images.groups[images.is_class] = "the only case"
    reference = images.reference()
    assert np.isfinite(reference.class_distance).all() and (reference.train_feature > 0).all()
    with pytest.raises(ValueError, match="1 training images"):
        images.is_class = np.arange(80) == 3
        images.reference()


def test_limits_are_quantiles_over_real_images():
    images = Images()
    limits, real = images.limits(distance_quantile=0.9, distance_slack=1.5, copy_quantile=0.1), images.reference()
    assert limits.class_distance == pytest.approx(1.5 * np.quantile(real.class_distance, 0.9))
    both = np.concatenate([real.train_feature, real.held_out_feature])
    assert limits.feature == pytest.approx(np.quantile(both, 0.1))
    assert np.mean(both <= limits.feature) == pytest.approx(0.1, abs=0.02)
    # Duplicates in the data do not lower the threshold to zero.
    images.train[:8], images.train[8:16] = 0, 0
    assert images.limits().feature > 0


def test_the_minimum_probability_is_at_most_the_median_of_real_images():
    """Otherwise a poor classifier would reject the whole class, real images included."""
    images = Images()
    images.held_out_probability[:] = np.linspace(0, 0.4, 15)
    assert images.limits(least_probability=0.5).probability == pytest.approx(0.2)
    assert images.limits(least_probability=0.1).probability == 0.1


def test_a_class_without_validation_images_uses_its_training_images():
    images = Images()
    for name in ("held_out", "held_out_pixels", "held_out_probability"):
        setattr(images, name, getattr(images, name)[:0])
    assert images.limits(least_probability=0.9).probability == 0.9
    assert images.limits().feature > 0 and images.limits().pixel > 0


@pytest.mark.parametrize("rule", [
    {"least_probability": 1.2}, {"distance_quantile": -0.1}, {"copy_quantile": 2}, {"distance_slack": 0},
])  # fmt: skip
def test_rules_out_of_range_are_refused(rule):
    with pytest.raises(ValueError, match=f"{next(iter(rule))}="):
        Rules(**rule)
