import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_rule import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from dim_jax import losses

GOLDEN_FAFL = np.load(GOLDEN / "fafl.npz")
COUNTS = np.array([36.0, 145.0, 338.0, 76.0, 450.0], np.float32)


def value_and_gradient(name, logits, labels, class_counts=COUNTS, mask=None, **parameters):
    """Masked mean of a loss and its gradient by the logits, jitted with traced hyper-parameters."""
    mask = np.ones(len(labels), np.float32) if mask is None else mask

    @jax.jit
    def mean(logits, parameters):
        per_example = losses.LOSSES[name](logits, labels, mask, class_counts, lambda x: x, **parameters)
        return (per_example * mask).sum() / mask.sum(), per_example

    (value, per_example), gradient = jax.value_and_grad(mean, has_aux=True)(jnp.asarray(logits), parameters)
    return value, per_example, gradient


@pytest.mark.parametrize("case", [f"c{number}" for number in range(7)])
def test_published_fafl_equals_the_published_code(case):
    _, alpha0, beta0, m, _ = GOLDEN_FAFL[f"{case}_params"]
    logits = GOLDEN_FAFL[f"{case}_logits"].astype(np.float32)
    labels = GOLDEN_FAFL[f"{case}_labels"].astype(np.int32)
    value, per_example, gradient = value_and_gradient(
        "published_fafl", logits, labels, np.ones(logits.shape[1]), alpha0=alpha0, beta0=beta0, m=m
    )
    for got, key in ((value, "mean"), (per_example, "per_example"), (gradient, "grad_of_mean")):
        expected = GOLDEN_FAFL[f"{case}_{key}"]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


LOGITS = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32) * 3
LABELS = np.random.default_rng(1).integers(0, 5, 16).astype(np.int32)


@pytest.mark.parametrize("name", ["fafl", "published_fafl"])
def test_fafl_without_offset_and_adaptation_is_cross_entropy(name):
    value, per_example, gradient = value_and_gradient(name, LOGITS, LABELS, alpha0=1.0, beta0=0.0, m=0.0, adaptive=0.0)
    expected, expected_per_example, expected_gradient = value_and_gradient("cross_entropy", LOGITS, LABELS)
    np.testing.assert_allclose(per_example, expected_per_example, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_fafl_without_adaptation_is_the_focal_loss_of_optax():
    one_hot = np.eye(2)[np.array([0, 1, 1])]
    logits = np.array([[1.0, -0.5], [2.0, 0.3], [-1.0, 4.0]], np.float32)
    ours = losses.focal_with_offset(logits, np.array([0, 1, 1]), 0.0, 1.0, 2.0, adaptive=0.0)
    # Two classes under softmax are one under the sigmoid of the difference.
    theirs = optax.sigmoid_focal_loss(logits[:, 1] - logits[:, 0], one_hot[:, 1], gamma=2.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_corrected_fafl_asks_more_of_rare_classes_and_published_less():
    """Pushed towards equal training loss, the corrected variant leaves the rare class the higher logit."""
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


def test_weighted_cross_entropy_with_equal_counts_is_cross_entropy():
    weighted = value_and_gradient("weighted_cross_entropy", LOGITS, LABELS, np.full(5, 9.0))
    plain = value_and_gradient("cross_entropy", LOGITS, LABELS)
    for got, expected in zip(weighted, plain, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_class_weights_average_one_over_the_draws():
    labels = np.repeat(np.arange(5), COUNTS.astype(int)).astype(np.int32)
    uniform = np.zeros((len(labels), 5), np.float32)
    value, _, _ = value_and_gradient("weighted_cross_entropy", uniform, labels)
    np.testing.assert_allclose(value, np.log(5), rtol=1e-5)


@given(tau=st.floats(0, 3), counts=st.lists(st.integers(1, 1000), min_size=5, max_size=5))
def test_logit_adjustment_is_cross_entropy_of_shifted_logits(tau, counts):
    counts = np.array(counts, np.float32)
    args = (LABELS, np.ones(16), counts, lambda x: x)
    adjusted = losses.logit_adjusted_cross_entropy(LOGITS, *args, tau=tau)
    shifted = losses.cross_entropy(LOGITS + tau * np.log(counts / counts.sum()), *args)
    np.testing.assert_allclose(adjusted, shifted, rtol=1e-4, atol=1e-4)


def test_padding_changes_no_loss():
    """Padded rows with other logits leave value and gradient of the real rows as they were."""
    padded_logits = np.concatenate([LOGITS, 100 * LOGITS[:4]])
    padded_labels = np.concatenate([LABELS, np.zeros(4, np.int32)])
    mask = np.r_[np.ones(16), np.zeros(4)].astype(np.float32)
    for name in losses.LOSSES:
        parameters = losses.hyper_parameters(name, {"alpha0": 0.5, "beta0": 3, "m": 1, "tau": 1, "adaptive": 1})
        value, _, gradient = value_and_gradient(name, LOGITS, LABELS, **parameters)
        padded = value_and_gradient(name, padded_logits, padded_labels, mask=mask, **parameters)
        np.testing.assert_allclose(padded[0], value, rtol=1e-6)
        np.testing.assert_allclose(padded[2][:16], gradient, rtol=1e-5, atol=1e-8)
        assert not np.any(padded[2][16:])


@pytest.mark.parametrize(("name", "values"), [("fafll", {}), ("fafl", {"alpha0": 1}), ("fafl", {"alpha0": -1})])
def test_unknown_loss_or_bad_hyper_parameter_is_named(name, values):
    with pytest.raises(ValueError, match=r"config\.loss\."):
        losses.hyper_parameters(name, {"beta0": 1, "m": 1, **values})
