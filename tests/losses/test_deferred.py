"""Deferred re-balancing: the plain loss before, known losses after, for every loss."""

import jax
import numpy as np
import pytest

from dim_jax import losses
from dim_jax.losses import deferred

COUNTS = np.array([4.0, 30.0, 0.0, 200.0], np.float32)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (12, 4)).astype(np.float32)
LABELS = RNG.choice([0, 1, 3], 12).astype(np.int32)
MASK = np.ones(12, np.float32)


def value(loss, **options):
    return jax.jit(lambda: loss(LOGITS, LABELS, MASK, COUNTS, lambda x: x, **options))()


def rebalanced(name, method, progress, rebalance_from=0.8, **options):
    loss = deferred.rebalanced(losses.LOSSES[name], method)
    own = losses.hyper_parameters(name, options)
    tau = {"rebalance_tau": options["rebalance_tau"]} if "rebalance_tau" in options else {}
    return value(loss, progress=np.float32(progress), rebalance_from=rebalance_from, **own, **tau)


@pytest.mark.parametrize("method", deferred.METHODS)
@pytest.mark.parametrize("name", losses.LOSSES)
def test_before_the_share_every_loss_is_as_it_was(name, method):
    own = losses.hyper_parameters(name, {})
    if losses.follows_progress(losses.LOSSES[name]):
        own["progress"] = np.float32(0.79)
    plain = value(losses.LOSSES[name], **own)
    np.testing.assert_allclose(rebalanced(name, method, 0.79), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "known"), [
    ("inverse_frequency", "weighted_cross_entropy"), ("effective_number", "class_balanced_cross_entropy"),
    ("logit_offset", "logit_adjusted_cross_entropy"), ("sampling", "cross_entropy"),
])  # fmt: skip
@pytest.mark.parametrize("progress", [0.8, 1.0])
def test_from_the_share_on_cross_entropy_becomes_the_known_loss(method, known, progress):
    expected = value(losses.LOSSES[known], **losses.hyper_parameters(known, {}))
    np.testing.assert_allclose(rebalanced("cross_entropy", method, progress), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.9])
def test_the_margin_loss_with_deferred_weights_is_that_of_its_paper(progress):
    own = losses.hyper_parameters("ldam", {"reweight_from": 0.8})
    expected = value(losses.LOSSES["ldam"], **own, progress=np.float32(progress))
    without_its_own = rebalanced("ldam", "effective_number", progress, effective_number_beta=0.0)
    np.testing.assert_allclose(without_its_own, expected, rtol=1e-5)


def test_an_offset_of_0_changes_nothing():
    plain = value(losses.LOSSES["focal"], **losses.hyper_parameters("focal", {}))
    np.testing.assert_allclose(rebalanced("focal", "logit_offset", 1.0, rebalance_tau=0.0), plain, rtol=1e-6)


def test_balanced_draws_leave_a_loss_of_class_frequencies_nothing_to_correct():
    plain = value(losses.LOSSES["cross_entropy"], **losses.hyper_parameters("cross_entropy", {}))
    shifted = LOGITS.copy()
    shifted[:, 2] += np.log(0.5 / 78)  # the class without images keeps the frequency of half an example
    loss = deferred.rebalanced(losses.LOSSES["balanced_softmax"], "sampling")
    ours = loss(LOGITS, LABELS, MASK, COUNTS, lambda x: x, rebalance_from=0.0)
    theirs = losses.LOSSES["cross_entropy"](shifted, LABELS, MASK, COUNTS, lambda x: x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert not np.allclose(ours, plain)


def test_gradients_are_finite_at_extreme_logits():
    for method in deferred.METHODS:
        loss = deferred.rebalanced(losses.LOSSES["cross_entropy"], method)
        gradient = jax.grad(
            lambda logits, loss=loss: loss(logits, LABELS, MASK, COUNTS, lambda x: x, rebalance_from=0.0).sum()
        )(1e4 * LOGITS)
        assert np.isfinite(gradient).all()


def test_an_unknown_method_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"config\.train\.rebalance='drw' must be one of none, inverse_frequency"):
        deferred.rebalanced(losses.LOSSES["focal"], "drw")
