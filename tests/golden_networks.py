"""Networks of the golden numbers with the weights of golden_rule: GCGAN, and the weight files of LPIPS."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from golden_rule import GOLDEN, eight_samples, tensor
from scipy.sparse.linalg import svds
from torch_pickles import write_state_dict

from dim_jax.models.feature_nets import VGG16_GROUPS
from dim_jax.models.gcgan import Discriminator, Generator
from dim_jax.weights import gcgan_names, pretrained

NUMBERS = np.load(GOLDEN / "gcgan.npz")
SHAPES = json.loads((GOLDEN / "gcgan_state_dict.json").read_text())

cached_tensor = cache(tensor)  # the three sizes share most of their tensors


@cache
def singular_pair(name, shape):
    """The leading left and right singular vectors of a weight with the output channels as rows."""
    weight = cached_tensor(name, shape).astype(np.float64)
    if name == f"{gcgan_names.LATENT}.weight_orig":
        weight = weight.swapaxes(0, 1)
    matrix = weight.reshape(len(weight), -1)
    if len(matrix) == 1:
        return np.ones(1), matrix[0] / np.linalg.norm(matrix)
    left, _, right = svds(matrix, k=1, v0=np.ones(min(matrix.shape)))
    return left[:, 0], right[0]


@cache
def published(kind, size):
    """The network, the names of its tensors, its PyTorch state dict and its Flax variables."""
    model = Generator(size, tanh=size == 1024) if kind == "generator" else Discriminator(size)
    names = gcgan_names.generator_names(model) if kind == "generator" else gcgan_names.discriminator_names(model)
    shapes = {name: tuple(shape) for name, shape in SHAPES[f"{kind}_{size}"].items()}
    state_dict = {}
    for name, shape in shapes.items():
        layer, leaf = name.rsplit(".", 1)
        if leaf in ("weight_u", "weight_v"):
            weight = f"{layer}.weight_orig"
            vector = singular_pair(weight, shapes[weight])[leaf == "weight_v"]
            state_dict[name] = vector.astype(np.float32)
        else:
            state_dict[name] = cached_tensor(name, shape)
    return model, names, state_dict, gcgan_names.to_flax(state_dict, names)


def close_to_golden(actual, name, tolerance):
    """Compares with the golden values of that name: sampled values, mean and standard deviation."""
    actual = np.asarray(actual, np.float64)
    if actual.ndim == 4:
        actual = actual.transpose(0, 3, 1, 2)
    elif name.endswith("logits"):
        actual = np.concatenate(np.split(actual, 2, axis=1))  # all logits of the big branch, then of the small one
    assert actual.size == np.prod(NUMBERS[f"{name}.shape"])
    expected = NUMBERS[name]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual.ravel()[NUMBERS[f"{name}.index"]], expected, rtol=0, atol=tolerance * scale)
    moments = actual.mean(), actual.std()
    np.testing.assert_allclose(moments, NUMBERS[f"{name}.moments"], rtol=0, atol=tolerance * scale, err_msg=name)


def close_gradients(gradients, prefix, norm_tolerance, sample_tolerance):
    """Compares gradients with the golden norms and samples; scalar gains have no golden values."""
    names = list(NUMBERS[f"{prefix}.grad_names"])
    gains = {name for name, gradient in gradients.items() if gradient.size == 1}
    assert set(gradients) - gains == set(names)
    expected, samples = NUMBERS[f"{prefix}.grad_norms"], NUMBERS[f"{prefix}.grad_samples"]
    norms = np.array([np.linalg.norm(gradients[name]) for name in names])
    is_significant = expected > 1e-6 * expected.max()
    assert is_significant.sum() == {"G256.train": 52, "D256.train": 106}[prefix]
    np.testing.assert_allclose(norms[is_significant], expected[is_significant], rtol=norm_tolerance)
    actual = np.stack([eight_samples(name, gradients[name]) for name in names])
    np.testing.assert_allclose(actual, samples, rtol=0, atol=sample_tolerance * np.abs(samples).max())


def write_lpips_files(folder: Path):
    """Writes the two standard files with the weights of the golden numbers: golden_rule's backbone, published heads.

    Returns their paths and the golden distances.
    """
    golden = np.load(GOLDEN / "gan_aux.npz")
    backbone, channels = {"classifier.0.weight": np.zeros((4, 4), np.float32)}, 3
    kernels = [name.removesuffix(".weight") for name in pretrained.vgg16_names() if name.endswith(".weight")]
    for name, features in zip(kernels, np.concatenate(VGG16_GROUPS), strict=True):
        backbone[f"{name}.weight"] = tensor(f"vgg16.{name}.weight", (features, channels, 3, 3))
        backbone[f"{name}.bias"] = tensor(f"vgg16.{name}.bias", (features,))
        channels = int(features)
    ends = np.cumsum([widths[-1] for widths in VGG16_GROUPS])[:-1]
    heads = {
        f"lin{index}.model.1.weight": head.reshape(1, -1, 1, 1)
        for index, head in enumerate(np.split(golden["lpips_vgg.lin"], ends))
    }
    return (
        write_state_dict(folder / "vgg16-397923af.pth", backbone, "legacy"),
        write_state_dict(folder / "vgg.pth", heads, "legacy"),
        golden["lpips_vgg.distance"],
    )
