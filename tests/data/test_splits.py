"""Splits: whole units, every image in one part, stratified and reproducible."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.data import splits
from dim_jax.data.manifest import Manifest, Row
from dim_jax.data.splits import Fold, Split
from dim_jax.runs import files

REAL = Path(__file__).parents[3] / "shared" / "data" / "ebhi-seg-224" / "manifest.csv"


@st.composite
def single_class_units(draw, most_units=8):
    """Labels and units of images whose units have one class each, with three or more units per class."""
    labels, units = [], []
    for label in range(draw(st.integers(2, 4))):
        for size in draw(st.lists(st.integers(1, 12), min_size=3, max_size=most_units)):
            number = 1 + max(units, default=-1)
            labels += [label] * size
            units += [number] * size
    return np.array(labels), np.array(units)


@st.composite
def any_units(draw):
    """Labels and units of images in any mixture, with five or more units."""
    count = draw(st.integers(5, 60))
    labels = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    units = list(range(5)) + draw(st.lists(st.integers(0, 12), min_size=count - 5, max_size=count - 5))
    return np.array(labels), np.array(units)


@settings(max_examples=25)
@given(any_units(), st.sampled_from(["group", "kfold"]), st.integers(0, 5))
def test_no_unit_is_divided_and_every_image_is_in_one_part(data, method, seed):
    labels, units = data
    for assignment in splits.assign(labels, units, method, seed=seed):
        assert len(assignment) == len(labels) and set(assignment) <= set(splits.NAMES)
        parts = defaultdict(set)
        for unit, part in zip(units, assignment, strict=True):
            parts[unit].add(part)
        assert all(len(names) == 1 for names in parts.values())


@settings(max_examples=15)
@given(any_units(), st.integers(3, 5))
def test_kfold_tests_every_image_once_and_validates_on_the_next_part(data, folds):
    assignments = np.array(splits.assign(*data, "kfold", folds=folds))
    assert ((assignments == "test").sum(0) == 1).all() and ((assignments == "val").sum(0) == 1).all()
    np.testing.assert_array_equal(assignments == "val", np.roll(assignments, -1, axis=0) == "test")


@settings(max_examples=25)
@given(single_class_units(), st.integers(0, 5))
def test_every_class_with_three_units_is_in_every_part(data, seed):
    labels, units = data
    assignment = np.array(splits.assign(labels, units, "group", seed=seed)[0])
    for label in np.unique(labels):
        assert set(assignment[labels == label]) == set(splits.NAMES)


@settings(max_examples=10)
@given(any_units(), st.sampled_from(["group", "kfold", "random_image"]))
def test_a_split_is_a_pure_function_of_its_arguments(data, method):
    labels, units = data
    assignments = splits.assign(labels, units, method, seed=3)
    np.random.default_rng().random()
    assert assignments == splits.assign(labels.copy(), units * 7 + 1, method, seed=3)


def test_different_seeds_give_different_splits():
    labels, units = np.arange(200) % 4, np.arange(200) // 2
    for method in ("group", "kfold", "random_image"):
        assert splits.assign(labels, units, method, seed=0) != splits.assign(labels, units, method, seed=1)


def test_the_random_image_split_is_stratified_and_divides_groups():
    labels = np.repeat([0, 1, 2], [500, 100, 10])
    units = np.arange(610) // 5
    assignment = np.array(splits.assign(labels, units, "random_image")[0])
    for label, expected in enumerate([(300, 100, 100), (60, 20, 20), (6, 2, 2)]):
        assert tuple((assignment[labels == label] == name).sum() for name in splits.NAMES) == expected
    assert any(len(set(assignment[units == unit])) > 1 for unit in np.unique(units))


def test_parts_have_their_shares_of_every_class():
    labels, units = np.arange(1000) % 3, np.arange(1000) // 4
    assignment = np.array(splits.assign(labels, units, validation=0.1, test=0.25)[0])
    for label in range(3):
        shares = [(assignment[labels == label] == name).mean() for name in splits.NAMES]
        np.testing.assert_allclose(shares, [0.65, 0.1, 0.25], atol=0.01)


def test_a_class_with_few_units_is_in_training_first_then_in_test():
    labels = np.array([0] * 40 + [1] * 6 + [2] * 6)
    units = np.concatenate([np.arange(40), [40] * 6, [41] * 3, [42] * 3])
    assignment = np.array(splits.assign(labels, units)[0])
    assert set(assignment[labels == 1]) == {"train"}
    assert set(assignment[labels == 2]) == {"train", "test"}


def test_groups_and_near_duplicates_are_joined_into_units():
    units = splits.units_of(["x", "", "y", "x", "", "y", ""], np.array([[3, 1], [4, 6]]))
    assert units.tolist() == [0, 0, 1, 0, 2, 1, 2]
    assert splits.units_of(["", "", ""], np.zeros((0, 2), int)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("options, message", [
    ({"validation": 0.5, "test": 0.5}, "leave something to train on"),
    ({"test": 0}, "must be positive"),
    ({"method": "kfold", "folds": 2}, "at least 3"),
    ({"method": "kfold", "folds": 11}, "cannot be divided into 11 parts"),
    ({"method": "shuffle"}, "unknown split method 'shuffle'"),
])  # fmt: skip
def test_impossible_splits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        splits.assign(np.arange(20) % 2, np.arange(20) // 2, **options)


def example_manifest(folder):
    rows = tuple(Row(f"{name}.png", label, "", name, 8, 8) for name, label in zip("pqrs", "abab", strict=True))
    return Manifest(folder, ("a", "b"), rows)


def test_a_saved_split_is_read_back(tmp_path):
    manifest = example_manifest(tmp_path)
    fold = Fold(("train", "val", "test", "train"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    split = Split("group", 7, (fold,))
    splits.save(split, manifest, tmp_path)
    loaded = splits.load(tmp_path, manifest)
    assert loaded == split
    assert loaded.rows(0, "train").tolist() == [0, 3] and loaded.rows(0, "train").dtype == np.int32
    with pytest.raises(ValueError, match="fold 1 does not exist"):
        loaded.rows(1, "train")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        loaded.rows(0, "dev")


@pytest.mark.parametrize("change, message", [
    (lambda record: record.update(version=2), "version 2"),
    (lambda record: record.pop("folds"), "lacks folds"),
    (lambda record: record["folds"][0].pop("mean"), "fold 0 lacks mean"),
    (lambda record: record["folds"][0]["assignment"].pop(), "divides 3 images but the manifest has 4"),
    (lambda record: record["folds"][0]["assignment"].__setitem__(0, "dev"), "unknown split 'dev'"),
    (lambda record: record.update(manifest="0"), "drawn for another manifest"),
])  # fmt: skip
def test_a_split_of_other_data_is_refused(tmp_path, change, message):
    manifest = example_manifest(tmp_path)
    fold = Fold(("train", "val", "test", "train"), (0.1,) * 3, (0.4,) * 3)
    path = splits.save(Split("group", 7, (fold,)), manifest, tmp_path)
    record = files.read_json(path)
    change(record)
    files.write_json(path, record)
    with pytest.raises(ValueError, match=message):
        splits.load(tmp_path, manifest)


@pytest.mark.skipif(not REAL.is_file(), reason="the real images are not here")
def test_real_cases_are_divided_with_shares_within_two_percent():
    with REAL.open(newline="") as file:
        records = sorted(csv.DictReader(file), key=lambda record: record["path"])
    _, labels = np.unique([record["label"] for record in records], return_inverse=True)
    units = splits.units_of([record["group"] for record in records], np.zeros((0, 2), int))
    assignment = np.array(splits.assign(labels, units)[0])
    for label in range(6):
        shares = [(assignment[labels == label] == name).mean() for name in splits.NAMES]
        np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=0.02)
