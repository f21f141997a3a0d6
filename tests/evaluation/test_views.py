"""Predictions averaged over flips and turns, and over networks."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.augmentation.views import IDENTITY, show_view, trained_views
from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.ensembles import mean_logits
from dim_jax.evaluation.predictor import Predictor, views_of
from dim_jax.training import parallel

SIZE = 6


class Net(nn.Module):
    """A classifier that sees where every pixel is."""

    @nn.compact
    def __call__(self, images, train=False, example_keys=None):
        features = images.reshape(len(images), -1)
        return nn.Dense(3)(features), features


class ArrayImages:
    """Images in memory, in the roles of images and dataset of a predictor."""

    pixels, shape = None, (SIZE, SIZE, 3)

    def __init__(self, images):
        self.images, self.labels = images, np.zeros(len(images), np.int32)

    def statistics(self):
        return np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32)

    def batches(self, plan):
        for rows in plan:
            yield {"image": self.images[rows], "mask": (rows >= 0).astype(np.float32), "index": rows}


def predict(images, views=(IDENTITY,)):
    source = ArrayImages(images)
    predictor = Predictor(Net(), source, source, 8)
    variables = jax.device_get(Net().init(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32)))
    return predictor.with_views(views)(parallel.replicate(variables), np.arange(len(images)))


def noise(number):
    return np.random.default_rng(0).integers(0, 256, (number, SIZE, SIZE, 3)).astype(np.uint8)


def turned(images, view):
    mirrored = images[:, :, ::-1] if view % 2 else images
    return np.rot90(mirrored, view // 2, axes=(1, 2))


def test_views_are_those_of_training_and_eight_with_flips_and_turns():
    assert trained_views(False, False) == (IDENTITY,)
    assert (trained_views(True, False), trained_views(False, True)) == ((0, 1), (0, 2, 4, 6))
    image, views = noise(1), np.array(trained_views(True, True))
    shown = np.asarray(jax.jit(show_view)(np.repeat(image, 8, 0), views))
    np.testing.assert_array_equal(shown, np.concatenate([turned(image, view) for view in views]))
    assert len({one.tobytes() for one in shown}) == 8
    np.testing.assert_array_equal(shown[0], image[0])


def test_averaged_predictions_are_the_mean_of_the_probabilities_of_the_views():
    images, views = noise(5), trained_views(True, True)
    averaged, plain = predict(images, views), predict(images)
    expected = np.mean([probabilities(predict(turned(images, view)).logits) for view in views], axis=0)
    np.testing.assert_allclose(probabilities(averaged.logits), expected, atol=1e-6)
    np.testing.assert_allclose(averaged.features, plain.features, atol=1e-6)
    assert np.abs(expected - probabilities(plain.logits)).max() > 0.01


def test_views_change_nothing_for_a_symmetric_image():
    images = noise(3)
    symmetric = np.max([turned(images, view) for view in range(8)], axis=0)
    averaged, plain = predict(symmetric, trained_views(True, True)), predict(symmetric)
    np.testing.assert_allclose(probabilities(averaged.logits), probabilities(plain.logits), atol=1e-6)


def test_one_view_is_the_plain_predictor():
    source = ArrayImages(noise(1))
    predictor = Predictor(Net(), source, source, 8)
    assert predictor.with_views((IDENTITY,)) is predictor
    several = predictor.with_views((0, 1))
    assert several.views == (0, 1) and predictor.views == (IDENTITY,)


def test_a_run_uses_the_views_that_it_was_trained_on_if_they_are_wanted():
    def config(**augment):
        return SimpleNamespace(augment=SimpleNamespace(**augment))

    both = config(flip=True, rotate=True, test_time_views=False)
    assert views_of(both, "run") == (IDENTITY,) and views_of(both, "run", True) == tuple(range(8))
    chosen = config(flip=True, rotate=False, test_time_views=True)
    assert views_of(chosen, "run") == (0, 1) and views_of(chosen, "run", False) == (IDENTITY,)
    imported = config(flip=None, rotate=None, test_time_views=None)
    assert views_of(imported, "run") == (IDENTITY,)
    with pytest.raises(ValueError, match="run was trained without flips and turns"):
        views_of(imported, "run", True)


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 300))
def test_the_mean_of_equal_predictions_is_that_prediction(seed, scale):
    logits = (scale * np.random.default_rng(seed).normal(size=(4, 3))).astype(np.float32)
    assert mean_logits([logits]) is logits
    np.testing.assert_allclose(probabilities(mean_logits([logits] * 3)), probabilities(logits), atol=1e-5)
    np.testing.assert_allclose(
        probabilities(mean_logits([logits, logits[::-1]])),
        (probabilities(logits) + probabilities(logits[::-1])) / 2,
        atol=1e-6,
    )


def test_predictions_of_different_images_are_not_averaged():
    with pytest.raises(ValueError, match="cannot average logits of the shapes"):
        mean_logits([np.zeros((3, 2)), np.zeros((4, 2))])
