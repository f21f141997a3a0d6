"""Answers and scores by case."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.data.dataset import Dataset
from dim_jax.data.manifest import Manifest, Row
from dim_jax.data.splits import Fold, Split
from dim_jax.evaluation import cases
from dim_jax.evaluation.metrics import classification_metrics
from dim_jax.evaluation.split_scores import score_split

CLASSES = ("normal", "polyp", "carcinoma")


@st.composite
def images_of_cases(draw):
    """Labels, probabilities, and the number of the case of each image."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    numbers = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return rng.integers(0, 3, len(numbers)), rng.dirichlet(np.ones(3), len(numbers)), numbers


@given(images_of_cases())
def test_the_mean_and_the_worst_are_those_of_each_case(images):
    labels, shares, numbers = images
    severity = np.array([1, 0, 2])
    for case, answer in enumerate(cases.answers(shares, numbers, severity)):
        of_case = numbers == case
        np.testing.assert_allclose(answer["probabilities"], shares[of_case].mean(0))
        assert answer["mean"] == shares[of_case].mean(0).argmax()
        ranks = [severity.tolist().index(label) for label in shares[of_case].argmax(1)]
        assert answer["worst"] == severity[max(ranks)]
        label = cases.most_frequent(labels, numbers, 3)[case]
        assert np.sum(labels[of_case] == label) == np.bincount(labels[of_case]).max()


def test_of_equally_frequent_classes_of_a_case_the_rarer_one_counts():
    labels, numbers = np.array([0, 2, 0, 0, 0, 2]), np.array([0, 0, 1, 1, 2, 2])
    assert cases.most_frequent(labels, numbers, 3).tolist() == [2, 0, 2]


@given(images_of_cases(), st.integers(0, 9))
def test_cases_of_one_image_score_like_images_in_any_order(images, seed):
    labels, shares, _ = images
    own = np.random.default_rng(seed).permutation(len(labels))
    scored = cases.score_by_case(labels, shares, own, np.arange(3))
    expected = classification_metrics(labels, np.log(shares), CLASSES)
    assert scored["num_cases"] == len(labels) and scored["num_mixed"] == 0
    for rule in ("mean", "worst"):
        assert scored[rule]["confusion_matrix"] == expected["confusion_matrix"]
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "g_mean", "mcc"):
            assert scored[rule]["scores"][name]["value"] == pytest.approx(expected[name])


def test_intervals_hold_the_score_and_say_why_there_are_none():
    labels = np.repeat([0, 1, 2], 20)
    predicted = np.where(np.arange(60) % 4 == 0, (labels + 1) % 3, labels)
    scored = cases.interval_scores(labels, predicted, np.arange(60) // 2, 3)
    accuracy = scored["scores"]["accuracy"]
    assert scored["no_interval"] is None and accuracy["low"] < accuracy["value"] == 0.75 < accuracy["high"]
    assert scored == cases.interval_scores(labels, predicted, np.arange(60) // 2, 3)
    without = cases.interval_scores(labels, predicted, labels, 3)
    assert "needs two" in without["no_interval"] and without["scores"]["accuracy"] == {
        "value": 0.75, "low": None, "high": None,
    }  # fmt: skip


def dataset(groups, labels, tmp_path):
    rows = [
        Row(f"{at}.png", CLASSES[label], group, str(at), 8, 8)
        for at, (group, label) in enumerate(zip(groups, labels, strict=True))
    ]
    fold = Fold(("test",) * len(rows), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return Dataset(Manifest(tmp_path, CLASSES, tuple(rows)), Split("manifest", 0, (fold,)))


def test_a_split_is_scored_per_image_and_by_case_without_and_with_the_adjustment(tmp_path):
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 2])
    data = dataset(["a", "a", "b", "", "c", "c", "a", "d"], labels, tmp_path)
    logits = np.random.default_rng(0).normal(size=(8, 3))
    adjustment = {"tau": 1.0, "shifts": [], "temperature": 1.0, "class_counts": [1, 10, 100]}
    metrics, answers = score_split(np.arange(8), logits, data, tmp_path, adjustment, CLASSES)
    assert metrics["accuracy"] == metrics["intervals"]["plain"]["scores"]["accuracy"]["value"]
    assert metrics["adjusted"]["accuracy"] == metrics["intervals"]["adjusted"]["scores"]["accuracy"]["value"]
    assert metrics["intervals"]["unit"] == "case" and metrics["intervals"]["num_units"] == 5
    assert metrics["by_case"]["plain"]["num_cases"] == 5 and metrics["by_case"]["plain"]["num_mixed"] == 1
    assert [answer["case"] for answer in answers] == ["3.png", "a", "b", "c", "d"]
    assert answers[1]["images"] == {"normal": 2, "carcinoma": 1}
    assert set(answers[1]["adjusted"]) == {"mean", "worst", "probabilities"}
    unknown = dataset([""] * 8, labels, tmp_path)
    metrics, answers = score_split(np.arange(8), logits, unknown, tmp_path, None)
    assert answers is None and metrics["by_case"] is None and metrics["adjusted"] is None
    assert metrics["intervals"]["unit"] == "image" and metrics["intervals"]["adjusted"] is None


def test_the_severity_names_every_class_once():
    assert cases.read_severity(["polyp", "normal", "carcinoma"], CLASSES).tolist() == [1, 0, 2]
    for names in (["polyp"], [*CLASSES, "polyp"], ["polyp", "normal", "cancer"]):
        with pytest.raises(ValueError, match="must list every class once"):
            cases.read_severity(names, CLASSES)
