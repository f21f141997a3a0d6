"""tau-normalisation of a classifier's last layer: its identities."""

import numpy as np

from dim_jax.models.linear import tau_normalize

RNG = np.random.default_rng(0)
HEAD = {"kernel": RNG.normal(size=(7, 4)).astype(np.float32), "bias": RNG.normal(size=4).astype(np.float32)}


def test_tau_0_changes_no_bit_and_tau_1_gives_unit_weights():
    for name, value in tau_normalize(HEAD, 0.0).items():
        np.testing.assert_array_equal(value, HEAD[name])
    normalized = tau_normalize(HEAD, 1.0)
    np.testing.assert_allclose(np.linalg.norm(normalized["kernel"], axis=0), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(normalized["bias"], HEAD["bias"])


def test_two_halves_make_a_whole_direction_and_order_of_lengths_stay():
    half = tau_normalize(HEAD, 0.5)["kernel"]
    norms, of_half = np.linalg.norm(HEAD["kernel"], axis=0), np.linalg.norm(half, axis=0)
    np.testing.assert_allclose(of_half, norms**0.5, rtol=1e-6)
    np.testing.assert_allclose(half / of_half, HEAD["kernel"] / norms, rtol=1e-5)


def test_a_class_without_weights_stays_finite():
    kernel = HEAD["kernel"] * np.array([1, 0, 1, 1], np.float32)
    result = np.asarray(tau_normalize({**HEAD, "kernel": kernel}, 0.7)["kernel"])
    assert np.isfinite(result).all() and not result[:, 1].any()
