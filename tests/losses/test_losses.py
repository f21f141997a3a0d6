"""Identities of the losses, extreme logits, and equality of one device and eight."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax import lax

from dim_jax import losses
from dim_jax.losses import class_weights, focal_losses, margins

COUNTS = np.array([36.0, 145.0, 338.0, 76.0, 450.0], np.float32)
VALUES = {
    "alpha0": 0.5, "beta0": 3.0, "m": 4.0, "adaptive": 1.0, "tau": 1.0, "label_smoothing": 0.1, "gamma": 2.0,
    "effective_number_beta": 0.999, "max_margin": 0.5, "scale": 2.0, "reweight_from": 0.8, "keep_share": 0.6,
    "metric_weight": 1.0,
}  # fmt: skip


@functools.cache
def compiled(name):
    """The jitted masked mean of a loss with its gradient with respect to the logits; all arguments are traced."""

    def mean(logits, labels, mask, class_counts, parameters):
        per_example = losses.LOSSES[name](logits, labels, mask, class_counts, lambda x: x, **parameters)
        return (per_example * mask).sum() / mask.sum(), per_example

    return jax.jit(jax.value_and_grad(mean, has_aux=True))


def value_and_gradient(name, logits, labels, class_counts=COUNTS, mask=None, **parameters):
    """Masked mean of a loss, per-example losses, and the gradient of the mean with respect to the logits."""
    mask = np.ones(len(labels), np.float32) if mask is None else mask
    logits, class_counts = np.asarray(logits, np.float32), np.asarray(class_counts, np.float32)
    (value, per_example), gradient = compiled(name)(logits, labels, mask, class_counts, parameters)
    return value, per_example, gradient


LOGITS = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32) * 3
LABELS = np.random.default_rng(1).integers(0, 5, 16).astype(np.int32)


PLAIN_CROSS_ENTROPY = [
    ("cross_entropy", {"label_smoothing": 0.0}),
    ("class_balanced_cross_entropy", {"effective_number_beta": 0.0}),
    ("ohem_cross_entropy", {"keep_share": 1.0}),
    ("logit_adjusted_cross_entropy", {"tau": 0.0}),
    ("ldam", {"max_margin": 0.0, "scale": 1.0, "effective_number_beta": 0.0, "reweight_from": 0.0, "progress": 0.5}),
    ("ldam", {"max_margin": 0.0, "scale": 1.0, "effective_number_beta": 0.999, "reweight_from": 0.8, "progress": 0.5}),
    ("soft_f1", {"metric_weight": 0.0}),
    ("soft_mcc", {"metric_weight": 0.0}),
    ("focal", {"gamma": 0.0}),
    ("class_balanced_focal", {"gamma": 0.0, "effective_number_beta": 0.0}),
    ("fafl", {"alpha0": 1.0, "beta0": 0.0, "m": 0.0, "adaptive": 0.0}),
    ("published_fafl", {"alpha0": 1.0, "beta0": 0.0, "m": 0.0, "adaptive": 0.0}),
]


def assert_same_loss(got, expected, rtol=1e-5):
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize(("name", "parameters"), PLAIN_CROSS_ENTROPY)
def test_a_loss_with_neutral_parameters_is_cross_entropy(name, parameters):
    one_hot = np.eye(5)[LABELS]
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    per_example = -np.log((p * one_hot).sum(1))
    got = value_and_gradient(name, LOGITS, LABELS, **parameters)
    assert_same_loss(got, (per_example.mean(), per_example, (p - one_hot) / 16))


@pytest.mark.parametrize("name", ["weighted_cross_entropy", "class_balanced_cross_entropy", "balanced_softmax"])
def test_with_equal_counts_it_is_cross_entropy(name):
    parameters = losses.hyper_parameters(name, VALUES)
    got = value_and_gradient(name, LOGITS, LABELS, np.full(5, 9.0), **parameters)
    assert_same_loss(got, value_and_gradient("cross_entropy", LOGITS, LABELS))


def test_focal_and_class_balanced_focal_with_equal_counts_are_one():
    balanced = value_and_gradient("class_balanced_focal", LOGITS, LABELS, np.full(5, 9.0), gamma=1.5)
    assert_same_loss(balanced, value_and_gradient("focal", LOGITS, LABELS, gamma=1.5))


@given(smoothing=st.floats(0, 0.99))
def test_label_smoothing_mixes_the_label_with_all_classes(smoothing):
    _, got, _ = value_and_gradient("cross_entropy", LOGITS, LABELS, label_smoothing=smoothing)
    _, of_label, _ = value_and_gradient("cross_entropy", LOGITS, LABELS)
    of_all = -np.asarray(jax.nn.log_softmax(LOGITS)).mean(1)
    np.testing.assert_allclose(got, (1 - smoothing) * of_label + smoothing * of_all, rtol=1e-5, atol=1e-6)


def test_frequency_part_of_fafl_alone_is_cross_entropy_of_shifted_logits():
    parameters = {"alpha0": 1.0, "beta0": 0.0, "m": 4.0, "adaptive": 0.0}
    got = value_and_gradient("fafl", LOGITS, LABELS, **parameters)
    assert_same_loss(got, value_and_gradient("cross_entropy", LOGITS - 4 / COUNTS**0.25, LABELS))
    in_batch = np.bincount(LABELS, minlength=5)
    offset = np.where(in_batch > 0, 4 / np.maximum(in_batch, 1) ** 0.25, 0).astype(np.float32)
    got = value_and_gradient("published_fafl", LOGITS, LABELS, **parameters)
    assert_same_loss(got, value_and_gradient("cross_entropy", LOGITS + offset, LABELS))


@pytest.mark.parametrize("name", ["fafl", "published_fafl"])
def test_without_offset_fafl_does_not_depend_on_frequency(name):
    _, got, _ = value_and_gradient(name, LOGITS, LABELS, alpha0=0.5, beta0=3.0, m=0.0, adaptive=1.0)
    p = np.exp(LOGITS[np.arange(16), LABELS]) / np.exp(LOGITS).sum(1)
    np.testing.assert_allclose(got, -0.5 * (1 - p) * (1 - p) ** (3 * p) * np.log(p), rtol=1e-4, atol=1e-6)


def test_fafl_without_adaptation_is_the_focal_loss_of_optax():
    one_hot = np.eye(2)[np.array([0, 1, 1])]
    logits = np.array([[1.0, -0.5], [2.0, 0.3], [-1.0, 4.0]], np.float32)
    ours = focal_losses.focal_with_offset(logits, np.array([0, 1, 1]), 0.0, 1.0, 2.0, adaptive=0.0)
    # Two classes under softmax are one under the sigmoid of the difference.
    theirs = optax.sigmoid_focal_loss(logits[:, 1] - logits[:, 0], one_hot[:, 1], gamma=2.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_corrected_fafl_penalises_rare_classes_more_and_published_fafl_less():
    """At equal logits the corrected variant gives the rare class the larger loss."""
    logits = np.zeros((2, 5), np.float32)
    labels = np.array([0, 4], np.int32)  # the rarest class and the commonest
    _, corrected, _ = value_and_gradient("fafl", logits, labels, alpha0=1.0, beta0=1.0, m=4.0, adaptive=1.0)
    assert corrected[0] > corrected[1]
    labels = np.array([0, 4, 4, 4], np.int32)
    zeros = np.zeros((4, 5), np.float32)
    _, published, _ = value_and_gradient("published_fafl", zeros, labels, alpha0=1.0, beta0=1.0, m=4.0, adaptive=1.0)
    assert published[0] < published[1]


@pytest.mark.parametrize("name", ["fafl", "published_fafl"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("beta0", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("only", [None, 0, 4])
def test_fafl_is_finite_for_extreme_logits_and_lone_classes(name, scale, beta0, only):
    signs = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], (16, 5)).astype(np.float32)
    labels = LABELS if only is None else np.full(16, only, np.int32)
    counts = COUNTS if only is None else np.eye(5, dtype=np.float32)[only] * 7
    value, per_example, gradient = value_and_gradient(
        name, signs * scale, labels, counts, alpha0=0.5, beta0=beta0, m=4.0, adaptive=1.0
    )
    assert np.isfinite(value) and np.isfinite(per_example).all() and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_extreme_logits_and_absent_classes_give_finite_losses_and_gradients(name):
    signs = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], (16, 5)).astype(np.float32)
    right = 2 * np.eye(5, dtype=np.float32)[LABELS] - 1
    lone = np.full(16, 4, np.int32)
    without_some = np.array([0.0, 145.0, 338.0, 0.0, 450.0], np.float32)
    for logits in (1e4 * signs, 1e4 * right, -1e4 * right, 0 * right):
        for labels in (LABELS, lone):
            for counts in (COUNTS, without_some, np.eye(5, dtype=np.float32)[4] * 7):
                for strength in (VALUES, {**VALUES, "gamma": 0.3, "effective_number_beta": 1.0, "keep_share": 1e-3}):
                    parameters = losses.hyper_parameters(name, strength)
                    outputs = value_and_gradient(name, logits, labels, counts, **parameters)
                    assert all(np.isfinite(output).all() for output in outputs), (logits, labels, counts)


def test_class_weights_average_one_over_the_draws():
    labels = np.repeat(np.arange(5), COUNTS.astype(int)).astype(np.int32)
    uniform = np.zeros((len(labels), 5), np.float32)
    value, _, _ = value_and_gradient("weighted_cross_entropy", uniform, labels)
    np.testing.assert_allclose(value, np.log(5), rtol=1e-5)


@given(counts=arrays(np.float32, 5, elements=st.integers(0, 5000)).filter(np.any), beta=st.floats(0, 1))
def test_effective_number_weighs_rare_classes_more_and_averages_one_over_the_draws(counts, beta):
    weights = np.asarray(class_weights.effective_number(counts, beta))
    assert np.isfinite(weights).all() and not weights[counts == 0].any()
    np.testing.assert_allclose((weights * counts).sum(), counts.sum(), rtol=1e-4)
    present = np.argsort(counts)[np.count_nonzero(counts == 0) :]
    assert (np.diff(weights[present]) <= 1e-5 * weights[present][1:]).all()


def test_effective_number_is_between_equal_weights_and_inverse_frequency():
    np.testing.assert_allclose(class_weights.effective_number(COUNTS, 0.0), np.ones(5), rtol=1e-6)
    inverse = class_weights.inverse_frequency(COUNTS)
    np.testing.assert_allclose(class_weights.effective_number(COUNTS, 1.0), inverse, rtol=1e-5)
    published = (1 - 0.99) / (1 - 0.99 ** COUNTS.astype(float))
    got = np.asarray(class_weights.effective_number(COUNTS, 0.99))
    np.testing.assert_allclose(got / got.sum(), published / published.sum(), rtol=1e-4)


@given(tau=st.floats(0, 3), counts=st.lists(st.integers(1, 1000), min_size=5, max_size=5))
def test_logit_adjustment_is_cross_entropy_of_shifted_logits(tau, counts):
    counts = np.array(counts, np.float32)
    args = (LABELS, np.ones(16), counts, lambda x: x)
    adjusted = losses.logit_adjusted_cross_entropy(LOGITS, *args, tau=tau)
    shifted = losses.cross_entropy(LOGITS + tau * np.log(counts / counts.sum()), *args)
    np.testing.assert_allclose(adjusted, shifted, rtol=1e-4, atol=1e-4)


def test_balanced_softmax_weights_every_term_of_the_softmax_by_class_count():
    _, got, _ = value_and_gradient("balanced_softmax", LOGITS, LABELS)
    terms = COUNTS * np.exp(LOGITS)
    np.testing.assert_allclose(got, -np.log(terms[np.arange(16), LABELS] / terms.sum(1)), rtol=1e-5)
    assert_same_loss((got,), (value_and_gradient("logit_adjusted_cross_entropy", LOGITS, LABELS, tau=1.0)[1],))


@given(tau=st.floats(0, 3))
def test_adjusting_afterwards_undoes_the_adjustment_in_training(tau):
    """The offset added to the logits in training is the one that the post-hoc correction subtracts."""
    biased = LOGITS + tau * np.log(COUNTS / COUNTS.sum())
    np.testing.assert_allclose(margins.adjust_logits(biased, COUNTS, tau), LOGITS, rtol=1e-4, atol=1e-4)


def test_adjusted_logits_of_a_perfect_model_are_those_of_balanced_classes():
    likelihood = np.random.default_rng(3).dirichlet(np.ones(5), 16)  # of an image, by class
    posterior = likelihood * COUNTS / (likelihood * COUNTS).sum(1, keepdims=True)
    balanced = jax.nn.softmax(margins.adjust_logits(jnp.log(posterior), COUNTS))
    np.testing.assert_allclose(balanced, likelihood / likelihood.sum(1, keepdims=True), rtol=1e-4)


def test_ldam_takes_the_margin_from_the_label_alone_and_most_for_the_rarest():
    _, got, _ = value_and_gradient("ldam", LOGITS, LABELS, max_margin=0.7, scale=3.0, reweight_from=1.0, progress=0.0)
    margin = 0.7 * (36 / COUNTS) ** 0.25
    shifted = 3 * (LOGITS - np.eye(5)[LABELS] * margin[LABELS, None]).astype(np.float32)
    np.testing.assert_allclose(got, value_and_gradient("cross_entropy", shifted, LABELS)[1], rtol=1e-5, atol=2e-6)


def test_ldam_weighs_classes_only_late_in_the_run():
    def at(progress):
        return value_and_gradient("ldam", LOGITS, LABELS, **losses.hyper_parameters("ldam", VALUES), progress=progress)

    weights = class_weights.effective_number(COUNTS, VALUES["effective_number_beta"])[LABELS]
    assert_same_loss(at(0.79), at(0.0))
    np.testing.assert_allclose(at(0.8)[1], weights * at(0.79)[1], rtol=1e-5)
    assert_same_loss(at(0.8), at(1.0))


@given(keep_share=st.floats(0.01, 1), mask=arrays(np.float32, 16, elements=st.sampled_from([0.0, 1.0])).filter(np.any))
def test_ohem_is_the_mean_over_the_hardest(keep_share, mask):
    value, _, _ = value_and_gradient("ohem_cross_entropy", LOGITS, LABELS, mask=mask, keep_share=keep_share)
    _, per_example, _ = value_and_gradient("cross_entropy", LOGITS, LABELS)
    hardest = np.sort(per_example[mask > 0])[::-1]
    # The example at the threshold has a fractional weight.
    weights = np.clip(keep_share * len(hardest) - np.arange(len(hardest)), 0, 1)
    np.testing.assert_allclose(value, (weights * hardest).sum() / weights.sum(), rtol=1e-4)


def test_ohem_selects_the_hardest_examples_and_weights_ties_equally():
    _, per_example, gradient = value_and_gradient("ohem_cross_entropy", LOGITS, LABELS, keep_share=0.25)
    hardest = np.argsort(value_and_gradient("cross_entropy", LOGITS, LABELS)[1])[-4:]
    assert set(np.flatnonzero(per_example)) == set(hardest)
    assert set(np.flatnonzero(np.any(gradient, axis=1))) == set(hardest)
    value, tied, _ = value_and_gradient("ohem_cross_entropy", np.zeros((16, 5), np.float32), LABELS, keep_share=0.25)
    np.testing.assert_allclose(tied, np.full(16, np.log(5)), rtol=1e-5)
    np.testing.assert_allclose(value, np.log(5), rtol=1e-5)


PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=16, max_size=16)


@pytest.mark.filterwarnings("ignore:A single label")
@given(pairs=PAIRS)
def test_soft_metrics_of_certain_predictions_are_the_metrics(pairs):
    labels, predictions = np.array(pairs, np.int32).T
    logits = 100 * np.eye(5, dtype=np.float32)[predictions]
    plain, _, _ = value_and_gradient("cross_entropy", logits, labels)
    f1 = sklearn.metrics.f1_score(labels, predictions, labels=np.unique(labels), average="macro", zero_division=0)
    soft_f1, _, _ = value_and_gradient("soft_f1", logits, labels)
    np.testing.assert_allclose(soft_f1 - plain, 1 - f1, atol=2e-5)
    soft_mcc, _, _ = value_and_gradient("soft_mcc", logits, labels)
    np.testing.assert_allclose(soft_mcc - plain, 1 - sklearn.metrics.matthews_corrcoef(labels, predictions), atol=2e-5)


@pytest.mark.parametrize("name", ["soft_f1", "soft_mcc"])
def test_soft_metrics_fall_as_predictions_get_surer_of_the_right_class(name):
    right = np.eye(5, dtype=np.float32)[LABELS]
    plain = [value_and_gradient("cross_entropy", scale * right, LABELS)[0] for scale in range(6)]
    lacking = [value_and_gradient(name, scale * right, LABELS)[0] - ce for scale, ce in enumerate(plain)]
    assert (np.diff(lacking) < 0).all() and lacking[0] <= 1 and lacking[-1] > 0


@pytest.mark.parametrize("name", losses.LOSSES)
def test_eight_devices_give_loss_and_gradient_of_one(name):
    """Summed as in a training step, with padding: some device has only padding, and none has all classes."""
    rng = np.random.default_rng(4)
    logits, features = rng.normal(size=(32, 5)).astype(np.float32), rng.normal(size=(32, 3)).astype(np.float32)
    labels, mask = np.sort(rng.integers(0, 5, 32)).astype(np.int32), np.ones(32, np.float32)
    mask[[5, 28, 29, 30, 31]] = 0
    weights, parameters = np.full((3, 5), 0.1, np.float32), losses.hyper_parameters(name, VALUES)

    def one_device(logits, labels, mask, features):
        def cross_replica_sum(x):
            return lax.psum(x, "batch")

        def local_loss(weights):
            per_example = losses.LOSSES[name](
                logits + features @ weights, labels, mask, COUNTS, cross_replica_sum, **parameters
            )
            return (per_example * mask).sum() / cross_replica_sum(mask.sum())

        device_loss, gradient = jax.value_and_grad(local_loss)(weights)
        return cross_replica_sum(device_loss), cross_replica_sum(gradient)

    sharded = [array.reshape(8, 4, *array.shape[1:]) for array in (logits, labels, mask, features)]
    value, gradient = (np.asarray(output)[0] for output in jax.pmap(one_device, axis_name="batch")(*sharded))
    whole, _, by_logits = value_and_gradient(name, logits + features @ weights, labels, mask=mask, **parameters)
    np.testing.assert_allclose(value, whole, rtol=1e-5)
    np.testing.assert_allclose(gradient, features.T @ by_logits, rtol=1e-5, atol=1e-6)


def test_padding_changes_no_loss():
    """Padded rows do not change the value, nor the gradient of the real rows."""
    padded_logits = np.concatenate([LOGITS, 100 * LOGITS])
    padded_labels = np.concatenate([LABELS, np.zeros(16, np.int32)])
    mask = np.r_[np.ones(16), np.zeros(16)].astype(np.float32)
    for name in losses.LOSSES:
        parameters = losses.hyper_parameters(name, VALUES)
        value, _, gradient = value_and_gradient(name, LOGITS, LABELS, **parameters)
        padded = value_and_gradient(name, padded_logits, padded_labels, mask=mask, **parameters)
        np.testing.assert_allclose(padded[0], value, rtol=1e-6)
        np.testing.assert_allclose(padded[2][:16], gradient, rtol=1e-5, atol=1e-8)
        assert not np.any(padded[2][16:])


def test_missing_hyper_parameters_get_the_defaults_of_the_signature():
    assert losses.hyper_parameters("fafl", {"m": 1}) == {"alpha0": 0.5, "beta0": 3.0, "m": 1.0, "adaptive": 1.0}


def test_an_unknown_loss_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"config\.loss\.name='fafll' is not a loss; choose one of cross_entropy, "):
        losses.hyper_parameters("fafll", VALUES)


def test_progress_is_asked_of_the_run_and_not_of_the_configuration():
    assert [name for name, loss in losses.LOSSES.items() if losses.follows_progress(loss)] == ["ldam"]
    assert "progress" not in losses.hyper_parameters("ldam", VALUES)


def test_the_comparison_trains_every_loss():
    words = re.findall(r"\w+", (Path(__file__).parents[2] / "launch" / "compare_losses.sh").read_text())
    assert set(losses.LOSSES) - {"fafl"} <= set(words)  # FAFL is the configuration's own
