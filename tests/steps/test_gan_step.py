"""Training step of a GAN: equality of one device and eight, updates of both networks, metrics.

In float64: so narrow a GAN is ill-conditioned, and in float32 the norm of its gradient differs by 1e-4.
"""

import dataclasses

import jax
import numpy as np
import pytest

from dim_jax.gan.transition import label_strength
from dim_jax.losses import gan as gan_losses
from dim_jax.models import make_gan
from dim_jax.steps.gan import GanTrainStep
from dim_jax.training import initial_weights, parallel
from dim_jax.training.optimizers import make_optimizer

SIZE, BATCH, STEPS = 64, 8, 2


def pixel_distance(frozen, images, target):
    return frozen["weight"] * gan_losses.pixel_distance(images, target)


def make_step(**fields):
    num_classes = 3 if "label_strength" in fields else 0
    networks = make_gan(
        SIZE, num_classes, width=1 / 64, axis_name=parallel.AXIS, gate="gc", up="residual", context="context",
        tanh=True,
    )  # fmt: skip
    generator, discriminator = (network.clone(dtype=np.float64) for network in networks)
    fields = {"optimizer": make_optimizer("sgd", 0.01), "distance": pixel_distance, **fields}
    return GanTrainStep(
        generator=generator, discriminator=discriminator, learning_rate=0.01, axis_name=parallel.AXIS, **fields
    )


def initial(step):
    with jax.enable_x64(True):
        state = initial_weights.draw(step.initial_state, 0)
    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, state)


def batches():
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8),
            "label": rng.integers(0, 3, BATCH).astype(np.int32),
            "mask": np.ones(BATCH, np.float32),
        }
        for _ in range(STEPS)
    ]


def train(step, state, monkeypatch, devices, weight=1.0):
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])
    dispatch = parallel.pmap_train_step(step)
    with jax.enable_x64(True):
        resident = parallel.replicate((None, {"weight": np.float32(weight)}))
        steps = parallel.shard_steps(batches())
        state, metrics = dispatch(parallel.replicate(state), steps, jax.random.key(3), resident)
        return parallel.unreplicate(state), parallel.unreplicate(metrics)


@pytest.fixture(scope="module")
def corrected():
    step = make_step()
    return step, initial(step)


@pytest.fixture(scope="module")
def on_one_device(corrected):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return train(*corrected, monkeypatch, 1)


def test_eight_devices_give_the_numbers_of_one(corrected, on_one_device, monkeypatch):
    one_state, one = on_one_device
    eight_state, eight = train(*corrected, monkeypatch, 8)
    for name in one:
        np.testing.assert_allclose(eight[name][0], one[name][0], rtol=1e-9, atol=1e-12, err_msg=name)
    # Under SGD the parameters are the sum of the gradients.
    for network in ("generator", "discriminator"):
        ours, theirs = (getattr(state, network).params for state in (eight_state, one_state))
        for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path))


def test_the_discriminators_loss_is_the_sum_of_what_is_logged(on_one_device):
    _, metrics = on_one_device
    parts = [name for name in metrics if name.startswith(("hinge_", "reconstruction_"))]
    assert sorted(parts) == [
        "hinge_fake", "hinge_real", "reconstruction_part", "reconstruction_small", "reconstruction_whole",
    ]  # fmt: skip
    np.testing.assert_allclose(metrics["discriminator_loss"], sum(metrics[name] for name in parts), rtol=1e-5)
    assert (metrics["augment_probability"] == 1).all() and (np.abs(metrics["logit_real_sign"]) <= 1).all()


def test_a_step_updates_both_networks_their_statistics_and_the_average(corrected, on_one_device):
    before, after = corrected[1], on_one_device[0]
    assert after.step == STEPS
    for network in ("generator", "discriminator"):
        old, new = getattr(before, network), getattr(after, network)
        for collection in ("params", "batch_stats", "spectral"):
            moved = [
                not np.array_equal(a, b)
                for a, b in zip(*(jax.tree.leaves(getattr(state, collection)) for state in (old, new)), strict=True)
            ]
            assert np.mean(moved) > 0.8, (network, collection)
    for start, average in zip(*(jax.tree.leaves(state.ema_params) for state in (before, after)), strict=True):
        np.testing.assert_allclose(average, start, atol=1e-3)


def test_sums_averages_and_the_probability_of_augmentation_follow_their_fields(corrected, on_one_device, monkeypatch):
    """Three fields in one program, because each takes long to compile."""
    step, state = corrected
    step = dataclasses.replace(
        step, sum_reconstructions=True, ema_decay=0.0, adaptive_target=0.999, images_to_one=2.0 * BATCH
    )
    after, summed = train(step, state, monkeypatch, 1)
    _, mean = on_one_device
    # The sum grows with the batch. In the first step everything is augmented, as it is without a target.
    for name in ("reconstruction_whole", "reconstruction_small", "reconstruction_part"):
        np.testing.assert_allclose(summed[name][0], BATCH * mean[name][0], rtol=1e-5)
    # An average with a decay of 0 is the latest value.
    jax.tree.map(np.testing.assert_array_equal, after.ema_params, after.generator.params)
    # Not all logits of real images are positive: no overfitting, so the probability decreases by 1/2 per step.
    assert (summed["logit_real_sign"] < 0.999).all()
    np.testing.assert_allclose(summed["augment_probability"], [1.0, 0.5], rtol=1e-6)
    assert after.augment_probability == 0.0


def test_the_published_choices_train_too(monkeypatch):
    step = make_step(
        rotate=False, small_image="nearest", shared_augmentation=False, clip_targets=False, sum_reconstructions=True
    )
    _, metrics = train(step, initial(step), monkeypatch, 1)
    assert all(np.isfinite(value).all() for value in metrics.values())


def test_labels_have_an_effect_from_the_scheduled_step_on_one_device_or_eight(monkeypatch):
    step = make_step(label_strength=label_strength(0.0, 1.0, STEPS), distance=None)
    state = initial(step)
    _, one = train(step, state, monkeypatch, 1)
    _, eight = train(step, state, monkeypatch, 8)
    for name in one:
        np.testing.assert_allclose(eight[name][0], one[name][0], rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(one["label_strength"], [0.0, 0.5])
    changed = [{**batch, "label": (batch["label"] + 1) % 3} for batch in batches()]
    monkeypatch.setitem(globals(), "batches", lambda: changed)
    _, others = train(step, state, monkeypatch, 1)
    for name in ("logit_real", "logit_fake", "generator_loss"):
        assert one[name][0] == others[name][0] and one[name][1] != others[name][1], name
    assert not any(name.startswith("reconstruction") for name in one)
