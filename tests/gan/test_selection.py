"""Scores and decisions: what is planted is found, every image has one fate, and the order of the pool plays no part."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.gan import selection
from dim_jax.gan.selection import COPY, DUPLICATE, FAR, REASONS, SPARE, WRONG_CLASS, Limits, Rules

SIDE = 8


class World:
    """Training images of two classes in a plane of features, and a pool for class 0; every image also has pixels."""

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


def test_images_like_real_ones_are_nearly_all_kept():
    """5 % are as far from the class as few real ones, 2 % as near to a training image, by features or by pixels."""
    rates = [
        np.mean([reason in (COPY, FAR) for reason in World(seed, real=100).decide().reasons]) for seed in range(10)
    ]
    assert 0.02 < np.mean(rates) < 0.15


@pytest.mark.parametrize("where", ["features", "pixels", "turned pixels", "mirrored pixels"])
def test_copies_of_training_images_are_rejected_as_such(where):
    world = World()
    if where == "features":
        world.features[:5] = world.train[[3, 7, 11, 50, 60]] + 0.01
    else:
        copies = world.train_pixels[[3, 7, 11, 50, 60]]
        if where == "turned pixels":
            copies = np.rot90(copies, 3, (1, 2))
        elif where == "mirrored pixels":
            copies = copies[:, :, ::-1]
        noise = world.rng.integers(-3, 4, copies.shape)
        world.thumbnails[:5] = np.clip(copies + noise, 0, 255)
    scores, decision = world.scores(), world.decide()
    assert decision.reasons[:5] == (COPY,) * 5
    rows = scores.feature_row if where == "features" else scores.pixel_row
    assert rows[:5].tolist() == [3, 7, 11, 50, 60]
    assert decision.reasons[5:].count(COPY) <= 4


def test_a_copy_is_told_as_a_copy_whatever_else_is_wrong_with_it():
    world = World()
    world.thumbnails[0], world.features[0], world.probability[0] = world.train_pixels[9], 50.0, 0.0
    assert world.decide().reasons[0] == COPY


def test_wrong_and_far_images_are_rejected_as_such():
    world = World()
    world.probability[:3] = 0.1
    world.features[2:5] += 10
    world.probability[5] = np.nan
    limits = replace(world.limits(), feature=0.0, pixel=0.0)
    reasons = selection.decide(world.scores(), 99, limits).reasons
    assert reasons[:6] == (WRONG_CLASS, WRONG_CLASS, WRONG_CLASS, FAR, FAR, WRONG_CLASS)


@pytest.mark.parametrize("where", ["features", "pixels"])
def test_of_duplicates_in_the_pool_one_remains(where):
    world = World()
    values = world.features if where == "features" else world.thumbnails
    for place in (4, 9, 13):
        values[place] = values[2]
    decision = selection.decide(world.scores(), 99, Limits(0.5, 99.0, 0.3, 0.1))
    group = [decision.reasons[place] for place in (2, 4, 9, 13)]
    assert group.count(None) == 1 and group.count(DUPLICATE) == 3
    for place in (2, 4, 9, 13):
        if decision.reasons[place] == DUPLICATE:
            assert decision.duplicate_of[place] in (2, 4, 9, 13) and decision.duplicate_of[place] in decision.kept


def test_equals_are_told_apart_by_their_seed():
    world = World()
    world.features[:], world.thumbnails[:], world.probability[:] = 0, world.thumbnails[0], 1
    scores = replace(world.scores(), seed=np.arange(len(world.features))[::-1])
    decision = selection.decide(scores, 9, Limits(0.5, 99.0, 0.3, 0.1))
    assert decision.kept == (len(world.features) - 1,)


def test_what_is_kept_first_is_most_diverse():
    world = World(pool=4, dimensions=2)
    world.features[:] = [[0, 0], [0.5, 0], [4, 0], [0, 3]]
    scores = replace(world.scores(), class_distance=np.zeros(4))
    decision = selection.decide(scores, 3, Limits(0.0, 1.0, -1.0, -1.0))
    assert decision.kept == (0, 2, 3) and decision.reasons == (None, SPARE, None, None)


limit_values = st.builds(Limits, st.floats(0, 1), st.floats(0, 5), st.floats(0, 3), st.floats(0, 0.3))


@given(st.integers(0, 99), st.integers(0, 12), limit_values)
def test_every_image_has_exactly_one_fate_that_its_numbers_bear_out(seed, keep, limits):
    scores = World(seed, pool=12).scores()
    decision = selection.decide(scores, keep, limits)
    kept = [place for place, reason in enumerate(decision.reasons) if reason is None]
    assert sorted(decision.kept) == kept and len(kept) <= keep
    is_copy = (scores.feature_distance <= limits.feature) | (scores.pixel_distance <= limits.pixel)
    for place, reason in enumerate(decision.reasons):
        assert reason is None or reason in REASONS
        assert (reason == COPY) == is_copy[place]
        if reason == WRONG_CLASS:
            assert scores.probability[place] < limits.probability
        elif reason == FAR:
            assert scores.class_distance[place] > limits.class_distance
        elif reason == DUPLICATE:
            other = decision.duplicate_of[place]
            assert decision.reasons[other] in (None, SPARE)
            alike = scores.feature_between[place, other] <= limits.feature
            assert alike or scores.pixel_between[place, other] <= limits.pixel
        elif reason is None:
            assert scores.probability[place] >= limits.probability
            assert scores.class_distance[place] <= limits.class_distance
    for at, place in enumerate(decision.kept):
        for other in decision.kept[:at]:
            assert scores.feature_between[place, other] > limits.feature
            assert scores.pixel_between[place, other] > limits.pixel
    assert SPARE not in decision.reasons or len(kept) == keep


@given(st.integers(0, 99), limit_values, st.integers(1, 12))
def test_each_kept_image_is_the_farthest_from_those_before(seed, limits, keep):
    scores = World(seed, pool=12).scores()
    kept = selection.decide(scores, keep, limits).kept
    gaps = [scores.feature_between[place, kept[:at]].min() for at, place in enumerate(kept) if at]
    assert gaps == sorted(gaps, reverse=True)
    # A smaller selection is the beginning of a larger one.
    assert selection.decide(scores, keep + 3, limits).kept[:keep] == kept


@given(st.integers(0, 99), limit_values, st.integers(1, 12), st.permutations(range(12)))
def test_the_order_of_the_pool_plays_no_part(seed, limits, keep, order):
    world = World(seed, pool=12)
    world.features[5], world.thumbnails[7] = world.features[1], world.thumbnails[2]
    scores, order = world.scores(), np.array(order)
    whole, permuted = selection.decide(scores, keep, limits), selection.decide(scores.take(order), keep, limits)
    assert [int(order[place]) for place in permuted.kept] == list(whole.kept)
    assert [permuted.reasons[at] for at in range(12)] == [whole.reasons[place] for place in order]
    assert [order[other] if other >= 0 else -1 for other in permuted.duplicate_of] == [
        whole.duplicate_of[place] for place in order
    ]


def test_an_empty_pool_is_decided_too():
    world = World()
    decision = selection.decide(world.scores().take(np.array([], int)), 5, world.limits())
    assert decision.kept == () and decision.reasons == ()


def test_thumbnail_distances_are_the_least_over_all_orientations():
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8) for _ in range(2))

    def slow(a, b):
        views = [np.rot90(view, turns) for view in (a, a.transpose(1, 0, 2)) for turns in range(4)]
        return min(np.sqrt(np.mean((view / 255 - b / 255) ** 2)) for view in views)

    expected = [[slow(a, b) for b in other] for a in one]
    np.testing.assert_allclose(selection.thumbnail_distances(one, other), expected)
    np.testing.assert_allclose(selection.thumbnail_distances(one, np.rot90(one[:, ::-1], 1, (1, 2))).diagonal(), 0,
                               atol=1e-7)  # fmt: skip
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert selection.thumbnail_distances(black, white) == pytest.approx(1)


def test_real_images_are_measured_against_other_cases_alone():
    """Every case is one picture four times: within a case all distances are zero, and none of them counts."""
    world = World()
    first = np.arange(len(world.train)) // 4 * 4
    world.train, world.train_pixels = world.train[first], world.train_pixels[first]
    found = world.reference()
    cases = world.train[:40:4]
    between = np.linalg.norm(cases[:, None] - cases, axis=-1)
    np.testing.assert_allclose(found.train_feature[::4], np.where(np.eye(10), np.inf, between).min(1), rtol=1e-6)
    # The nearest five of the class are four copies of the nearest case and one of the next.
    nearest = np.sort(between, axis=1)[:, 1:3]
    np.testing.assert_allclose(found.class_distance[::4], (4 * nearest[:, 0] + nearest[:, 1]) / 5, rtol=1e-6)
    assert (found.train_pixel > 0).all()


def test_a_class_of_one_case_is_measured_within_it():
    world = World()
    world.groups[world.is_class] = "the only case"
    found = world.reference()
    assert np.isfinite(found.class_distance).all() and (found.train_feature > 0).all()
    with pytest.raises(ValueError, match="1 training images"):
        world.is_class = np.arange(80) == 3
        world.reference()


def test_limits_are_what_real_images_do():
    world = World()
    found, real = world.limits(distance_quantile=0.9, distance_slack=1.5, copy_quantile=0.1), world.reference()
    assert found.class_distance == pytest.approx(1.5 * np.quantile(real.class_distance, 0.9))
    both = np.concatenate([real.train_feature, real.held_out_feature])
    assert found.feature == pytest.approx(np.quantile(both, 0.1))
    assert np.mean(both <= found.feature) == pytest.approx(0.1, abs=0.02)
    # Pictures that are in the data twice do not open the door to copies.
    world.train[:8], world.train[8:16] = 0, 0
    assert world.limits().feature > 0


def test_no_more_probability_is_asked_than_real_images_get():
    """A classifier that hardly knows a class would else reject all of it, the real images too."""
    world = World()
    world.held_out_probability[:] = np.linspace(0, 0.4, 15)
    assert world.limits(least_probability=0.5).probability == pytest.approx(0.2)
    assert world.limits(least_probability=0.1).probability == 0.1


def test_a_class_without_validation_images_is_measured_on_training_images():
    world = World()
    for name in ("held_out", "held_out_pixels", "held_out_probability"):
        setattr(world, name, getattr(world, name)[:0])
    assert world.limits(least_probability=0.9).probability == 0.9
    assert world.limits().feature > 0 and world.limits().pixel > 0


@pytest.mark.parametrize("rule", [
    {"least_probability": 1.2}, {"distance_quantile": -0.1}, {"copy_quantile": 2}, {"distance_slack": 0},
])  # fmt: skip
def test_rules_that_make_no_sense_are_refused(rule):
    with pytest.raises(ValueError, match=f"{next(iter(rule))}="):
        Rules(**rule)
