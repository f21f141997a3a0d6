"""The schedule of transitional training."""

import numpy as np
import pytest

from dim_jax.gan.transition import label_strength


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.25, 0.5), [0, 0, 0, 0.5, 1, 1, 1, 1, 1]),
        ((0.0, 1.0), np.arange(9) / 8),
        ((0.5, 0.5), [0, 0, 0, 0, 1, 1, 1, 1, 1]),
        ((0.0, 0.0), np.ones(9)),
    ],
)
def test_the_label_strength_is_zero_then_rises_linearly_then_is_one(shares, expected):
    np.testing.assert_allclose([label_strength(*shares, 8)(step) for step in range(9)], expected, rtol=1e-6)
