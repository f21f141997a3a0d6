"""The PyTorch implementation of benchmarks/gan_step.py against the published networks and against ours."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_networks import SHAPES, close_gradients, close_to_golden, published
from golden_rule import GOLDEN, normal, tensor

from dim_jax.augmentation import diff_augment
from dim_jax.losses import gan as gan_losses
from dim_jax.models.gcgan import Discriminator, Generator, small_size
from dim_jax.steps.gan import MUTABLE, GanTrainStep
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.random_keys import example_keys, step_key
from dim_jax.training.state import GanState, NetworkState
from dim_jax.weights import gcgan_names

# As in tests/test_torch_baseline.py.
sys.modules.setdefault("triton", None)
pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import torch_gan_step  # noqa: E402
import torch_gcgan  # noqa: E402

WIDTH, COUNT, PART = 1 / 16, 4, 2
KINDS = {"generator": torch_gcgan.Generator, "discriminator": torch_gcgan.Discriminator}


def nhwc(images):
    return np.asarray(images.detach()).transpose(0, 2, 3, 1)


def nchw(images):
    return torch.from_numpy(np.array(images).transpose(0, 3, 1, 2))


def near(got, expected, tolerance, name=""):
    expected = np.asarray(expected)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


def rebuilding(network, state_dict):
    """Gives a network of PyTorch weights in float64."""
    network.to(torch.float64).load_state_dict({name: torch.from_numpy(value) for name, value in state_dict.items()})
    return network


def gradients(network):
    return {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("size", [256, 512, 1024])
@pytest.mark.parametrize("kind", KINDS)
def test_the_full_networks_have_the_published_names_and_shapes(kind, size):
    with torch.device("meta"):
        state = KINDS[kind](size).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == SHAPES[f"{kind}_{size}"]


def test_a_step_of_either_network_equals_the_published_one():
    generator, discriminator = (rebuilding(make(256), published(kind, 256)[2]) for kind, make in KINDS.items())
    fakes = generator(torch.from_numpy(normal("gcgan.z", (2, 256))).double())
    close_to_golden(nhwc(fakes[0]), "G256.train.big", 1e-9)
    close_to_golden(nhwc(fakes[1]), "G256.train.128", 1e-9)
    logits, _ = discriminator(*fakes)
    close_to_golden(logits.detach(), "GD256.train.fake_logits", 1e-6)
    (-logits.mean()).backward()
    close_gradients(gradients(generator), "G256.train", 1e-6, 1e-6)

    discriminator.zero_grad()
    rebuilding(discriminator, published("discriminator", 256)[2])
    images = torch.from_numpy(np.tanh(normal("gcgan.x.256", (2, 3, 256, 256)).astype(np.float64)))
    small, quadrant = images[..., ::2, ::2], images[..., 128:, :128]
    logits, rebuilt = discriminator(images, small, torch.tensor([PART]))
    for name, image in zip(("rec_big", "rec_small", "rec_part2"), rebuilt, strict=True):
        close_to_golden(nhwc(image), f"D256.train.{name}", 1e-6)
    close_to_golden(logits.detach(), "D256.train.real_logits", 1e-6)
    fake_logits, _ = discriminator(*(fake.detach() for fake in fakes))
    loss = torch_gan_step.half_hinge(logits, 0.9) + torch_gan_step.half_hinge(-fake_logits, 0.9)
    for image, target in zip(rebuilt, (small, small, quadrant), strict=True):
        loss = loss + torch.nn.functional.mse_loss(image, target)
    loss.backward()
    close_gradients(gradients(discriminator), "D256.train", 1e-6, 1e-6)


def pair(size):
    """Both networks of PyTorch and of ours with the same weights and statistics."""
    torch.manual_seed(0)
    theirs = torch_gcgan.Generator(size, WIDTH, tanh=True), torch_gcgan.Discriminator(size, WIDTH)
    for network in theirs:
        state = {
            name: torch.from_numpy(np.array(tensor(name, tuple(value.shape))))
            for name, value in network.state_dict().items()
            if not name.endswith(("weight_u", "weight_v"))
        }
        network.load_state_dict(state, strict=False)
    with torch.no_grad():
        for _ in range(8):  # brings the singular vectors near the leading ones
            theirs[1](*theirs[0](torch.randn(COUNT, 256)), torch.tensor([0]))
    ours = Generator(size, WIDTH), Discriminator(size, WIDTH)
    names = gcgan_names.generator_names(ours[0]), gcgan_names.discriminator_names(ours[1])
    variables = [gcgan_names.to_flax(arrays(network), each) for network, each in zip(theirs, names, strict=True)]
    return theirs, ours, names, variables


def arrays(network):
    return {name: np.array(value) for name, value in network.state_dict().items()}


@pytest.mark.parametrize(("size", "train"), [(64, False), (64, True), (128, True)])
def test_both_networks_agree_with_ours(size, train):
    theirs, ours, names, variables = pair(size)
    latents = normal("latents", (COUNT, 256))
    images = [np.tanh(normal(f"torch{side}", (COUNT, side, side, 3))) for side in (size, small_size(size))]

    @jax.jit
    def both(variables):
        fakes, generator_statistics = ours[0].apply(variables[0], latents, train, mutable=MUTABLE)
        discriminator_outputs, discriminator_statistics = ours[1].apply(
            variables[1], *images, PART, train, method=ours[1].reconstruct, mutable=MUTABLE
        )
        return fakes, discriminator_outputs, (generator_statistics, discriminator_statistics)

    with jax.default_matmul_precision("highest"):
        fakes, (logits, rebuilt), statistics = jax.device_get(both(variables))
    with torch.no_grad():
        for got, expected in zip(fakes, theirs[0].train(train)(torch.from_numpy(latents)), strict=True):
            near(got, nhwc(expected), 1e-5)
        expected_logits, expected = theirs[1].train(train)(*map(nchw, images), torch.tensor([PART]))
    near(logits, expected_logits, 1e-5)
    for name, image in zip(("whole", "small", "part"), expected, strict=True):
        near(rebuilt[name], nhwc(image), 1e-5, name)
    for network, each, updated in zip(theirs, names, statistics, strict=True):
        state = arrays(network)
        for name, value in gcgan_names.to_torch(updated, each).items():
            near(value, state[name], 1e-5, name)


class Silent:
    """Our generator without its injected noise."""

    def __init__(self, generator):
        self.generator, self.latent_size = generator, generator.latent_size

    def apply(self, variables, latents, train, labels, noise_keys, strength, mutable):
        return self.generator.apply(variables, latents, train, labels, None, strength, mutable=mutable)


def our_draws(key, step, rows):
    """The random numbers of our step in the format of PyTorch's."""
    keys = jax.vmap(lambda key: jax.random.split(key, 7))(example_keys(key, step, rows))

    def augmentation(keys):
        draws = diff_augment.draw(keys, 1.0)
        return jnp.column_stack([draws.brightness, draws.saturation, draws.contrast, draws.shift])

    draws = torch_gan_step.Draws(
        latents=jax.vmap(lambda key: jax.random.normal(key, (256,)))(keys[:, 1]),
        real=augmentation(keys[:, 3]),
        fake=augmentation(keys[:, 4]),
        margins=jnp.stack([gan_losses.margins(keys[:, place], torch_gan_step.NUM_LOGITS) for place in (5, 6)]),
        part=jax.random.randint(step_key(key, step), (1,), 0, 4),
    )
    return torch_gan_step.Draws(*(torch.from_numpy(np.array(value)) for value in draws))


# RMSprop's first step depends on the signs of the gradient, some of which rounding flips: what follows the
# discriminator's update agrees closely only for a tiny learning rate, and roughly for a realistic one.
@pytest.mark.parametrize(
    ("reconstruct", "learning_rate", "after_update", "weights"), [(True, 1e-7, 1e-3, 1e-3), (False, 2e-4, 5e-3, 0.05)]
)
def test_a_training_step_does_what_ours_does(reconstruct, learning_rate, after_update, weights, monkeypatch):
    """With the same random numbers: losses, both gradients, and the state after the step."""
    theirs, ours, names, variables = pair(64)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 64, 64, 3), np.uint8)
    batch = {"image": images, "label": np.zeros(COUNT, np.int32), "row": np.arange(COUNT), "mask": np.ones(COUNT)}
    step = GanTrainStep(
        generator=Silent(ours[0]),
        discriminator=ours[1],
        optimizer=make_optimizer("rmsprop", learning_rate),
        learning_rate=learning_rate,
        distance=(lambda frozen, rebuilt, target: gan_losses.pixel_distance(rebuilt, target)) if reconstruct else None,
        flip=False,
    )
    networks = [NetworkState(**tree, opt_state=step.optimizer.init(tree["params"])) for tree in variables]
    start = GanState(jnp.int32(0), *networks, variables[0]["params"], jnp.float32(1.0))
    key = jax.random.key(1)
    with jax.default_matmul_precision("highest"):
        state, metrics = jax.device_get(jax.jit(step)(start, batch, key, (None, {})))

    train_step = torch_gan_step.TrainStep(*theirs, reconstruct=reconstruct, learning_rate=learning_rate)
    monkeypatch.setattr(torch, "randn", torch.zeros)
    discriminator_loss, generator_loss = train_step(nchw(images), our_draws(key, 0, np.arange(COUNT)))
    near(discriminator_loss, metrics["discriminator_loss"], 1e-5)
    near(generator_loss, metrics["generator_loss"], after_update)
    for network, name, tolerance in zip(theirs, ("generator", "discriminator"), (after_update, 1e-3), strict=True):
        gradient = torch.cat(
            [parameter.grad.ravel() for parameter in network.parameters() if parameter.grad is not None]
        )
        near(gradient.norm(), metrics[f"{name}_gradient_norm"], tolerance)
    for network, each, ended in zip(theirs, names, (state.generator, state.discriminator), strict=True):
        expected = arrays(network)
        for name, value in gcgan_names.to_torch(ended.variables, each).items():
            near(value, expected[name], weights, name)
    average = dict(zip((name for name, _ in theirs[0].named_parameters()), train_step.average, strict=True))
    for name, value in gcgan_names.to_torch({"params": state.ema_params}, names[0]).items():
        near(value, average[name], max(1e-5, 20 * learning_rate), name)


def test_augmentation_agrees_with_the_published_one():
    numbers = np.load(GOLDEN / "gan_aux.npz")
    draws = np.stack([numbers[f"diffaug.{name}"].ravel() for name in ("brightness", "saturation", "contrast")], 1)
    shifts = np.stack([numbers[f"diffaug.shift_{name}"].ravel() for name in ("rows", "cols")], 1)
    images = torch_gan_step.recoloured(torch.from_numpy(numbers["diffaug.x"]), torch.from_numpy(draws))
    near(torch_gan_step.translated(images, torch.from_numpy(shifts)), numbers["diffaug.y"], 1e-6)


def test_draws_are_in_their_ranges():
    draws = torch_gan_step.draw(500, "cpu")
    assert draws.latents.shape == (500, 256) and draws.latents.std() == pytest.approx(1, abs=0.02)
    assert draws.margins.shape == (2, 500, 50) and 0.8 <= draws.margins.min() < draws.margins.max() <= 1
    assert {int(torch_gan_step.draw(1, "cpu").part) for _ in range(100)} == {0, 1, 2, 3}


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_and_autocast_change_no_more_than_rounding(channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (COUNT, 3, 64, 64), np.uint8))
    draws = our_draws(jax.random.key(1), 0, np.arange(COUNT))
    exact, same, rough = (
        torch_gan_step.TrainStep(*networks, bfloat16=bfloat16)(images.contiguous(memory_format=shape), draws)
        for networks, shape, bfloat16 in (
            (pair(64)[0], torch.contiguous_format, False),
            ([network.to(memory_format=layout) for network in pair(64)[0]], layout, False),
            ([network.to(memory_format=layout) for network in pair(64)[0]], layout, True),
        )
    )
    near(same[0], exact[0], 1e-5)
    near(rough[0], exact[0], 0.05)
    assert rough[0].dtype == torch.float32
