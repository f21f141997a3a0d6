"""The sampler of training batches, and plans of training and evaluation batches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.data.batches import PADDING, TrainingPlan, evaluation_plan, row_fields, split_partners
from dim_jax.data.dataset import Dataset
from dim_jax.data.manifest import Manifest, Row
from dim_jax.data.sampler import SwitchedSampler, make_sampler
from dim_jax.data.splits import Fold, Split

CLASSES = ("a", "b", "c")


def make_dataset(labels, assignment, generated=(), classes=CLASSES):
    """Returns a dataset without files: the sampler uses the table only."""
    rows = tuple(Row(f"{n}.png", classes[label], "", f"{n:064d}", 32, 32) for n, label in enumerate(labels))
    fold = Fold(tuple(assignment), (0.5,) * 3, (0.2,) * 3)
    images = tuple((Path(f"/generated/{n}.png"), label) for n, label in enumerate(generated))
    return Dataset(Manifest(Path("/data"), tuple(classes), rows), Split("group", 0, (fold,)), 0, images)


@st.composite
def datasets(draw):
    """At least one training image of every class, in any order among validation and test images."""
    labels = [*draw(st.lists(st.integers(0, 2), max_size=30)), 0, 1, 2]
    names = st.sampled_from(["train", "train", "val", "test"])
    assignment = draw(st.lists(names, min_size=len(labels) - 3, max_size=len(labels) - 3)) + ["train"] * 3
    order = draw(st.permutations(range(len(labels))))
    generated = draw(st.lists(st.integers(0, 2), max_size=20))
    return make_dataset([labels[n] for n in order], [assignment[n] for n in order], generated)


def stream(sampler, epochs):
    """Returns all draws of the first `epochs` epochs, without the rest of the last batch."""
    draws = epochs * sampler.epoch_size
    steps = -(-draws // sampler.global_batch_size)
    return np.concatenate([sampler.batch(step) for step in range(steps)])[:draws]


# 22 training rows of all three classes, with validation and test rows between them.
LABELS = [0, 1, 2, 2] * 7 + [2, 2]
ASSIGNMENT = ["train", "val", "train", "train"] * 6 + ["train", "train", "test", "test", "train", "train"]
GENERATED = [1] * 6 + [0] * 2
PLAIN = make_dataset(LABELS, ASSIGNMENT)
MIXED = make_dataset(LABELS, ASSIGNMENT, GENERATED)
TRAIN = [row for row, name in enumerate(ASSIGNMENT) if name == "train"]


@given(data=datasets(), seed=st.integers(0, 5), size=st.integers(1, 50), steps=st.permutations(range(8)))
def test_a_batch_is_a_pure_function_of_seed_and_step(data, seed, size, steps):
    def new_sampler():
        return make_sampler(data, seed=seed, global_batch_size=size)

    in_order = [new_sampler().batch(step) for step in range(8)]
    sampler = new_sampler()
    for step in steps:
        batch = sampler.batch(step)
        assert batch.dtype == np.int32 and batch.shape == (size,)
        np.testing.assert_array_equal(batch, in_order[step])
        batch[:] = -9  # callers may change their batch
        np.testing.assert_array_equal(sampler.batch(step), in_order[step])


@given(data=datasets(), size=st.integers(1, 50), balanced=st.booleans(), weight=st.sampled_from([0.0, 0.3, 1.0, 2.5]))
def test_the_sequence_of_draws_does_not_depend_on_the_batch_size(data, size, balanced, weight):
    options = {"seed": 3, "class_balanced": balanced, "generated_weight": weight}
    one_by_one = make_sampler(data, global_batch_size=1, **options)
    expected = [one_by_one.batch(draw)[0] for draw in range(3 * size)]
    sampler = make_sampler(data, global_batch_size=size, **options)
    np.testing.assert_array_equal(np.concatenate([sampler.batch(step) for step in range(3)]), expected)


@given(data=datasets(), size=st.integers(1, 50))
def test_every_epoch_draws_every_training_row_exactly_once(data, size):
    sampler = make_sampler(data, seed=0, global_batch_size=size)
    expected = np.r_[data.rows("train"), np.flatnonzero(data.is_generated)]
    assert sampler.epoch_size == len(expected)
    for epoch in stream(sampler, 3).reshape(3, -1):
        np.testing.assert_array_equal(np.sort(epoch), np.sort(expected))


def test_batches_are_full_across_epoch_boundaries():
    sampler = make_sampler(PLAIN, seed=0, global_batch_size=10)
    assert sampler.epoch_size == len(TRAIN) == 22
    boundary = sampler.batch(2)
    assert len(boundary) == 10
    assert sorted([*sampler.batch(0), *sampler.batch(1), *boundary[:2]]) == TRAIN
    larger_than_an_epoch = make_sampler(PLAIN, seed=0, global_batch_size=60).batch(0)
    assert sorted(larger_than_an_epoch[:44]) == sorted(TRAIN * 2)


def test_every_epoch_and_every_seed_has_a_different_order():
    orders = [
        tuple(epoch)
        for seed in range(4)
        for epoch in stream(make_sampler(PLAIN, seed=seed, global_batch_size=8), 5).reshape(5, -1)
    ]
    assert len(set(orders)) == 20
    assert tuple(TRAIN) not in orders
    # Every row comes early in some epoch, so no position belongs to a class.
    assert {row for order in orders for row in order[:8]} == set(TRAIN)


def test_every_epoch_and_every_seed_mixes_real_and_generated_rows_differently():
    samplers = [make_sampler(MIXED, seed=seed, global_batch_size=8, generated_weight=2.0) for seed in range(4)]
    patterns = {tuple(MIXED.is_generated[epoch]) for one in samplers for epoch in stream(one, 5).reshape(5, -1)}
    assert len(patterns) == 20


@pytest.mark.parametrize(("weight", "per_epoch"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8), (2.0, 16), (3.5, 28)])
def test_generated_rows_are_drawn_by_their_weight(weight, per_epoch):
    sampler = make_sampler(MIXED, seed=1, global_batch_size=7, generated_weight=weight)
    assert sampler.epoch_size == len(TRAIN) + per_epoch
    for epoch in stream(sampler, 4).reshape(4, -1):
        assert MIXED.is_generated[epoch].sum() == per_epoch
        assert sorted(epoch[~MIXED.is_generated[epoch]]) == TRAIN


def test_every_generated_row_is_drawn_before_any_is_drawn_again():
    sampler = make_sampler(MIXED, seed=1, global_batch_size=7, generated_weight=0.25)
    draws = stream(sampler, 8)
    first = len(MIXED.manifest)
    counts = np.bincount(draws, minlength=len(MIXED))[first:]
    np.testing.assert_array_equal(counts, 2)  # 8 epochs of 2 draws are two rounds of the 8 rows
    assert len({*draws[: 4 * sampler.epoch_size]} - set(TRAIN)) == 8


@given(count=st.integers(0, 8), balanced=st.booleans(), weight=st.sampled_from([0.3, 1.0, 2.0]))
def test_epochs_of_the_real_images_are_as_long_with_generated_ones_and_draw_them_by_weight(count, balanced, weight):
    data = make_dataset(LABELS, ASSIGNMENT, GENERATED[:count])
    options = {"seed": 0, "global_batch_size": 5, "class_balanced": balanced, "generated_weight": weight}
    sampler, whole = (make_sampler(data, epoch_of=images, **options) for images in ("real", "all"))
    assert sampler.epoch_size == len(TRAIN)
    assert sampler.batch(10**6).shape == (5,)
    epochs = 40
    generated, of_whole = (data.is_generated[stream(one, epochs)].mean() for one in (sampler, whole))
    # The draws of an epoch are rounded to whole images in both.
    np.testing.assert_allclose(generated, of_whole, atol=1.5 / len(TRAIN))
    if count == 0:
        np.testing.assert_array_equal(stream(sampler, 3), stream(whole, 3))


@given(count=st.integers(0, 8))
def test_each_generated_image_adds_one_draw_per_epoch(count):
    data = make_dataset(LABELS, ASSIGNMENT, GENERATED[:count])
    epoch = stream(make_sampler(data, seed=0, global_batch_size=5), 1)
    np.testing.assert_array_equal(np.sort(epoch[data.is_generated[epoch]]), np.arange(len(LABELS), len(data)))


@given(data=datasets(), weight=st.sampled_from([0.0, 0.3, 0.5, 1.0, 1.7, 3.0]))
def test_class_balanced_epochs_draw_every_class_equally_often(data, weight):
    sampler = make_sampler(data, seed=2, global_batch_size=9, class_balanced=True, generated_weight=weight)
    for epoch in stream(sampler, 3).reshape(3, -1):
        counts = np.bincount(data.labels[epoch], minlength=3)
        assert counts.max() - counts.min() <= 1
        if weight == 0:
            assert not data.is_generated[epoch].any()


def test_classes_stay_balanced_when_shares_of_real_and_generated_images_are_rounded():
    # Seven classes with one real image each; all shares of real and generated images are fractional.
    per_class = np.repeat(range(7), [2, 6, 3, 2, 2, 9, 3])
    data = make_dataset(range(7), ["train"] * 7, per_class, classes=tuple("abcdefg"))
    sampler = make_sampler(data, seed=0, global_batch_size=8, class_balanced=True, generated_weight=0.5)
    counts = np.bincount(data.labels[stream(sampler, 1)], minlength=7)
    assert sampler.epoch_size == 20 and counts.max() - counts.min() <= 1


def test_class_balance_ignores_a_class_without_images():
    sampler = make_sampler(
        make_dataset([0] * 9 + [2], ["train"] * 10), seed=0, global_batch_size=4, class_balanced=True
    )
    epoch = stream(sampler, 1)
    assert (epoch == 9).sum() == 5 and sampler.epoch_size == 10


def test_within_a_balanced_class_generated_rows_are_drawn_by_their_weight():
    # Class 1 has 6 real rows and 6 generated ones; at weight 1/2 they are a third of its draws.
    data = make_dataset([0] * 30 + [1] * 6, ["train"] * 36, [1] * 6, classes=("a", "b"))
    sampler = make_sampler(data, seed=0, global_batch_size=8, class_balanced=True, generated_weight=0.5)
    epoch = stream(sampler, 1)
    assert sampler.epoch_size == 39
    assert (data.labels[epoch] == 1).sum() in (19, 20)
    assert data.is_generated[epoch].sum() in (6, 7)


@settings(max_examples=40)
@given(data=datasets(), balanced=st.booleans(), weight=st.sampled_from([0.0, 0.3, 1.0, 2.0]))
def test_class_counts_are_the_mean_draws_per_epoch(data, balanced, weight):
    sampler = make_sampler(data, seed=4, global_batch_size=16, class_balanced=balanced, generated_weight=weight)
    epochs = 60
    mean_draws = np.bincount(data.labels[stream(sampler, epochs)], minlength=3) / epochs
    counts = sampler.class_counts(data.labels, 3)
    assert counts.dtype == np.float32
    # Every row is drawn once per round, so after any number of epochs a class is off by at most its rows of one round.
    np.testing.assert_allclose(mean_draws, counts, atol=len(data) / epochs)
    np.testing.assert_allclose(counts.sum(), sampler.epoch_size, rtol=1e-6)


def test_class_counts_of_plain_training_are_the_images_of_the_training_split():
    counts = make_sampler(PLAIN, seed=0, global_batch_size=4).class_counts(PLAIN.labels, 4)
    expected = [sum(LABELS[row] == label for row in TRAIN) for label in range(4)]
    assert counts.tolist() == expected and expected[3] == 0


@given(data=datasets(), balanced=st.booleans(), weight=st.sampled_from([0.0, 0.3, 1.0, 2.0]))
def test_validation_and_test_rows_are_never_drawn(data, balanced, weight):
    sampler = make_sampler(data, seed=5, global_batch_size=11, class_balanced=balanced, generated_weight=weight)
    held_out = {*data.rows("val"), *data.rows("test")}
    assert not held_out & {*stream(sampler, 6)}


def test_only_the_fold_in_use_is_drawn():
    data = make_dataset([0, 1, 2], ["train"] * 3)
    other = Fold(("test", "train", "val"), (0.5,) * 3, (0.2,) * 3)
    folds = Dataset(data.manifest, Split("kfold", 0, (*data.split.folds, other)), fold=1)
    assert {*stream(make_sampler(folds, seed=0, global_batch_size=2), 4)} == {1}


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("config.train.global_batch_size", {"global_batch_size": 0}),
        ("config.train.global_batch_size", {"global_batch_size": -8}),
        ("config.data.generated_weight", {"generated_weight": -0.5}),
        ("config.data.generated_weight", {"generated_weight": float("nan")}),
        ("config.data.generated_weight", {"generated_weight": float("inf")}),
        ("config.seed", {"seed": -1}),
    ],
)
def test_bad_options_are_named(field, options):
    with pytest.raises(ValueError, match=rf"{field}={next(iter(options.values()))}"):
        make_sampler(MIXED, **{"seed": 0, "global_batch_size": 8, **options})


@pytest.mark.parametrize("balanced", [False, True])
def test_a_split_without_training_images_is_refused(balanced):
    with pytest.raises(ValueError, match="no training images"):
        make_sampler(make_dataset([0, 1], ["val", "test"]), seed=0, global_batch_size=8, class_balanced=balanced)


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 1, 5, 17])
def test_the_parts_of_all_hosts_make_up_the_global_batch_from_any_step(hosts, start):
    sampler = make_sampler(MIXED, seed=6, global_batch_size=8, generated_weight=0.5)
    plans = [TrainingPlan(sampler, start, 20, host, hosts) for host in range(hosts)]
    parts = [list(plan) for plan in plans]
    for step, batch in zip(range(start, 20), zip(*parts, strict=True), strict=True):
        assert {len(part) for part in batch} == {8 // hosts}
        np.testing.assert_array_equal(np.concatenate(batch), sampler.batch(step))
    np.testing.assert_array_equal(list(plans[0]), parts[0])  # iterated again


def test_a_switched_sampler_draws_equally_from_its_step_on():
    before, after = (make_sampler(PLAIN, seed=0, global_batch_size=8, class_balanced=value) for value in (False, True))
    switched = SwitchedSampler(before, after, 5)
    for step in range(10):
        np.testing.assert_array_equal(switched.batch(step), (before if step < 5 else after).batch(step))
    assert switched.global_batch_size == 8


@pytest.mark.parametrize("hosts", [1, 2])
def test_every_row_has_a_partner_on_its_own_host(hosts):
    sampler, partners = (make_sampler(MIXED, seed=seed, global_batch_size=8) for seed in (0, 7))
    for step in range(5):
        parts = [next(iter(TrainingPlan(sampler, step, 9, host, hosts, partners))) for host in range(hosts)]
        split = [split_partners(row_fields(MIXED, part)) for part in parts]
        for prefix, expected in (("", sampler.batch(step)), ("partner_", partners.batch(step))):
            np.testing.assert_array_equal(np.concatenate([part[f"{prefix}index"] for part in split]), expected)
            labels = np.concatenate([part[f"{prefix}label"] for part in split])
            np.testing.assert_array_equal(labels, MIXED.labels[expected])


@given(
    rows=st.lists(st.integers(0, 10**6), max_size=70, unique=True),
    per_host=st.integers(1, 12),
    hosts=st.integers(1, 5),
)
def test_evaluation_batches_have_every_row_once_and_padding_only_at_the_end(rows, per_host, hosts):
    size = per_host * hosts
    plans = [evaluation_plan(np.array(rows, np.int32), size, host, hosts) for host in range(hosts)]
    assert {len(plan) for plan in plans} == {-(-len(rows) // size)}  # the same number of batches on every host
    assert all(part.shape == (per_host,) and part.dtype == np.int32 for plan in plans for part in plan)
    batches = [np.concatenate(parts) for parts in zip(*plans, strict=True)]
    evaluated = np.concatenate([np.empty(0, np.int32), *batches])
    np.testing.assert_array_equal(evaluated[: len(rows)], rows)
    assert (evaluated[len(rows) :] == PADDING).all() and len(evaluated) - len(rows) < size
