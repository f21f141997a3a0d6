"""Classification metrics: symmetries, identities and undefined cases."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dim_jax.evaluation.metrics import (
    RELIABILITY_BINS,
    classification_metrics,
    expected_calibration_error,
    geometric_mean,
    reliability_bins,
    scalars,
)

NAMES = ("a", "b", "c", "d")


def score(labels, predictions, num_classes=4):
    return classification_metrics(labels, np.eye(num_classes)[predictions], NAMES[:num_classes])


@st.composite
def scored_sets(draw, num_classes=4):
    """Labels, and logits without ties."""
    size = draw(st.integers(1, 40))
    labels = draw(hnp.arrays(np.int64, size, elements=st.integers(0, num_classes - 1)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return labels, rng.normal(size=(size, num_classes)) * draw(st.sampled_from([0.01, 1.0, 3.0]))


@given(scored=scored_sets(), seed=st.integers(0, 9))
def test_the_order_of_the_images_changes_nothing(scored, seed):
    labels, logits = scored
    order = np.random.default_rng(seed).permutation(len(labels))
    metrics, shuffled = (classification_metrics(labels[o], logits[o], NAMES) for o in (slice(None), order))
    assert metrics["confusion_matrix"] == shuffled["confusion_matrix"]
    assert metrics["per_class"] == shuffled["per_class"]
    assert scalars(shuffled) == pytest.approx(scalars(metrics), abs=1e-12)
    assert [entry["count"] for entry in metrics["reliability"]] == [entry["count"] for entry in shuffled["reliability"]]


@given(scored=scored_sets(), order=st.permutations(range(4)))
def test_the_order_of_the_classes_only_reorders_the_metrics_per_class(scored, order):
    labels, logits = scored
    metrics = classification_metrics(labels, logits, NAMES)
    # Class order[k] is now called k.
    renamed = classification_metrics(np.argsort(order)[labels], logits[:, order], [NAMES[k] for k in order])
    for entry, expected in zip(renamed["per_class"], [metrics["per_class"][k] for k in order], strict=True):
        assert entry == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(renamed["confusion_matrix"], np.array(metrics["confusion_matrix"])[order][:, order])
    assert scalars(renamed) == pytest.approx(scalars(metrics), abs=1e-12)
    assert set(renamed["absent_classes"]) == set(metrics["absent_classes"])


@given(scored=scored_sets())
def test_all_metrics_follow_from_the_confusion_matrix(scored):
    labels, logits = scored
    metrics = classification_metrics(labels, logits, NAMES)
    matrix = np.array(metrics["confusion_matrix"])
    assert matrix.sum() == metrics["num_images"] == len(labels)
    assert metrics["accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-12)
    present = matrix.sum(1) > 0
    recall = np.diag(matrix)[present] / matrix.sum(1)[present]
    precision = np.diag(matrix)[present] / np.maximum(matrix.sum(0)[present], 1)
    f1 = 2 * np.diag(matrix)[present] / (matrix.sum(0) + matrix.sum(1))[present]
    assert metrics["balanced_accuracy"] == metrics["macro_recall"] == pytest.approx(recall.mean(), abs=1e-12)
    assert metrics["macro_precision"] == pytest.approx(precision.mean(), abs=1e-12)
    assert metrics["macro_f1"] == pytest.approx(f1.mean(), abs=1e-12)
    assert metrics["g_mean"] == pytest.approx(recall.prod() ** (1 / len(recall)), abs=1e-12)
    assert [entry["support"] for entry in metrics["per_class"]] == matrix.sum(1).tolist()
    assert [entry["predicted"] for entry in metrics["per_class"]] == matrix.sum(0).tolist()


def test_an_absent_class_is_listed_and_not_averaged():
    metrics = score([0, 0, 1, 1], [0, 0, 1, 3])
    assert metrics["absent_classes"] == ["c", "d"]
    for entry in metrics["per_class"][2:]:
        assert entry["support"] == 0
        assert all(entry[name] is None for name in ("precision", "recall", "f1", "auroc"))
    assert metrics["per_class"][3]["predicted"] == 1
    assert metrics["balanced_accuracy"] == metrics["macro_recall"] == 0.75
    assert metrics["macro_precision"] == 1.0
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["g_mean"] == pytest.approx(np.sqrt(0.5))


def test_a_class_never_predicted_counts_precision_0():
    metrics = score([0, 0, 1, 1], [0, 0, 0, 0], 2)
    assert (
        metrics["per_class"][1]["precision"] == metrics["per_class"][1]["recall"] == metrics["per_class"][1]["f1"] == 0
    )
    assert metrics["macro_precision"] == pytest.approx(0.25)
    assert metrics["g_mean"] == metrics["mcc"] == 0


@given(recalls=st.lists(st.just(0.0) | st.floats(1e-3, 1), min_size=1, max_size=9))
def test_the_geometric_mean_is_between_the_extremes_and_is_0_with_any_0(recalls):
    g_mean = geometric_mean(recalls)
    if 0 in recalls:
        assert g_mean == 0
    else:
        assert min(recalls) * (1 - 1e-12) <= g_mean <= max(recalls) * (1 + 1e-12)
        assert geometric_mean([r**2 for r in recalls]) == pytest.approx(g_mean**2, rel=1e-9)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_auroc_is_1_for_a_perfect_ranking_and_0_for_a_reversed_one(num_classes):
    labels = np.arange(40) % num_classes
    signs = 2 * np.eye(num_classes)[labels] - 1
    margins = np.random.default_rng(0).uniform(0.5, 3, (40, 1))
    for sign, expected in ((1, 1.0), (-1, 0.0)):
        metrics = classification_metrics(labels, sign * signs * margins, NAMES[:num_classes])
        assert [entry["auroc"] for entry in metrics["per_class"]] == [expected] * num_classes
        assert metrics["macro_auroc"] == expected


def test_auroc_counts_pairs_and_ties_half():
    # Scores of the first class: 2 and 0 for its own images, 1 and 0 for the others: two pairs won, one tied, one lost.
    logits = np.array([[2.0, 0], [0, 0], [1, 0], [0, 0]])
    metrics = classification_metrics([0, 0, 1, 1], logits, ["a", "b"])
    assert metrics["per_class"][0]["auroc"] == metrics["macro_auroc"] == pytest.approx(2.5 / 4)


def test_auroc_is_undefined_for_a_class_absent_or_alone():
    logits = np.random.default_rng(1).normal(size=(6, 3))
    one_absent = classification_metrics([0, 1, 0, 1, 1, 0], logits, NAMES[:3])
    aurocs = [entry["auroc"] for entry in one_absent["per_class"]]
    assert aurocs[2] is None and one_absent["macro_auroc"] == pytest.approx((aurocs[0] + aurocs[1]) / 2)
    alone = classification_metrics([1] * 6, logits, NAMES[:3])
    assert [entry["auroc"] for entry in alone["per_class"]] == [None] * 3
    assert alone["macro_auroc"] is None and "macro_auroc" not in scalars(alone)


def test_calibration_error_is_0_for_a_calibrated_set_and_1_for_confident_errors():
    # Ten groups of 100 images with confidence 0.5 + g / 20, of which exactly that share is right.
    confidence = np.repeat(0.5 + np.arange(10) / 20, 100)
    is_correct = np.concatenate([np.arange(100) < round(100 * value) for value in confidence[::100]])
    logits = np.stack([np.log(confidence), np.log1p(-confidence)], -1)
    metrics = classification_metrics(np.where(is_correct, 0, 1), logits, ["a", "b"])
    assert metrics["expected_calibration_error"] == pytest.approx(0, abs=1e-9)
    wrong = classification_metrics(np.ones(1000, int), np.tile([40.0, 0.0], (1000, 1)), ["a", "b"])
    assert wrong["expected_calibration_error"] == pytest.approx(1, abs=1e-9)


def test_calibration_error_weighs_bins_by_their_images():
    probabilities = np.array([[0.95, 0.05]] * 3 + [[0.65, 0.35]])
    bins = reliability_bins(probabilities, np.array([0, 0, 0, 1]))
    filled = {round(entry["lower"], 1): entry for entry in bins if entry["count"]}
    assert filled[0.9] == {
        "lower": 0.9, "upper": 1.0, "count": 3, "confidence": pytest.approx(0.95), "accuracy": 1.0
    }  # fmt: skip
    assert filled[0.6]["accuracy"] == 0.0
    assert expected_calibration_error(bins) == pytest.approx((3 * 0.05 + 0.65) / 4)


@given(scored=scored_sets())
def test_reliability_bins_hold_every_image_once_within_their_limits(scored):
    labels, logits = scored
    metrics = classification_metrics(labels, logits, NAMES)
    bins = metrics["reliability"]
    assert len(bins) == RELIABILITY_BINS and sum(entry["count"] for entry in bins) == len(labels)
    assert bins[0]["lower"] == 0 and bins[-1]["upper"] == 1
    for entry in bins:
        if entry["count"]:
            assert entry["lower"] - 1e-12 <= entry["confidence"] <= entry["upper"] + 1e-12
            assert 0 <= entry["accuracy"] <= 1
        else:
            assert entry["confidence"] is None and entry["accuracy"] is None
    assert 0 <= metrics["expected_calibration_error"] <= 1


@given(scored=scored_sets(), shift=st.floats(-1e3, 1e3))
def test_cross_entropy_is_that_of_the_softmax_and_ignores_a_shift_of_the_logits(scored, shift):
    labels, logits = scored
    cross_entropy = classification_metrics(labels, logits, NAMES)["cross_entropy"]
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    shares = exponentials / exponentials.sum(-1, keepdims=True)
    assert cross_entropy == pytest.approx(-np.log(shares[np.arange(len(labels)), labels]).mean(), rel=1e-9, abs=1e-12)
    shifted = classification_metrics(labels, logits + shift, NAMES)["cross_entropy"]
    assert shifted == pytest.approx(cross_entropy, rel=1e-9, abs=1e-9)


@given(scored=scored_sets(), scale=st.sampled_from([1.0, 1e4, 1e30]))
def test_every_result_is_strict_json_however_extreme_the_logits(scored, scale):
    labels, logits = scored
    metrics = classification_metrics(labels, (logits * scale).astype(np.float32), NAMES)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert all(type(value) is float for value in scalars(metrics).values())
    assert {"accuracy", "macro_f1", "g_mean", "mcc", "balanced_accuracy"} <= set(scalars(metrics))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = np.zeros((3, 2))
    logits[1, 1] = bad
    with pytest.raises(ValueError, match="not all finite"):
        classification_metrics([0, 1, 0], logits, ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "shape"), [([], (0, 2)), ([0, 1], (3, 2)), ([0, 1], (2, 3)), ([0, 1], (2,)), ([0, 1], (2, 2, 1))]
)
def test_no_images_or_shapes_that_do_not_match_are_refused(labels, shape):
    with pytest.raises(ValueError, match=rf"cannot score {len(labels)} labels"):
        classification_metrics(labels, np.zeros(shape), ["a", "b"])


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_refused(label):
    with pytest.raises(ValueError, match=rf"label {label} "):
        classification_metrics([0, label], np.eye(2), ["a", "b"])
