"""EfficientNet-Lite with its published weights against its PyTorch package, which computed the golden numbers too."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from golden_rule import GOLDEN, lite_images

from dim_jax.models.efficientnet_lite import LITE2, PUBLISHED
from dim_jax.weights import pretrained, torch_names

# PyTorch's optimizers look for Triton, whose library crashes the process if TensorFlow was imported before.
sys.modules.setdefault("triton", None)
pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
pytest.importorskip("efficientnet_lite_pytorch", reason="needs PyTorch and efficientnet-lite-pytorch")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import torch_efficientnet_lite  # noqa: E402


def package_network(name):
    network = torch_efficientnet_lite.EfficientNetLite.named(name, 1000)
    network.load_state_dict(torch.load(pretrained.lite_path(name), weights_only=True))
    return network


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_and_features_agree(name):
    images = lite_images(name, 97)
    logits, features = jax.jit(PUBLISHED[name].make().apply)(pretrained.efficientnet_lite(name), images)
    with torch.no_grad():
        expected = package_network(name).eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    for got, reference in zip((logits, features), expected, strict=True):
        np.testing.assert_allclose(got, reference, rtol=0, atol=1e-5 * float(reference.abs().max()))


def test_the_golden_numbers_are_those_of_the_package():
    network = package_network(LITE2).eval().double()
    with np.load(GOLDEN / "efficientnet_lite2.npz") as golden:
        for size in (75, 260):
            with torch.no_grad():
                images = lite_images(LITE2, size).astype(np.float64)
                logits, features = network(torch.from_numpy(images.transpose(0, 3, 1, 2)))
            np.testing.assert_allclose(logits, golden[f"logits_{size}"], rtol=0, atol=1e-6)
            np.testing.assert_allclose(features, golden[f"features_{size}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_the_package_s(name):
    model = PUBLISHED[name].make()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32))
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    tensors = torch_names.to_torch(empty, pretrained.efficientnet_lite_names(model))
    theirs = {
        key: tuple(value.shape)
        for key, value in package_network(name).state_dict().items()
        if not key.endswith(torch_names.STEP_COUNTER)
    }
    assert {key: value.shape for key, value in tensors.items()} == theirs
