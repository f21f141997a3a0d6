import jax
import numpy as np
import optax
import pytest
from golden_rule import GOLDEN, normal

from dim_jax.optimizers import make_optimizer, make_schedule

GOLDEN_OPTIMIZERS = np.load(GOLDEN / "optimizers.npz")


def trajectory(optimizer, num_steps=60):
    params = normal("opt.init", (16,))
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(num_steps):
        updates, state = update(normal(f"opt.grad.{step}", (16,)), state, params)
        params = optax.apply_updates(params, updates)
        yield np.asarray(params)


def test_adam_with_l2_and_halved_rate_follows_pytorch():
    schedule = make_schedule("step", 1e-2, num_train_steps=60, decay_steps=20)
    ours = trajectory(make_optimizer("adam", schedule, weight_decay=1e-2))
    for got, expected in zip(ours, GOLDEN_OPTIMIZERS["adam_l2_steplr"], strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_rmsprop_follows_pytorch():
    for got, expected in zip(trajectory(make_optimizer("rmsprop", 2e-4)), GOLDEN_OPTIMIZERS["rmsprop"], strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_warmup_rises_from_zero_and_cosine_ends_at_zero():
    schedule = make_schedule("cosine", 1.0, num_train_steps=110, warmup_steps=10)
    assert schedule(0) == 0
    np.testing.assert_allclose([schedule(5), schedule(10), schedule(60), schedule(110)], [0.5, 1, 0.5, 0], atol=1e-6)


def test_step_schedule_halves_after_each_period():
    schedule = make_schedule("step", 1.0, num_train_steps=100, decay_steps=20)
    np.testing.assert_allclose([schedule(step) for step in (0, 19, 20, 39, 40)], [1, 1, 0.5, 0.5, 0.25])


def test_clipping_bounds_the_global_norm():
    optimizer = make_optimizer("sgd", 1.0, clip_norm=1.0)
    params = {"a": np.zeros(3), "b": np.zeros(2)}
    gradient = {"a": np.full(3, 30.0, np.float32), "b": np.full(2, -40.0, np.float32)}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(optax.global_norm(updates), 1.0, rtol=1e-6)
    np.testing.assert_allclose(updates["a"] / updates["b"][0], -0.75 * np.ones(3), rtol=1e-6)


def test_unknown_names_are_told_with_the_choices():
    with pytest.raises(ValueError, match="choose adam"):
        make_optimizer("adamw2", 1.0)
    with pytest.raises(ValueError, match="choose constant"):
        make_schedule("linear", 1.0, num_train_steps=1)
