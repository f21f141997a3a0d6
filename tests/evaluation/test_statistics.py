"""Statistics over cases: identities, scikit-learn on weighted images, coverage of intervals and level of tests."""

import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from dim_jax.evaluation.confusion_matrices import case_confusions, scores
from dim_jax.evaluation.metrics import classification_metrics
from dim_jax.evaluation.statistics import (
    bootstrap_weights,
    differences,
    estimates,
    holm,
    rarest_classes,
    sign_flip_test,
)

SCALARS = ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1", "g_mean", "mcc")
NAMES = {*SCALARS, *(f"{kind}_{label}" for kind in ("recall", "f1") for label in range(3))}


def clustered(rng, recalls, cases_of=(20, 14, 8), largest=6, alike=1.0):
    """Labels, cases (each of one class), and predictions (2, N) of each arm of `recalls`.

    The recall of each case is drawn from a beta distribution with the mean of its class and arm and parameters that sum
    to `alike`: the smaller the sum, the more the images of a case agree.
    """
    sizes = rng.integers(1, largest + 1, sum(cases_of))
    cases = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.repeat(np.arange(len(cases_of)), cases_of)[cases]
    wrong = (labels + rng.integers(1, len(cases_of), (2, len(labels)))) % len(cases_of)
    arms = []
    for of_arm in recalls:
        mean = np.repeat(of_arm, cases_of)
        is_correct = rng.random((2, len(labels))) < rng.beta(alike * mean, alike * (1 - mean))[cases]
        arms.append(np.where(is_correct, labels, wrong))
    return labels, cases, arms


def confusions_of(rng, recalls, **options):
    labels, cases, arms = clustered(rng, recalls, **options)
    return [case_confusions(labels, arm, cases, len(recalls[0])) for arm in arms]


def two_arms(seed=0):
    return confusions_of(np.random.default_rng(seed), [(0.9, 0.7, 0.6), (0.8, 0.7, 0.5)])


@st.composite
def scored_images(draw, num_classes=3):
    """Labels, predictions of one seed, and weights of the images, integer or not."""
    size = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    predictions = rng.integers(draw(st.integers(1, num_classes)), size=size)
    labels = np.where(rng.random(size) < draw(st.sampled_from([0, 0.5, 1])), predictions, rng.integers(3, size=size))
    weights = rng.integers(1, 4, size) if draw(st.booleans()) else rng.uniform(0.1, 3, size)
    return labels, predictions, weights


@given(images=scored_images())
def test_scores_are_those_of_the_metrics(images):
    labels, predictions, _ = images
    values = scores(case_confusions(labels, predictions[None], np.zeros(len(labels), int), 3)[0, 0])
    expected = classification_metrics(labels, np.eye(3)[predictions], ("a", "b", "c"))
    assert set(values) == NAMES
    for name in SCALARS:
        assert values[name] == pytest.approx(expected[name], abs=1e-12), name
    for label, entry in enumerate(expected["per_class"]):
        for kind in ("recall", "f1"):
            value = np.nan if entry[kind] is None else entry[kind]
            assert values[f"{kind}_{label}"] == pytest.approx(value, abs=1e-12, nan_ok=True)


@given(images=scored_images())
def test_scores_of_weights_are_those_of_weighted_images(images):
    labels, predictions, weights = images
    matrix = np.zeros((3, 3))
    np.add.at(matrix, (labels, predictions), weights)
    values, present = scores(matrix), np.unique(labels)
    _, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predictions, labels=present, sample_weight=weights, zero_division=0
    )
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions, sample_weight=weights))
    assert values["balanced_accuracy"] == pytest.approx(recall.mean())
    assert values["macro_f1"] == pytest.approx(f1.mean())
    assert values["g_mean"] == pytest.approx(recall.prod() ** (1 / len(present)))
    # MCC takes the square root of sums of weights with rounding errors, so the tolerance is large.
    assert values["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, predictions, sample_weight=weights), abs=1e-6)
    assert [values[f"recall_{label}"] for label in present] == pytest.approx(recall)


def test_undefined_scores_are_0_or_nan_as_in_the_metrics():
    constant = scores([[4, 0, 0], [3, 0, 0], [0, 0, 0]])
    assert constant["mcc"] == constant["g_mean"] == constant["f1_1"] == 0
    assert np.isnan(constant["recall_2"]) and np.isnan(constant["f1_2"])
    assert constant["balanced_accuracy"] == 0.5
    empty = scores(np.zeros((2, 2)))
    assert empty.pop("mcc") == 0 and all(np.isnan(value) for value in empty.values())


@given(images=scored_images(), num_cases=st.integers(1, 9), seed=st.integers(0, 99))
def test_case_confusions_hold_every_image_once_in_any_order(images, num_cases, seed):
    labels, predictions, _ = images
    rng = np.random.default_rng(seed)
    cases = np.array([f"case {number}" for number in rng.integers(num_cases, size=len(labels))])
    seeds = np.stack([predictions, labels])
    confusions = case_confusions(labels, seeds, cases, 3)
    assert confusions.shape == (2, len(set(cases)), 3, 3)
    for of_seed, predicted in zip(confusions, seeds, strict=True):
        np.testing.assert_array_equal(of_seed.sum(0), sk.confusion_matrix(labels, predicted, labels=range(3)))
        first = cases == min(cases)
        np.testing.assert_array_equal(of_seed[0], sk.confusion_matrix(labels[first], predicted[first], labels=range(3)))
    order = rng.permutation(len(labels))
    np.testing.assert_array_equal(case_confusions(labels[order], seeds[:, order], cases[order], 3), confusions)


def test_the_stratum_of_a_case_is_the_rarest_class_of_all_images_that_it_holds():
    counts = np.array([[9, 1, 0], [0, 2, 1], [5, 0, 3], [0, 4, 0]])
    np.testing.assert_array_equal(rarest_classes(counts), [1, 2, 2, 1])


@given(seed=st.integers(0, 2**32 - 1))
def test_a_resample_keeps_the_weight_of_every_stratum_and_all_classes(seed):
    rng = np.random.default_rng(seed)
    counts = np.concatenate(
        [np.eye(3, dtype=int), rng.integers(1, 3, (5, 3)) * rng.integers(2, size=(5, 3)), np.eye(3)]
    )
    weights, num_redrawn = bootstrap_weights(counts, 20, rng)
    strata = rarest_classes(counts)
    assert weights.shape == (20, 11) and num_redrawn >= 0
    for stratum in range(3):
        np.testing.assert_allclose(weights[:, strata == stratum].sum(1), (strata == stratum).sum())
    assert (weights @ counts > 0).all()


def test_resamples_spread_a_mean_as_far_as_its_standard_error():
    counts, values = np.repeat(np.eye(2), 4, 0), np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0])
    weights, num_redrawn = bootstrap_weights(counts, 40_000, np.random.default_rng(0))
    assert num_redrawn == 0
    for stratum in (slice(0, 4), slice(4, 8)):
        means = weights[:, stratum] @ values[stratum] / 4
        assert means.mean() == pytest.approx(values[stratum].mean(), rel=0.01)
        assert means.std() == pytest.approx(values[stratum].std(ddof=1) / 2, rel=0.02)


def test_a_resample_that_lacks_a_class_is_drawn_again_and_counted():
    # Class 1 is only in two of the five cases of class 0, which is rarer: 0.6 ** 4 of the resamples lack it.
    counts = np.array([[1, 5, 0], [1, 5, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 20], [0, 0, 20]])
    weights, num_redrawn = bootstrap_weights(counts, 5_000, np.random.default_rng(0))
    assert (weights @ counts > 0).all()
    assert num_redrawn / (5_000 + num_redrawn) == pytest.approx(0.6**4, abs=0.02)


def test_an_estimate_is_the_mean_of_its_seeds_and_its_interval_that_of_weighted_images():
    labels, cases, (predictions, _) = clustered(np.random.default_rng(0), [(0.9, 0.7, 0.6), (0.8, 0.7, 0.5)])
    confusions = case_confusions(labels, predictions, cases, 3)
    results = estimates(confusions, num_resamples=60, confidence=0.8, seed=5)
    assert set(results) == NAMES
    of_seeds = [sk.f1_score(labels, predicted, average="macro") for predicted in predictions]
    assert results["macro_f1"].value == pytest.approx(np.mean(of_seeds))
    assert results["macro_f1"].seed_sd == pytest.approx(np.std(of_seeds, ddof=1))
    weights, _ = bootstrap_weights(confusions[0].sum(-1), 60, np.random.default_rng(5))
    resampled = [
        np.mean([sk.f1_score(labels, predicted, average="macro", sample_weight=w[cases]) for predicted in predictions])
        for w in weights
    ]
    assert (results["macro_f1"].low, results["macro_f1"].high) == pytest.approx(
        tuple(np.quantile(resampled, (0.1, 0.9)))
    )
    alone = estimates(confusions[:1], num_resamples=10)["macro_f1"]
    assert alone.seed_sd is None and alone.num_seeds == 1 and alone.num_resamples == 10


def test_the_interval_of_a_difference_comes_from_the_same_resamples_of_both_arms():
    arm, baseline = two_arms()
    paired = differences(arm, baseline, num_resamples=500)
    for name, own in estimates(arm, num_resamples=500).items():
        other = estimates(baseline, num_resamples=500)[name]
        assert paired[name].value == pytest.approx(own.value - other.value)
        assert paired[name].low < paired[name].high
    # Arms that err on the same images differ little, however uncertain each of them is.
    nearly = arm.copy()
    case = np.flatnonzero(arm[0, :, 0, 0])[0]
    nearly[:, case, 0] = nearly[:, case, 0][:, [1, 0, 2]]
    own, paired = estimates(arm, num_resamples=500), differences(nearly, arm, num_resamples=500)
    assert paired["macro_f1"].high - paired["macro_f1"].low < 0.5 * (own["macro_f1"].high - own["macro_f1"].low)


def test_equal_arms_differ_by_nothing_with_certainty():
    arm, _ = two_arms()
    for name, result in differences(arm, arm, num_resamples=50).items():
        assert (result.value, result.low, result.high, result.seed_sd) == (0, 0, 0, 0), name
    for name, result in sign_flip_test(arm, arm).items():
        assert asdict(result) == {
            "difference": 0, "p_value": 1, "num_flips": 1, "is_exact": True, "num_differing": 0
        }, name  # fmt: skip


@pytest.mark.parametrize("num_flips", [60, 10_000])
def test_exchanging_the_arms_changes_the_sign_alone(num_flips):
    arm, baseline = (confusions[:, ::4] for confusions in two_arms())
    there, back = differences(arm, baseline, num_resamples=200), differences(baseline, arm, num_resamples=200)
    for name, result in there.items():
        assert (result.value, result.low, result.high) == pytest.approx(
            (-back[name].value, -back[name].high, -back[name].low)
        )
    there = sign_flip_test(arm, baseline, num_flips=num_flips)
    for name, result in sign_flip_test(baseline, arm, num_flips=num_flips).items():
        assert result.difference == pytest.approx(-there[name].difference)
        assert result.p_value == there[name].p_value and result.is_exact == (num_flips > 60)


@pytest.mark.parametrize("seed", range(2))
def test_the_exact_test_counts_all_exchanges_of_whole_cases(seed):
    labels, cases, (ours, theirs) = clustered(
        np.random.default_rng(seed), [(0.8, 0.9, 0.8), (0.5, 0.3, 0.5)], cases_of=(3, 2, 2), largest=3
    )
    result = sign_flip_test(*(case_confusions(labels, arm, cases, 3) for arm in (ours, theirs)))["macro_f1"]

    def difference(exchanged):
        is_exchanged = np.array(exchanged)[cases]
        own, other = np.where(is_exchanged, theirs, ours), np.where(is_exchanged, ours, theirs)
        return np.mean([
            sk.f1_score(labels, a, average="macro", zero_division=0)
            - sk.f1_score(labels, b, average="macro", zero_division=0)
            for a, b in zip(own, other, strict=True)
        ])  # fmt: skip

    permuted = np.array([difference(exchanged) for exchanged in itertools.product((False, True), repeat=7)])
    assert result.difference == pytest.approx(permuted[0])
    assert result.p_value == pytest.approx((np.abs(permuted) >= abs(permuted[0]) - 1e-9).mean())
    assert result.is_exact and result.num_flips == 2**result.num_differing


def test_random_exchanges_agree_with_all_of_them_and_never_give_p_0():
    arm, baseline = (confusions[:, ::3] for confusions in two_arms(1))
    exact = sign_flip_test(arm, baseline, num_flips=2**14)
    sampled = sign_flip_test(arm, baseline, num_flips=1_000)
    assert exact["macro_f1"].is_exact and not sampled["macro_f1"].is_exact and sampled["macro_f1"].num_flips == 1_000
    for name in SCALARS:
        assert sampled[name].p_value == pytest.approx(exact[name].p_value, abs=0.05)
    best = np.zeros((1, 30, 2, 2))
    best[:, :15, 0, 0] = best[:, 15:, 1, 1] = 2
    assert sign_flip_test(best, best[..., ::-1], num_flips=99)["g_mean"].p_value == 1 / 100


def test_cases_on_which_the_arms_agree_do_not_change_which_exchanges_are_drawn():
    arm, baseline = two_arms()
    agreed = arm[:, :5]
    more = sign_flip_test(*(np.concatenate([agreed, confusions, agreed], 1) for confusions in (arm, baseline)))
    assert more["recall_2"] == sign_flip_test(arm, baseline)["recall_2"]


def test_results_repeat_for_a_seed_and_are_strict_json():
    arm, baseline = two_arms()
    results = [estimates(arm), differences(arm, baseline), sign_flip_test(arm, baseline)]
    assert results == [estimates(arm), differences(arm, baseline), sign_flip_test(arm, baseline)]
    assert estimates(arm, seed=1)["g_mean"].low != results[0]["g_mean"].low
    for entry in (value for values in results for value in values.values()):
        assert json.loads(json.dumps(asdict(entry), allow_nan=False)) == asdict(entry)


def test_an_interval_of_a_difference_has_its_nominal_coverage():
    recalls, rng = [(0.85, 0.7, 0.6), (0.8, 0.6, 0.65)], np.random.default_rng(0)
    truth = np.mean(recalls[0]) - np.mean(recalls[1])
    covered = []
    for _ in range(300):
        arms = confusions_of(rng, recalls, cases_of=(60, 50, 40))
        interval = differences(*arms, num_resamples=300)["balanced_accuracy"]
        covered.append(interval.low <= truth <= interval.high)
    assert 0.9 <= np.mean(covered) <= 0.98


def test_equal_arms_are_rejected_at_the_level_of_the_test_and_unequal_ones_mostly():
    rng = np.random.default_rng(0)
    null = [
        sign_flip_test(*confusions_of(rng, [(0.8, 0.7, 0.6)] * 2), num_flips=199)["macro_f1"].p_value
        for _ in range(400)
    ]
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(null) <= level) == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 400))
    unequal = [
        sign_flip_test(*confusions_of(rng, [(0.9, 0.8, 0.8), (0.7, 0.5, 0.4)]), num_flips=199)["macro_f1"].p_value
        for _ in range(50)
    ]
    assert np.mean(np.array(unequal) <= 0.05) > 0.9


def test_intervals_over_images_would_be_too_narrow():
    labels, cases, (predictions, _) = clustered(
        np.random.default_rng(0), [(0.8, 0.7, 0.6)] * 2, cases_of=(30, 30, 30), largest=12, alike=0.5
    )
    by_case, by_image = (
        estimates(case_confusions(labels, predictions, units, 3), num_resamples=1_000)["balanced_accuracy"]
        for units in (cases, np.arange(len(labels)))
    )
    assert by_case.value == by_image.value
    assert by_case.high - by_case.low > 1.5 * (by_image.high - by_image.low)


def test_the_g_mean_of_a_single_split_varies_more_than_twice_as_much_as_that_of_all_images():
    # 60, 240, 564, 126 and 750 images in cases of 6; a test split of a fifth has two cases of the rarest class.
    cases_of, rng = np.array([10, 40, 94, 21, 125]), np.random.default_rng(0)
    mean = np.repeat((0.6, 0.8, 0.9, 0.6, 0.95), cases_of)
    hits = rng.binomial(6, rng.beta(mean, 1 - mean, (1_000, len(mean))))
    widths = []
    for of_class in (cases_of, cases_of // 5):
        confusions = np.zeros((1_000, 5, 5))
        for label, start in enumerate(np.cumsum(cases_of) - cases_of):
            right = hits[:, start : start + of_class[label]].sum(1)
            confusions[:, label, label] = right
            confusions[:, label, label - 1] = 6 * of_class[label] - right
        low, high = np.quantile(scores(confusions)["g_mean"], (0.025, 0.975))
        widths.append(high - low)
    assert widths[1] > 2 * widths[0]


def test_holm_of_four_p_values_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1] and holm([]).tolist() == []


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=8), level=st.floats(0.001, 0.999))
def test_holm_rejects_what_stepping_down_rejects(p_values, level):
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all() and (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()
    rejected = set()
    for step, number in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[number] * (len(p_values) - step) > level:
            break
        rejected.add(number)
    assert set(np.flatnonzero(adjusted <= level)) == rejected


@pytest.mark.parametrize("p_value", [-0.1, 1.1, np.nan])
def test_holm_refuses_values_out_of_range(p_value):
    with pytest.raises(ValueError, match=f"p-value {p_value} is not in"):
        holm([0.5, p_value])


@pytest.mark.parametrize(
    ("labels", "predictions", "cases", "message"),
    [
        ([], [[]], [], "do not match"),
        ([0, 1], [0, 1], ["a", "b"], "do not match"),
        ([0, 1], [[0, 1, 1]], ["a", "b"], "do not match"),
        ([0, 1], [[0, 1]], ["a"], "do not match"),
        ([0, 1], [[0, 2]], ["a", "b"], "prediction 2 is out of range"),
        ([0, -1], [[0, 1]], ["a", "b"], "label -1 is out of range"),
        ([0, 1], [[0.2, 0.8]], ["a", "b"], "a prediction must be an integer class"),
        ([0, 1], [[0, 1]], ["a", ""], "image 1 has no case"),
        ([0, 1], [[0, 1]], [None, "b"], "image 0 has no case"),
    ],
)
def test_predictions_that_cannot_be_counted_are_refused(labels, predictions, cases, message):
    with pytest.raises(ValueError, match=message):
        case_confusions(labels, predictions, cases, 2)


def test_arms_that_cannot_be_compared_are_refused():
    arm, baseline = two_arms()
    for compare in (differences, sign_flip_test):
        with pytest.raises(ValueError, match="do not match"):
            compare(arm, baseline[:1])
        with pytest.raises(ValueError, match="the same images"):
            compare(arm, baseline[:, ::-1])
    for broken in (arm[0], arm[..., :2], arm[:, :0]):
        with pytest.raises(ValueError, match="do not match"):
            estimates(broken)
    without, alone = (case_confusions([0, 0, 1, 1], [[0, 0, 1, 1]], list(cases), 3) for cases in ("abcd", "abcc"))
    with pytest.raises(ValueError, match="class 2 has no images"):
        estimates(without)
    with pytest.raises(ValueError, match=r"class 1 has 1 case\(s\)"):
        estimates(alone[..., :2, :2])


@pytest.mark.parametrize("options", [{"confidence": 0}, {"confidence": 1.0}, {"num_resamples": 0}])
def test_options_out_of_range_are_refused(options):
    arm, baseline = two_arms()
    for name in options:
        with pytest.raises(ValueError, match=f"{name}="):
            estimates(arm, **options)
    with pytest.raises(ValueError, match="num_flips=0"):
        sign_flip_test(arm, baseline, num_flips=0)
