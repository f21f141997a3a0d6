"""The Inception network of FID: PyTorch's numbers on the same weights, its weights file, and wrong files."""

import sys

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_rule import normal, tensor
from torch_pickles import write_state_dict

from dim_jax.models.feature_nets import inception_features
from dim_jax.models.inception import LEAST_SIDE, InceptionV3
from dim_jax.weights import pretrained, torch_names


@pytest.fixture(scope="module")
def shapes():
    """Flax path -> shape."""
    variables = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, LEAST_SIDE, LEAST_SIDE, 3)))
    return flax.traverse_util.flatten_dict(jax.tree.map(jnp.shape, variables))


@pytest.fixture(scope="module")
def state_dict(shapes):
    """Weights by the golden rule under the published names."""
    return {
        name: tensor(name, torch_names.to_torch_layout(np.empty(shapes[path])).shape)
        for name, path in pretrained.inception_names().items()
    }


@pytest.fixture(scope="module")
def weights_file(state_dict, tmp_path_factory):
    counters = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)}
    return write_state_dict(tmp_path_factory.mktemp("inception") / "weights.pth", state_dict | counters, "legacy")


@pytest.fixture(scope="module")
def pictures():
    return np.tanh(normal("inception.pictures", (2, 64, 80, 3)))


@pytest.fixture(scope="module")
def outputs(weights_file, pictures):
    return jax.jit(inception_features)(pretrained.inception_v3(weights_file), pictures)


class Reference:
    """The network in PyTorch's functions, from a state dict."""

    def __init__(self, torch, state_dict):
        self.functions = torch.nn.functional
        self.join = lambda maps: torch.cat(maps, 1)
        self.weights = {name: torch.from_numpy(value) for name, value in state_dict.items()}

    def layer(self, x, name, stride=1, padding=0):
        norm = [self.weights[f"{name}.bn.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        x = self.functions.conv2d(x, self.weights[f"{name}.conv.weight"], stride=stride, padding=padding)
        return self.functions.batch_norm(x, *norm, eps=1e-3).relu()

    def chain(self, x, block, *layers):
        for name, padding in layers:
            x = self.layer(x, f"{block}.{name}", padding=padding)
        return x

    def mean(self, x):
        return self.functions.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    def halve(self, x):
        return self.functions.max_pool2d(x, 3, 2)

    def block_a(self, x, block):
        return self.join([
            self.chain(x, block, ("branch1x1", 0)),
            self.chain(x, block, ("branch5x5_1", 0), ("branch5x5_2", 2)),
            self.chain(x, block, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1), ("branch3x3dbl_3", 1)),
            self.chain(self.mean(x), block, ("branch_pool", 0)),
        ])  # fmt: skip

    def block_b(self, x, block):
        double = self.chain(x, block, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1))
        return self.join([
            self.layer(x, f"{block}.branch3x3", 2), self.layer(double, f"{block}.branch3x3dbl_3", 2), self.halve(x)
        ])  # fmt: skip

    def block_c(self, x, block):
        wide, high = (0, 3), (3, 0)
        double = [("branch7x7dbl_1", 0)] + [(f"branch7x7dbl_{at}", (high, wide)[at % 2]) for at in range(2, 6)]
        return self.join([
            self.chain(x, block, ("branch1x1", 0)),
            self.chain(x, block, ("branch7x7_1", 0), ("branch7x7_2", wide), ("branch7x7_3", high)),
            self.chain(x, block, *double),
            self.chain(self.mean(x), block, ("branch_pool", 0)),
        ])  # fmt: skip

    def block_d(self, x, block):
        seven = self.chain(x, block, ("branch7x7x3_1", 0), ("branch7x7x3_2", (0, 3)), ("branch7x7x3_3", (3, 0)))
        three = self.chain(x, block, ("branch3x3_1", 0))
        return self.join([
            self.layer(three, f"{block}.branch3x3_2", 2), self.layer(seven, f"{block}.branch7x7x3_4", 2), self.halve(x)
        ])  # fmt: skip

    def block_e(self, x, block, pooled):
        one = self.chain(x, block, ("branch3x3_1", 0))
        two = self.chain(x, block, ("branch3x3dbl_1", 0), ("branch3x3dbl_2", 1))
        return self.join([
            self.chain(x, block, ("branch1x1", 0)),
            self.chain(one, block, ("branch3x3_2a", (0, 1))),
            self.chain(one, block, ("branch3x3_2b", (1, 0))),
            self.chain(two, block, ("branch3x3dbl_3a", (0, 1))),
            self.chain(two, block, ("branch3x3dbl_3b", (1, 0))),
            self.chain(pooled, block, ("branch_pool", 0)),
        ])  # fmt: skip

    def __call__(self, images):
        x = self.functions.interpolate((images + 1) / 2, (299, 299), mode="bilinear", align_corners=False)
        x = self.layer(2 * x - 1, "Conv2d_1a_3x3", 2)
        x = self.halve(self.layer(self.layer(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", padding=1))
        x = self.halve(self.layer(self.layer(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"))
        for letter in "bcd":
            x = self.block_a(x, f"Mixed_5{letter}")
        x = self.block_b(x, "Mixed_6a")
        for letter in "bcde":
            x = self.block_c(x, f"Mixed_6{letter}")
        x = self.block_d(x, "Mixed_7a")
        x = self.block_e(x, "Mixed_7b", self.mean(x))
        x = self.block_e(x, "Mixed_7c", self.functions.max_pool2d(x, 3, 1, 1))
        features = x.mean((2, 3))
        return features @ self.weights["fc.weight"].T, features


def test_it_has_the_published_number_of_parameters(shapes):
    sizes = {path[1:]: np.prod(shape) for path, shape in shapes.items() if path[0] == "params"}
    logits = sizes.pop(("fc", "kernel")) + sizes.pop(("fc", "bias"))
    assert (sum(sizes.values()), logits) == (21_785_568, 2048 * 1008 + 1008)


@pytest.mark.torch
def test_it_agrees_with_pytorch_and_resizes_as_it_does(outputs, state_dict, pictures):
    # As in tests/test_torch_baseline.py.
    sys.modules.setdefault("triton", None)
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = Reference(torch, state_dict)(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
    for ours, theirs, width in zip(outputs, expected, (1008, 2048), strict=True):
        theirs = theirs.numpy()
        assert ours.shape == theirs.shape == (2, width)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_the_logits_of_the_inception_score_leave_out_the_last_bias(outputs, state_dict):
    logits, features = (np.asarray(values, np.float64) for values in outputs)
    np.testing.assert_allclose(logits, features @ state_dict["fc.weight"].T.astype(np.float64), atol=1e-4)


def test_the_feature_space_names_the_weights(weights_file, monkeypatch):
    assert "299 px" in pretrained.inception_space(weights_file)
    assert "and so not FID" in pretrained.inception_space(weights_file)
    sha256 = pretrained.inception_space(weights_file).split("SHA-256 ")[1][:64]
    monkeypatch.setattr(pretrained, "INCEPTION_SHA256", sha256)
    assert pretrained.inception_space(weights_file).endswith(f"(weights.pth SHA-256 {sha256})")


@pytest.mark.parametrize("change, expected", [
    ({"fc.weight": np.zeros((1000, 2048), np.float32)}, "fc.weight is (2048, 1000)"),
    ({"AuxLogits.conv0.conv.weight": np.zeros((128, 768, 1, 1), np.float32)}, "not known ['AuxLogits.conv0"),
    ("another network", "missing ['Conv2d_1a_3x3.bn.bias'"),
    ("a web page", "not a .pth of PyTorch"),
])  # fmt: skip
def test_another_file_is_refused_with_the_name_of_the_right_one(change, expected, state_dict, tmp_path):
    path = tmp_path / "other.pth"
    if change == "a web page":
        path.write_text("<html>not found</html>")
    elif change == "another network":
        write_state_dict(path, {"layer.weight": np.zeros((2, 2), np.float32)})
    else:
        write_state_dict(path, state_dict | change)
    with pytest.raises(ValueError) as raised:
        pretrained.inception_v3(path)
    message = str(raised.value)
    assert message.startswith(str(path)) and expected in message and "\n" not in message
    assert "pt_inception-2015-12-05-6726825d.pth" in message and "https://" in message


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        pretrained.inception_v3(tmp_path / "absent.pth")
