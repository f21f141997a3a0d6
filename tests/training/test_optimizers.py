import jax
import numpy as np
import optax
import pytest

from dim_jax.models.kernels import platforms
from dim_jax.training import joined_updates
from dim_jax.training.joined_updates import SMALL, global_norm
from dim_jax.training.learning_rates import make_learning_rate, scaled_learning_rate
from dim_jax.training.optimizers import apply_gradient, make_optimizer, scale_other_modules


def test_warmup_rises_from_zero_and_cosine_ends_at_zero():
    schedule = make_learning_rate("cosine", 1.0, num_train_steps=110, warmup_steps=10)
    assert schedule(0) == 0
    np.testing.assert_allclose([schedule(5), schedule(10), schedule(60), schedule(110)], [0.5, 1, 0.5, 0], atol=1e-6)


def test_step_schedule_halves_after_each_period():
    schedule = make_learning_rate("step", 1.0, num_train_steps=100, decay_steps=20)
    np.testing.assert_allclose([schedule(step) for step in (0, 19, 20, 39, 40)], [1, 1, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("name", ["constant", "step", "cosine"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_schedules_are_those_of_optax(name, warmup):
    ours = make_learning_rate(name, 0.03, num_train_steps=90, warmup_steps=warmup, decay_steps=20, decay_rate=0.7)
    theirs = {
        "constant": optax.constant_schedule(0.03),
        "step": optax.exponential_decay(0.03, 20, 0.7, staircase=True),
        "cosine": optax.cosine_decay_schedule(0.03, 90 - warmup),
    }[name]
    if warmup:
        theirs = optax.join_schedules([optax.linear_schedule(0.0, 0.03, warmup), theirs], [warmup])
    steps = np.arange(100)
    np.testing.assert_allclose([ours(step) for step in steps], [theirs(step) for step in steps], rtol=1e-5, atol=1e-9)


def test_runs_of_other_lengths_and_rates_share_one_program():
    rate = jax.jit(lambda schedule, step: schedule(step))
    rates = [
        rate(make_learning_rate("cosine", peak, num_train_steps=steps, warmup_steps=steps // 10), 30)
        for peak, steps in ((1.0, 60), (0.5, 90), (2.0, 600))
    ]
    assert len(set(map(float, rates))) == 3 and rate._cache_size() == 1


def test_clipping_bounds_the_global_norm():
    optimizer = make_optimizer("sgd", 1.0, clip_norm=1.0)
    params = {"a": np.zeros(3), "b": np.zeros(2)}
    gradient = {"a": np.full(3, 30.0, np.float32), "b": np.full(2, -40.0, np.float32)}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(global_norm(updates), 1.0, rtol=1e-6)
    np.testing.assert_allclose(updates["a"] / updates["b"][0], -0.75 * np.ones(3), rtol=1e-6)


def updated(name, params, gradients, **options):
    """The parameters after one step per gradient."""
    optimizer = make_optimizer(name, 0.1, **options)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_decoupled_decay_shrinks_parameters_whatever_the_gradient():
    """Adam's L2 penalty is rescaled by the moments, AdamW's decay is not; without decay they are one."""
    params = {"kernel": np.array([1.0, -2.0, 0.5], np.float32), "bias": np.array([3.0], np.float32)}
    gradients = [{name: np.float32(scale) * value for name, value in params.items()} for scale in (1.0, -0.5, 2.0)]
    none = [jax.tree.map(np.zeros_like, params)] * 3
    adam, adamw = (updated(name, params, gradients) for name in ("adam", "adamw"))
    jax.tree.map(np.testing.assert_array_equal, adam, adamw)
    expected = jax.tree.map(lambda value: value * (1 - 0.1 * 0.2) ** 3, params)
    shrunk = updated("adamw", params, none, weight_decay=0.2)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), shrunk, expected)
    theirs = optax.adamw(0.1, weight_decay=0.2)
    state, reference = theirs.init(params), params
    for gradient in gradients:
        updates, state = theirs.update(gradient, state, reference)
        reference = optax.apply_updates(reference, updates)
    ours = updated("adamw", params, gradients, weight_decay=0.2)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5), ours, reference)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_other_modules_have_a_rate_of_their_own(name):
    """The head moves as without the scale, the backbone as at a rate multiplied by it; the state keeps its layout."""
    params = {"head": {"kernel": np.float32([1, -2])}, "stem": {"kernel": np.float32([[3.0]])}, "top": np.float32([5])}
    gradient = jax.tree.map(lambda value: 0.3 * value, params)
    whole, slow = make_optimizer(name, 0.1), make_optimizer(name, 0.01)
    parts = scale_other_modules(whole, "head", 0.1)
    (ours, state), (fast, plain_state), (slow, _) = (
        one.update(gradient, one.init(params), params) for one in (parts, whole, slow)
    )
    np.testing.assert_array_equal(ours["head"]["kernel"], fast["head"]["kernel"])
    np.testing.assert_allclose(ours["stem"]["kernel"], slow["stem"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(ours["top"], slow["top"], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, state, plain_state)


@pytest.mark.parametrize("options", [
    {"name": "adam", "weight_decay": 1e-2}, {"name": "adamw", "weight_decay": 1e-2},
    {"name": "rmsprop", "clip_norm": 1.0}, {"name": "sgd", "momentum": 0.9},
])  # fmt: skip
@pytest.mark.parametrize("at_a_time", [2, 48])
def test_joined_updates_equal_those_of_single_tensors(options, at_a_time, monkeypatch):
    """Large and small tensors, three steps; the state keeps the layout of the tensors."""
    monkeypatch.setattr(joined_updates, "JOINED", at_a_time)
    shapes = {"bias": (64,), "depthwise": (5, 5, 1, 96), "gain": (), "kernel": (3, 3, 64, 64), "scale": (64,)}
    assert sum(np.prod(shape) >= SMALL for shape in shapes.values()) == 1
    rng = np.random.default_rng(0)
    draw = lambda: {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}  # noqa: E731
    params, gradients = draw(), [draw() for _ in range(3)]
    alone, parts = params, gradients
    if "clip_norm" in options:  # the norm is over all tensors, so the single tensor has to hold them all
        join = lambda tree: {"all": np.concatenate([np.ravel(value) for value in tree.values()])}  # noqa: E731
        alone, parts = join(params), [join(gradient) for gradient in gradients]
    optimizer = make_optimizer(learning_rate=0.1, **options)
    state = optimizer.init(params)
    layout = jax.tree.map(np.shape, state)
    states = {name: optimizer.init({name: value}) for name, value in alone.items()}
    for gradient, part in zip(gradients, parts, strict=True):
        updates, state = optimizer.update(gradient, state, params)
        for name, value in alone.items():
            one, states[name] = optimizer.update({name: part[name]}, states[name], {name: value})
            mine = join(updates)[name] if name == "all" else updates[name]
            np.testing.assert_allclose(mine, one[name], rtol=2e-6, atol=1e-9)
    assert jax.tree.map(np.shape, state) == layout


def test_the_optimizer_on_accelerators_has_the_same_results():
    shapes = {"bias": (64,), "gain": (), "kernel": (3, 3, 64, 64)}
    rng = np.random.default_rng(0)
    params, gradient = (
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in "12"
    )
    optimizer = make_optimizer("adam", 0.1, weight_decay=1e-2, clip_norm=1.0)
    state = optimizer.init(params)
    expected = apply_gradient(optimizer, gradient, state, params, 0)
    with platforms.traced_for("accelerator"):
        results = apply_gradient(optimizer, gradient, state, params, 0)
    assert jax.tree.structure(results) == jax.tree.structure(expected)
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-9), results, expected)


def test_arrays_computed_together_are_the_same_and_on_cpu_nothing_is_added():
    tree = {"mean": np.array([0.1, -3.0], np.float32), "var": np.array([np.inf, 0.0], np.float32), "count": np.int32(7)}
    for step in (0, 2**31 - 1):
        with platforms.traced_for("accelerator"):
            results = jax.jit(platforms.computed_together)(tree, step)
        jax.tree.map(np.testing.assert_array_equal, results, tree)
        assert jax.tree.map(lambda leaf: leaf.dtype, results) == jax.tree.map(lambda leaf: leaf.dtype, tree)
    assert platforms.computed_together(tree, 0) is tree


def test_the_global_norm_is_that_of_the_whole_tree():
    tree = {"kernel": np.full((3, 3, 64, 64), 0.5, np.float32), "bias": np.ones(7, np.float32), "gain": np.float32(2)}
    np.testing.assert_allclose(global_norm(tree), np.sqrt(36864 * 0.25 + 7 + 4), rtol=1e-6)
    np.testing.assert_allclose(global_norm({"bias": np.full(4, 3.0, np.float32)}), 6.0)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="choose adam"):
        make_optimizer("adamw2", 1.0)
    with pytest.raises(ValueError, match="choose constant"):
        make_learning_rate("linear", 1.0, num_train_steps=1)


def test_the_learning_rate_scales_with_the_batch_size():
    rates = [scaled_learning_rate(0.1, rule, 512, 32) for rule in ("none", "sqrt", "linear")]
    np.testing.assert_allclose(rates, [0.1, 0.4, 1.6])
    assert [scaled_learning_rate(0.1, rule, 32, 32) for rule in ("none", "sqrt", "linear")] == [0.1] * 3
    with pytest.raises(ValueError, match="learning_rate_scaling='square': choose none, linear, sqrt"):
        scaled_learning_rate(0.1, "square", 32, 32)
    with pytest.raises(ValueError, match="reference_batch_size=0"):
        scaled_learning_rate(0.1, "sqrt", 32, 0)
