"""Post-hoc adjustment of logits: identities, and its choice on validation images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax import evaluate
from dim_jax.evaluation.adjustment import (
    CRITERIA,
    TAUS,
    Adjustment,
    FoldValidation,
    fit_adjustment,
    fit_pooled,
    log_prior,
    score_of,
)
from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.metrics import classification_metrics
from dim_jax.losses.margins import adjust_logits

COUNTS = np.array([40, 300, 1000])


def imbalanced(seed=0, size=600):
    """Logits of a calibrated classifier on classes as frequent as COUNTS, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, p=COUNTS / COUNTS.sum(), size=size)
    evidence = rng.normal(size=(size, 3)) + 1.5 * np.eye(3)[labels]
    return 1.5 * evidence + log_prior(COUNTS), labels


def test_the_default_and_tau_0_leave_the_logits():
    logits, _ = imbalanced()
    for same in (Adjustment(), Adjustment(tau=0.0, shifts=(0.0, 0.0, 0.0), temperature=1.0)):
        np.testing.assert_array_equal(same(logits, COUNTS), logits)


@given(tau=st.floats(0, 3), seed=st.integers(0, 99))
def test_probabilities_agree_with_the_adjusted_logits_of_the_losses(tau, seed):
    logits, _ = imbalanced(seed, 20)
    expected = probabilities(np.asarray(adjust_logits(logits, COUNTS, tau)))
    np.testing.assert_allclose(probabilities(Adjustment(tau)(logits, COUNTS)), expected, atol=1e-5)


def test_equally_frequent_classes_and_a_common_shift_change_no_probability():
    logits, _ = imbalanced()
    for same in (Adjustment(tau=2.0), Adjustment(shifts=(0.5, 0.5, 0.5))):
        np.testing.assert_allclose(probabilities(same(logits, np.full(3, 7))), probabilities(logits), atol=1e-12)


def test_counts_per_example_are_those_of_each_model():
    logits, _ = imbalanced()
    counts = np.where(np.arange(len(logits))[:, None] < 100, COUNTS, COUNTS[::-1])
    both = Adjustment(tau=1.0)(logits, counts)
    np.testing.assert_array_equal(both[:100], Adjustment(tau=1.0)(logits[:100], COUNTS))
    np.testing.assert_array_equal(both[100:], Adjustment(tau=1.0)(logits[100:], COUNTS[::-1]))


def test_the_command_offers_every_criterion():
    assert evaluate.CRITERIA == CRITERIA  # written twice, so that --help is quick


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_chosen_tau_has_the_best_score_and_is_the_smallest_of_them(criterion):
    logits, labels = imbalanced()
    scores = [score_of(Adjustment(float(tau))(logits, COUNTS), labels, criterion) for tau in TAUS]
    chosen = fit_adjustment(logits, labels, COUNTS, criterion)
    assert chosen.tau == TAUS[np.argmax(scores)]
    expected = classification_metrics(labels, chosen(logits, COUNTS), "abc")[criterion]
    assert max(scores) == pytest.approx(expected)
    by_class = fit_adjustment(logits, labels, COUNTS, criterion, "class")
    assert score_of(by_class(logits, COUNTS), labels, criterion) >= max(scores)


def test_the_balanced_error_is_least_near_tau_1_for_calibrated_logits():
    logits, labels = imbalanced(size=20_000)
    assert 0.6 <= fit_adjustment(logits, labels, COUNTS, "balanced_accuracy").tau <= 1.4
    assert fit_adjustment(logits, labels, COUNTS, "accuracy").tau <= 0.2


def test_the_temperature_is_that_of_the_adjusted_logits_and_changes_no_class():
    logits, labels = imbalanced()
    once, scaled = fit_adjustment(logits, labels, COUNTS), fit_adjustment(4 * logits, labels, COUNTS)
    shifted = Adjustment(once.tau)(logits, COUNTS)
    np.testing.assert_allclose(once(logits, COUNTS) * once.temperature, shifted)
    assert scaled.temperature > 2 * once.temperature


def test_a_class_without_images_excludes_nothing():
    logits, labels = imbalanced()
    chosen = fit_adjustment(logits, labels, np.array([0, 300, 1000]))
    assert np.isfinite(chosen(logits, np.array([0, 300, 1000]))).all()
    assert np.isfinite(Adjustment(1.0)(logits, np.zeros(3))).all()


def test_unknown_choices_are_named():
    logits, labels = imbalanced()
    with pytest.raises(ValueError, match="criterion 'f2' is unknown"):
        fit_adjustment(logits, labels, COUNTS, "f2")
    with pytest.raises(ValueError, match="offsets of kind 'image'"):
        fit_adjustment(logits, labels, COUNTS, offsets="image")


def cross_validation(seed=0, folds=5, size=100):
    """Validation predictions of every fold; fold i is tested on part i and validated on part i + 1."""
    parts = []
    for fold in range(folds):
        logits, labels = imbalanced(seed + fold, size)
        rows = np.arange(size) + size * ((fold + 1) % folds)
        parts.append(FoldValidation(rows, logits, labels, COUNTS + fold))
    return parts


def test_each_fold_has_its_own_class_counts_in_a_pooled_choice():
    parts = cross_validation()
    logits, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("logits", "labels"))
    counts = np.repeat([part.class_counts for part in parts], 100, axis=0)
    assert fit_pooled(parts) == fit_adjustment(logits, labels, counts)
    assert fit_pooled(parts[:1]) == fit_adjustment(parts[0].logits, parts[0].labels, parts[0].class_counts)
