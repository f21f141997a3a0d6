"""The PyTorch baseline of benchmarks/diffusion_step.py does what our training step does."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax.models import make_denoiser
from dim_jax.steps.diffusion import DiffusionTrainStep
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.random_keys import example_keys

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import torch_denoising_unet  # noqa: E402

pytestmark = pytest.mark.torch
CLASSES, SIZE, BATCH = 3, 16, 4
TINY = {"channels": (8, 16), "blocks": 1, "attention_side": 4}


def torch_module(path):
    """The name of the PyTorch module of a part of our network, such as down.1.0.1 for down1_0_attention."""
    place, _, number = path.partition("_")
    if not place[-1].isdigit() or place.startswith("embed"):
        return path
    kind, at = place.rstrip("0123456789"), int(place.lstrip("abcdefghijklmnopqrstuvwxyz"))
    number, _, attention = number.partition("_")
    if kind == "middle":
        return f"middle.{at}.{int(number == 'attention')}"
    if kind == "up":  # from the smallest maps on
        at = len(TINY["channels"]) - 1 - at
    return f"{kind}.{at}.{number}.{int(bool(attention))}"


def to_torch(params):
    """The state dict of the PyTorch network with our parameters."""
    tensors = {"labels.weight": np.array(params["labels"])}
    for path, leaf in jax.tree_util.tree_leaves_with_path({k: v for k, v in params.items() if k != "labels"}):
        first, *rest, last = (key.key for key in path)
        value = np.array(leaf)
        if last == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        name = ".".join([torch_module(first), *rest, {"kernel": "weight", "scale": "weight"}.get(last, last)])
        tensors[name] = np.ascontiguousarray(value)
    return {name: torch.from_numpy(value) for name, value in tensors.items()}


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_training_step_does_what_ours_does(channels_last):
    """With the same weights and random numbers: loss, gradient, weights and average after an update."""
    step = DiffusionTrainStep(
        network=make_denoiser(CLASSES, **TINY),
        optimizer=make_optimizer("adam", 1e-3),
        learning_rate=1e-3,
        label_dropout=0.5,
        flip=False,
        rotate=False,
    )
    state, rng = jax.device_get(step.initial_state(jax.random.key(0), SIZE)), np.random.default_rng(0)
    # Nothing starts at zero, so that every part matters.
    params = jax.tree.map(lambda leaf: (leaf + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32), state.params)
    state = state.replace(params=params, ema_params=params)
    images, labels = rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8), np.array([0, 1, 2, 0], np.int32)
    batch = {"image": images, "label": labels, "row": np.arange(BATCH), "mask": np.ones(BATCH)}
    key = jax.random.key(1)
    with jax.default_matmul_precision("highest"):
        ended, metrics = jax.device_get(jax.jit(step)(state, batch, key, None))

    keys = jax.vmap(lambda key: jax.random.split(key, 4))(example_keys(key, 0, jnp.arange(BATCH)))
    noise = jax.vmap(lambda key: jax.random.normal(key, (SIZE, SIZE, 3)))(keys[:, 2])
    draws = torch_denoising_unet.Draws(
        levels=torch.from_numpy(np.array(jax.vmap(jax.random.normal)(keys[:, 1]))),
        noise=torch.from_numpy(np.array(noise).transpose(0, 3, 1, 2)),
        is_dropped=torch.from_numpy(np.array(step.drop_labels(keys[:, 3], labels)) == CLASSES),
    )
    assert 0 < draws.is_dropped.sum() < BATCH
    network = torch_denoising_unet.DenoisingUNet(CLASSES, SIZE, **TINY)
    network.load_state_dict(to_torch(params))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    theirs = torch_denoising_unet.TrainStep(network.to(memory_format=layout), CLASSES, learning_rate=1e-3)
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    loss = theirs(inputs, torch.from_numpy(labels).long(), draws)
    assert float(loss) == pytest.approx(float(metrics["loss"]), rel=1e-4)
    gradient = torch.cat([parameter.grad.ravel() for parameter in network.parameters()])
    assert float(gradient.norm()) == pytest.approx(float(metrics["gradient_norm"]), rel=1e-3)
    after = to_torch(ended.params)
    for name, tensor in network.state_dict().items():
        # Adam's first step is by the sign of the gradient, of which rounding flips a few.
        assert (tensor - after[name]).abs().mean() < 2e-5, name
