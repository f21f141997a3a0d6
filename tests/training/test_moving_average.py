"""Moving averages of weights: identities and the warm-up of the decay."""

import jax.numpy as jnp
import numpy as np

from dim_jax.training.moving_average import update_average
from dim_jax.training.state import AveragedTrainState, TrainState, saved_variables


def test_constant_weights_are_a_fixed_point_bit_for_bit():
    weights = average = {"kernel": np.float32([1 / 3, -1e-30, 7e6]), "bias": {"b": np.float32([0.1])}}
    for step in range(1, 30):
        average = update_average(average, weights, 0.99, step)
    np.testing.assert_array_equal(average["kernel"], weights["kernel"])
    np.testing.assert_array_equal(average["bias"]["b"], weights["bias"]["b"])


def test_a_decay_of_0_follows_the_weights():
    np.testing.assert_allclose(update_average(jnp.array([3.0, -1.0]), jnp.array([0.5, 2.0]), 0.0, 7), [0.5, 2.0])


def test_the_decay_rises_to_its_value():
    weight_of_the_past = [float(update_average(1.0, 0.0, 0.9, step)) for step in (1, 8, 80, 81, 1000)]
    np.testing.assert_allclose(weight_of_the_past, [2 / 11, 0.5, 0.9, 0.9, 0.9], rtol=1e-5)


def test_averages_are_evaluated_where_there_are_any():
    plain = TrainState(0, {"w": 1.0}, {"mean": 2.0}, ())
    averaged = AveragedTrainState.starting_from(plain).replace(ema_params={"w": 3.0}, ema_batch_stats={"mean": 4.0})
    assert plain.variables == saved_variables(vars(plain)) == {"params": {"w": 1.0}, "batch_stats": {"mean": 2.0}}
    assert averaged.variables == saved_variables(vars(averaged)) == {"params": {"w": 3.0}, "batch_stats": {"mean": 4.0}}
    assert saved_variables({"step": 3}) == {}
