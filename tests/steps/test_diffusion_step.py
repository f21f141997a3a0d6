"""Training step of a diffusion model: equality of one device and eight, the loss of a new network, dropped labels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.models import make_denoiser
from dim_jax.steps.diffusion import DiffusionTrainStep
from dim_jax.training import initial_weights, parallel
from dim_jax.training.optimizers import make_optimizer

SIZE, BATCH, STEPS, CLASSES = 16, 8, 2, 3
UNIFORM_DEVIATION = 3**-0.5  # of pixels that are uniform in [-1, 1]


@pytest.fixture(scope="module")
def step():
    network = make_denoiser(CLASSES, channels=(8, 8), blocks=1, attention_side=4).clone(dtype=np.float64)
    return DiffusionTrainStep(
        network=network,
        optimizer=make_optimizer("sgd", 0.1),
        learning_rate=0.1,
        axis_name=parallel.AXIS,
        sigma_data=UNIFORM_DEVIATION,
        label_dropout=0.5,
    )


def initial(step):
    with jax.enable_x64(True):
        state = initial_weights.draw(lambda key: step.initial_state(key, SIZE), 0)
    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, state)


def batches():
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8),
            "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
            "mask": np.ones(BATCH, np.float32),
        }
        for _ in range(STEPS)
    ]


def train(step, state, devices, monkeypatch):
    with monkeypatch.context() as patch, jax.enable_x64(True):
        patch.setattr(jax, "local_device_count", lambda: devices)
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
        arguments = parallel.replicate(state), parallel.shard_steps(batches()), jax.random.key(3), None
        return tuple(map(parallel.unreplicate, parallel.pmap_train_step(step)(*arguments)))


@pytest.fixture(scope="module")
def trained(step):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return initial(step), *train(step, initial(step), 1, monkeypatch)


def test_eight_devices_give_the_numbers_of_one(step, trained, monkeypatch):
    before, expected_state, expected = trained
    state, metrics = train(step, before, 8, monkeypatch)
    for name, values in expected.items():
        np.testing.assert_allclose(metrics[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    # Under SGD the parameters are the sum of the gradients.
    for ours, theirs in zip(*(jax.tree.leaves(each.params) for each in (state, expected_state)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_new_network_loses_one_at_every_noise_level(trained):
    """It returns zeros, and its targets have unit variance for images of standard deviation sigma_data."""
    _, _, metrics = trained
    # 6,144 values, of which each is a square of a normal or a uniform variable.
    assert metrics["loss"][0] == pytest.approx(1, abs=4 * (2 / 6144) ** 0.5)


def test_a_step_updates_the_average_too(step, trained):
    before, after, _ = trained
    assert after.step == STEPS
    rates = [1 - min(step.ema_decay, (1 + count) / (10 + count)) for count in (1, 2)]
    # The last layer starts at zero, and moves from the first step on.
    kernels = [state["head"]["kernel"] for state in (before.params, after.params, after.ema_params)]
    assert not kernels[0].any() and kernels[1].any()
    norms = [np.linalg.norm(kernel) for kernel in kernels[1:]]
    assert min(rates) * norms[0] * 0.5 < norms[1] < norms[0]


def test_labels_are_dropped_by_their_share(step):
    keys, labels = jax.random.split(jax.random.key(0), 4000), jnp.arange(4000) % CLASSES
    for share in (0.0, 0.1, 1.0):
        dropped = dataclasses.replace(step, label_dropout=share).drop_labels(keys, labels)
        is_dropped = np.asarray(dropped) == CLASSES
        assert is_dropped.mean() == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)
        np.testing.assert_array_equal(dropped[~is_dropped], labels[~is_dropped])
    without = dataclasses.replace(step, network=make_denoiser(0))
    assert without.drop_labels(keys, labels) is None
