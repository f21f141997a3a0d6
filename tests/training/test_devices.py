"""Equality of one device and eight, and of one dispatch and many."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import losses
from dim_jax.augmentation import mixing
from dim_jax.data.batches import split_partners
from dim_jax.models.kernels import platforms
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.steps.batch_images import partners
from dim_jax.steps.classifier import Constants, make_train_step
from dim_jax.training import parallel
from dim_jax.training.learning_rates import make_learning_rate
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.random_keys import example_keys
from dim_jax.training.state import AveragedTrainState, TrainState

BATCH, SIZE, STEPS = 16, 16, 4
SCHEDULE = make_learning_rate("constant", 0.05, num_train_steps=STEPS)
COUNTS = np.array([4.0, 30.0, 200.0], np.float32)


def batches(rng_seed=0, size=BATCH):
    rng = np.random.default_rng(rng_seed)
    return [
        {
            "image": rng.integers(0, 256, (size, SIZE, SIZE, 3)).astype(np.uint8),
            "label": rng.choice(3, size, p=[0.1, 0.2, 0.7]).astype(np.int32),
            "mask": np.ones(size, np.float32),
        }
        for _ in range(STEPS)
    ]


@pytest.fixture(scope="module")
def initial_state():
    model = LRFCNN(3, stem_width=4, stages=((6,),), attention_width=4)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    optimizer = make_optimizer("sgd", SCHEDULE)
    params = variables["params"]
    opt_state = optimizer.init(params)
    return jax.device_get(TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], opt_state))


def make_dispatch(name, optimizer="sgd", model=None, weight_decay=0.0, **options):
    model = model or LRFCNN(3, stem_width=4, stages=((6,),), attention_width=4, axis_name=parallel.AXIS)
    options = {"flip": True, "rotate": True, "stain_jitter": 0.1} | options
    make = partial(make_optimizer, optimizer, weight_decay=weight_decay)
    step = make_train_step(model, losses.LOSSES[name], make, axis_name=parallel.AXIS, **options)
    values = {
        "alpha0": 0.5, "beta0": 3, "m": 4, "tau": 1, "adaptive": 1, "keep_share": 0.6, "metric_weight": 1,
        "max_margin": 5, "scale": 1, "effective_number_beta": 0.99, "reweight_from": 0.5,
    }  # fmt: skip
    mean, std = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)
    constants = Constants(jax.random.key(3), mean, std, COUNTS, losses.hyper_parameters(name, values), SCHEDULE)
    dispatch = parallel.pmap_train_step(step)
    return lambda state, sharded: dispatch(state, sharded, constants, None)


def train(dispatch, state, monkeypatch, devices, steps_per_dispatch=STEPS, given=None):
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
    state, metrics = parallel.replicate(state), []
    given = given or batches()
    for first in range(0, STEPS, steps_per_dispatch):
        state, outputs = dispatch(state, parallel.shard_steps(given[first : first + steps_per_dispatch]))
        metrics.append(parallel.unreplicate(outputs))
    metrics = {name: np.concatenate([outputs[name] for outputs in metrics]) for name in metrics[0]}
    return parallel.unreplicate(state), metrics


# published_fafl counts the classes of the global batch: counting only the local ones would fail here.
@pytest.mark.parametrize("name", ["fafl", "published_fafl"])
def test_eight_devices_give_the_numbers_of_one(name, initial_state, monkeypatch):
    dispatch = make_dispatch(name)
    one_state, one = train(dispatch, initial_state, monkeypatch, 1)
    eight_state, eight = train(dispatch, initial_state, monkeypatch, 8)
    for key in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(eight[key], one[key], rtol=1e-5, atol=1e-7, err_msg=key)
    # Under SGD the parameters are the sum of the gradients.
    for ours, theirs in zip(jax.tree.leaves(eight_state), jax.tree.leaves(one_state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
    assert one["loss"][0] != one["loss"][1]


def test_the_program_for_accelerators_has_the_numbers_of_the_one_for_cpu_on_any_number_of_devices(
    initial_state, monkeypatch
):
    state, metrics = train(make_dispatch("fafl"), initial_state, monkeypatch, 8)
    for devices in (1, 8):
        with platforms.traced_for("accelerator"):
            other_state, other = train(make_dispatch("fafl"), initial_state, monkeypatch, devices)
        for key in ("loss", "accuracy", "gradient_norm"):
            np.testing.assert_allclose(other[key], metrics[key], rtol=1e-4, atol=1e-6, err_msg=key)
        for ours, theirs in zip(jax.tree.leaves(other_state), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


class LinearClassifier(nn.Module):
    """A network that compiles quickly."""

    @nn.compact
    def __call__(self, images, train, rng):
        calls = self.variable("batch_stats", "calls", jnp.zeros, ())
        calls.value += 1
        features = images[:, ::5, ::5].reshape(len(images), -1)
        return nn.Dense(3)(features), features


@pytest.fixture(scope="module")
def linear_state():
    variables = LinearClassifier().init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)), True, None)
    params = variables["params"]
    opt_state = make_optimizer("sgd", SCHEDULE).init(params)
    return jax.device_get(TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], opt_state))


@pytest.mark.parametrize("name", ["ldam", "ohem_cross_entropy", "soft_f1", "soft_mcc"])
def test_losses_of_progress_or_the_whole_batch_agree_on_eight_devices(name, linear_state, monkeypatch):
    dispatch = make_dispatch(name, model=LinearClassifier())
    one_state, one = train(dispatch, linear_state, monkeypatch, 1)
    eight_state, eight = train(dispatch, linear_state, monkeypatch, 8)
    for key in ("loss", "gradient_norm"):
        np.testing.assert_allclose(eight[key], one[key], rtol=1e-5, err_msg=key)
    for ours, theirs in zip(jax.tree.leaves(eight_state), jax.tree.leaves(one_state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)


def test_a_loss_with_a_progress_argument_gets_the_progress_of_the_run(linear_state, monkeypatch):
    def progress_itself(logits, labels, mask, class_counts, cross_replica_sum, *, progress):
        return jnp.full(labels.shape, progress)

    monkeypatch.setitem(losses.LOSSES, "progress_itself", progress_itself)
    _, metrics = train(make_dispatch("progress_itself", model=LinearClassifier()), linear_state, monkeypatch, 8)
    np.testing.assert_allclose(metrics["loss"], [0, 0.25, 0.5, 0.75], rtol=1e-6)


def test_averages_agree_on_eight_devices_and_leave_the_training_as_it_is(linear_state, monkeypatch):
    dispatch = make_dispatch("fafl", model=LinearClassifier(), ema_decay=0.9)
    plain, _ = train(dispatch, linear_state, monkeypatch, 1)
    averaged = AveragedTrainState.starting_from(linear_state)
    one, _ = train(dispatch, averaged, monkeypatch, 1)
    eight, _ = train(dispatch, averaged, monkeypatch, 8)
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(plain, name))
    for ours, theirs in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
    # Statistics that count the calls, the first of them by `init`, averaged with decays of 2/11, 3/12, 4/13 and 5/14.
    expected = 1.0
    for step in (1, 2, 3, 4):
        expected += (1 - (1 + step) / (10 + step)) * (1 + step - expected)
    np.testing.assert_allclose(one.ema_batch_stats["calls"], expected, rtol=1e-6)


def test_the_head_alone_changes_and_agrees_on_eight_devices(initial_state, monkeypatch):
    dispatch = make_dispatch("fafl", trained_module="head", weight_decay=0.1)
    one, metrics = train(dispatch, initial_state, monkeypatch, 1)
    eight, _ = train(dispatch, initial_state, monkeypatch, 8)
    for ours, theirs in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
    assert metrics["loss"][0] != metrics["loss"][1]
    for state in (one, eight):
        jax.tree.map(np.testing.assert_array_equal, state.batch_stats, initial_state.batch_stats)
        for name, module in state.params.items():
            same = jax.tree.map(np.array_equal, module, initial_state.params[name])
            assert set(jax.tree.leaves(same)) == {name != "head"}, name


def test_a_phase_has_a_schedule_of_its_own_and_the_progress_of_the_run(linear_state, monkeypatch):
    """Half of the run is before this phase of four steps, and a quarter after it."""

    def progress_itself(logits, labels, mask, class_counts, cross_replica_sum, *, progress):
        return jnp.full(labels.shape, progress)

    monkeypatch.setitem(losses.LOSSES, "progress_itself", progress_itself)
    dispatch = make_dispatch("progress_itself", model=LinearClassifier(), first_step=8, steps_after=4)
    state, metrics = train(dispatch, linear_state.replace(step=np.int32(8)), monkeypatch, 1)
    np.testing.assert_allclose(metrics["loss"], np.arange(8, 12) / 16, rtol=1e-6)
    assert state.step == 12


@pytest.mark.parametrize("method", mixing.METHODS)
def test_mixed_examples_agree_on_eight_devices(method, linear_state, monkeypatch):
    given = [split_partners(batch) for batch in batches(size=2 * BATCH)]
    mix = partial(mixing.METHODS[method], alpha=0.5)
    dispatch = make_dispatch("cross_entropy", model=LinearClassifier(), mixing=mix)
    one_state, one = train(dispatch, linear_state, monkeypatch, 1, given=given)
    eight_state, eight = train(dispatch, linear_state, monkeypatch, 8, given=given)
    for key in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(eight[key], one[key], rtol=1e-5, err_msg=key)
    for ours, theirs in zip(jax.tree.leaves(eight_state), jax.tree.leaves(one_state), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)


def test_a_share_of_0_is_training_without_mixing_and_of_1_on_the_partners(linear_state, monkeypatch):
    """Without augmentation, whose random keys are others for the partners."""
    given = [split_partners(batch) for batch in batches(size=2 * BATCH)]
    swapped = [{**batch, **partners(batch)} for batch in given]
    options = {"model": LinearClassifier(), "flip": False, "rotate": False, "stain_jitter": 0.0}
    plain = make_dispatch("cross_entropy", **options)
    for share, expected in ((0.0, given), (1.0, swapped)):
        mix = lambda key, x, partner, share=share: (x + share * (partner - x), jnp.float32(share))  # noqa: E731
        ours, our_metrics = train(
            make_dispatch("cross_entropy", mixing=mix, **options), linear_state, monkeypatch, 1, given=given
        )
        theirs, their_metrics = train(plain, linear_state, monkeypatch, 1, given=expected)
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(our_metrics[name], their_metrics[name], rtol=1e-5)
        for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2])
def test_dispatches_of_any_length_agree(length, initial_state, monkeypatch):
    """To rounding: XLA unrolls a short scan and may fuse it differently. A run uses one length, so it is exact."""
    dispatch = make_dispatch("fafl")
    whole, _ = train(dispatch, initial_state, monkeypatch, 1, STEPS)
    parts, _ = train(dispatch, initial_state, monkeypatch, 1, length)
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_sharding_keeps_the_order_of_rows():
    given = batches()
    sharded = parallel.shard_steps(given)
    devices = jax.local_device_count()
    assert sharded["image"].shape == (devices, STEPS, BATCH // devices, SIZE, SIZE, 3)
    np.testing.assert_array_equal(np.concatenate(sharded["row"][:, 0]), np.arange(BATCH))
    np.testing.assert_array_equal(np.concatenate(sharded["label"][:, 2]), given[2]["label"])


def test_replicated_trees_round_trip():
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.int32(4)}
    back = parallel.unreplicate(parallel.replicate(tree))
    np.testing.assert_array_equal(back["a"], tree["a"])
    assert back["b"] == 4 and back["b"].shape == ()


def test_a_batch_that_does_not_divide_is_refused_by_name():
    with pytest.raises(ValueError, match=r"config\.train\.global_batch_size=12 must be a multiple of the 8 devices"):
        parallel.check_batch_size("config.train.global_batch_size", 12)


def test_example_keys_depend_on_step_and_row_alone():
    key = jax.random.key(0)
    rows = jnp.array([5, 2])
    one = jax.random.key_data(example_keys(key, jnp.int32(7), rows))
    other = jax.random.key_data(example_keys(key, jnp.int32(7), rows[::-1]))
    np.testing.assert_array_equal(one, other[::-1])
    assert not np.array_equal(one, jax.random.key_data(example_keys(key, jnp.int32(8), rows)))


def test_training_learns_to_separate_bright_from_dark(initial_state):
    """The whole step on an easy task, which a broken gradient, mask or normalisation would fail."""
    dispatch = make_dispatch("fafl", "adam")
    rng = np.random.default_rng(0)
    opt_state = make_optimizer("adam", SCHEDULE).init(initial_state.params)
    state = parallel.replicate(initial_state.replace(opt_state=opt_state))
    for _ in range(15):
        steps = []
        for _ in range(STEPS):
            labels = rng.integers(0, 3, BATCH).astype(np.int32)
            level = np.array([60, 130, 200])[labels][:, None, None, None]
            image = np.clip(level + rng.normal(0, 10, (BATCH, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
            steps.append({"image": image, "label": labels, "mask": np.ones(BATCH, np.float32)})
        state, metrics = dispatch(state, parallel.shard_steps(steps))
    assert parallel.unreplicate(metrics)["accuracy"].mean() > 0.8
