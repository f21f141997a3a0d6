"""Training step of a GAN: equality of one device and eight, updates of both networks, metrics.

In float64: so narrow a GAN is ill-conditioned, and in float32 the norm of its gradient differs by 1e-4. Compiling takes
most of the time, so tests share the programs of a conditional GAN with reconstructions.
"""

import dataclasses

import jax
import numpy as np
import pytest

from dim_jax.gan.transition import label_strength
from dim_jax.losses import gan as gan_losses
from dim_jax.models import make_gan
from dim_jax.steps.gan import GanState, GanTrainStep
from dim_jax.training import initial_weights, parallel
from dim_jax.training.optimizers import make_optimizer

SIZE, BATCH, STEPS = 64, 8, 2


def pixel_distance(frozen, images, target):
    return frozen["weight"] * gan_losses.pixel_distance(images, target)


def make_step(num_classes, **fields):
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


def on_devices(devices, monkeypatch):
    """Makes the first `devices` devices the only ones."""
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:devices])


def arguments_of(state, batches):
    """The arguments of a dispatch."""
    resident = parallel.replicate((None, {"weight": np.float32(1.0)}))
    return parallel.replicate(state), parallel.shard_steps(batches), jax.random.key(3), resident


def train(dispatch, state, batches):
    with jax.enable_x64(True):
        return tuple(map(parallel.unreplicate, dispatch(*arguments_of(state, batches))))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A step, its state before and after the batches, and the metrics of a training with other labels, too."""

    step: GanTrainStep
    before: GanState
    after: GanState
    metrics: dict
    metrics_of_other_labels: dict


@pytest.fixture(scope="module")
def corrected():
    """Training with the corrected choices on one device."""
    step = make_step(3, label_strength=label_strength(0.0, 1.0, STEPS))
    state, other_labels = initial(step), [{**batch, "label": (batch["label"] + 1) % 3} for batch in batches()]
    with pytest.MonkeyPatch.context() as monkeypatch:
        on_devices(1, monkeypatch)
        dispatch = parallel.pmap_train_step(step)
        after, metrics = train(dispatch, state, batches())
        _, others = train(dispatch, state, other_labels)
    return Trained(step, state, after, metrics, others)


def test_eight_devices_give_the_numbers_of_one(corrected):
    state, metrics = train(parallel.pmap_train_step(corrected.step), corrected.before, batches())
    for name, expected in corrected.metrics.items():
        np.testing.assert_allclose(metrics[name][0], expected[0], rtol=1e-9, atol=1e-12, err_msg=name)
    # Under SGD the parameters are the sum of the gradients.
    for network in ("generator", "discriminator"):
        ours, theirs = (getattr(either, network).params for either in (state, corrected.after))
        for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path))


def test_the_discriminators_loss_is_the_sum_of_what_is_logged(corrected):
    metrics = corrected.metrics
    parts = [name for name in metrics if name.startswith(("hinge_", "reconstruction_"))]
    assert sorted(parts) == [
        "hinge_fake", "hinge_real", "reconstruction_part", "reconstruction_small", "reconstruction_whole",
    ]  # fmt: skip
    np.testing.assert_allclose(metrics["discriminator_loss"], sum(metrics[name] for name in parts), rtol=1e-5)
    assert (metrics["augment_probability"] == 1).all() and (np.abs(metrics["logit_real_sign"]) <= 1).all()


def test_a_step_updates_both_networks_their_statistics_and_the_average(corrected):
    before, after = corrected.before, corrected.after
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


def test_sums_averages_and_the_probability_of_augmentation_follow_their_fields(corrected, monkeypatch):
    """Three fields in one program, because each takes long to compile."""
    on_devices(1, monkeypatch)
    step = dataclasses.replace(
        corrected.step, sum_reconstructions=True, ema_decay=0.0, adaptive_target=0.999, images_to_one=2.0 * BATCH
    )
    after, summed = train(parallel.pmap_train_step(step), corrected.before, batches())
    # The sum grows with the batch. In the first step everything is augmented, as it is without a target.
    for name in ("reconstruction_whole", "reconstruction_small", "reconstruction_part"):
        np.testing.assert_allclose(summed[name][0], BATCH * corrected.metrics[name][0], rtol=1e-5)
    # An average with a decay of 0 is the latest value.
    jax.tree.map(np.testing.assert_array_equal, after.ema_params, after.generator.params)
    # Not all logits of real images are positive: no overfitting, so the probability decreases by 1/2 per step.
    assert (summed["logit_real_sign"] < 0.999).all()
    np.testing.assert_allclose(summed["augment_probability"], [1.0, 0.5], rtol=1e-6)
    assert after.augment_probability == 0.0


def test_the_published_choices_train_too(monkeypatch):
    step = make_step(
        0, rotate=False, small_image="nearest", shared_augmentation=False, clip_targets=False, sum_reconstructions=True
    )
    state = initial(step)
    on_devices(1, monkeypatch)
    _, metrics = train(parallel.pmap_train_step(step), state, batches())
    assert all(np.isfinite(value).all() for value in metrics.values())


def test_labels_have_an_effect_from_the_scheduled_step(corrected):
    one, others = corrected.metrics, corrected.metrics_of_other_labels
    np.testing.assert_array_equal(one["label_strength"], [0.0, 0.5])
    for name in ("logit_real", "logit_fake", "generator_loss"):
        assert one[name][0] == others[name][0] and one[name][1] != others[name][1], name


def test_without_a_distance_nothing_is_reconstructed():
    step = make_step(0, distance=None)
    with jax.enable_x64(True):
        _, metrics = jax.eval_shape(parallel.pmap_train_step(step), *arguments_of(initial(step), batches()))
    assert "hinge_real" in metrics and not any(name.startswith("reconstruction") for name in metrics)
