"""One training step of GCGAN in PyTorch: the discriminator's update, then the generator's.

Nothing of dim_jax is imported here, so that the baseline cannot inherit its choices.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_gcgan import LATENT_SIZE, Discriminator, Generator, Views, quadrant, small_size

NUM_LOGITS = 50


class Draws(NamedTuple):
    """Random values of a training step, but for the injected noise.

    Attributes:
      latents: (N, 256), standard normal.
      real, fake: (N, 5), how either kind of images is augmented: see `augment`.
      margins: (2, N, 50), 0.8 to 1, what the logits of real and of generated images have to exceed.
      part: (1,) int64, 0 to 3, the quadrant to rebuild.
    """

    latents: Tensor
    real: Tensor
    fake: Tensor
    margins: Tensor
    part: Tensor


def draw(number: int, device: str) -> Draws:
    """Draws for a batch of `number` images, on `device`, so that the host never waits for it."""
    return Draws(
        latents=torch.randn(number, LATENT_SIZE, device=device),
        real=torch.rand(number, 5, device=device),
        fake=torch.rand(number, 5, device=device),
        margins=0.8 + 0.2 * torch.rand(2, number, NUM_LOGITS, device=device),
        part=torch.randint(4, (1,), device=device),
    )


def augment(views: Views, draws: Tensor) -> Views:
    """Changes colours and position of both sizes of images in the same way (DiffAugment's "color,translation").

    Args:
      draws: (N, 5) in [0, 1): brightness, saturation, contrast, and the shift of rows and columns in whole pixels of
        the small size, up to an eighth of it.
    """
    images, small = views
    limit = int(small.shape[2] / 8 + 0.5)
    shifts = (draws[:, 3:] * (2 * limit + 1)).long() - limit
    factor = images.shape[2] // small.shape[2]
    return translated(recoloured(images, draws), factor * shifts), translated(recoloured(small, draws), shifts)


def recoloured(images: Tensor, draws: Tensor) -> Tensor:
    """Changes brightness, saturation and contrast of (N, 3, H, W) by the first three columns of draws (N, >= 3)."""
    brightness, saturation, contrast = draws[:, :3].T[..., None, None, None]
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def translated(images: Tensor, shifts: Tensor) -> Tensor:
    """Returns images (N, 3, S, S) with place (r, c) taken from (r, c) + shifts (N, 2) int64, 0 beyond the edge.

    Shifts are at most an eighth of the side, rounded up.
    """
    number, channels, side, _ = images.shape
    limit = side // 8 + 1
    padded = F.pad(images, (limit,) * 4)
    rows, columns = (torch.arange(side, device=images.device) + limit + shift[:, None] for shift in shifts.T)
    # One gather: its gradient is many times faster on the CPU than that of indexing.
    places = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).reshape(number, 1, side * side)
    return padded.flatten(2).gather(2, places.expand(-1, channels, -1)).view_as(images)


def half_hinge(logits: Tensor, margins: Tensor) -> Tensor:
    """Returns the mean hinge loss of logits (N, 50) that are positive if right, with random margins."""
    return F.relu(margins - logits).mean()


class TrainStep:
    """`train_step(images, draws) -> (discriminator_loss, generator_loss)`: one update of either network.

    Real images are (N, 3, S, S) uint8 on the networks' device; their small size is the mean over blocks. Both updates
    see the same generated images, augmented by the same draws. The losses stay on the device, so that a caller who does
    not look at them does not wait.

    Attributes:
      average: moving average of the generator's parameters, in their order.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        reconstruct: bool = True,
        learning_rate: float = 2e-4,
        ema_decay: float = 0.999,
        bfloat16: bool = False,
        compiled: bool = False,
    ):
        """Args:
        generator, discriminator: on their device already.
        reconstruct: rebuild real images three times, judged by mean squared difference of pixels.
        learning_rate: of RMSprop, for both.
        ema_decay: share of the old average that a step keeps.
        bfloat16: run the networks under autocast; parameters, losses and augmentation stay float32. On a GPU autocast
            also takes PyTorch's power iterations into bfloat16; ours stay float32.
        compiled: compile networks and losses, forward and backward, with torch.compile.
        """
        self.generator, self.discriminator = generator.train(), discriminator.train()
        self.reconstruct, self.ema_decay, self.bfloat16 = reconstruct, ema_decay, bfloat16
        self.optimizers = [
            torch.optim.RMSprop(network.parameters(), learning_rate) for network in (generator, discriminator)
        ]
        self.average = [parameter.detach().clone() for parameter in generator.parameters()]
        wrapped: Callable = torch.compile if compiled else lambda function: function
        self._generate = wrapped(self._generate)
        self._discriminator_loss = wrapped(self._discriminator_loss)
        self._generator_loss = wrapped(self._generator_loss)

    def __call__(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        of_generator, of_discriminator = self.optimizers
        fakes = self._generate(draws.latents)
        self.discriminator.requires_grad_(True)
        of_discriminator.zero_grad(set_to_none=True)
        discriminator_loss = self._discriminator_loss(images, tuple(fake.detach() for fake in fakes), draws)
        discriminator_loss.backward()
        of_discriminator.step()

        # Gradients go through the discriminator to the images; its own weights need none here.
        self.discriminator.requires_grad_(False)
        of_generator.zero_grad(set_to_none=True)
        generator_loss = self._generator_loss(fakes, draws)
        generator_loss.backward()
        of_generator.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.generator.parameters()), 1 - self.ema_decay)
        return discriminator_loss.detach(), generator_loss.detach()

    def _generate(self, latents: Tensor) -> Views:
        with self._autocast(latents):
            return self.generator(latents)

    def _discriminator_loss(self, images: Tensor, fakes: Views, draws: Draws) -> Tensor:
        images = images.float() / 127.5 - 1
        side = small_size(images.shape[2])
        real = augment((images, F.avg_pool2d(images, images.shape[2] // side)), draws.real)
        fakes = augment(fakes, draws.fake)
        with self._autocast(images):
            real_logits, rebuilt = self.discriminator(*real, draws.part if self.reconstruct else None)
            fake_logits, _ = self.discriminator(*fakes)
        loss = half_hinge(real_logits, draws.margins[0]) + half_hinge(-fake_logits, draws.margins[1])
        if self.reconstruct:
            quarter = F.avg_pool2d(quadrant(real[0], draws.part), images.shape[2] // 2 // side)
            # Colours may be outside the range of tanh.
            for image, target in zip(rebuilt, (real[1], real[1], quarter), strict=True):
                loss = loss + F.mse_loss(image, target.clamp(-1, 1))
        return loss

    def _generator_loss(self, fakes: Views, draws: Draws) -> Tensor:
        views = augment(fakes, draws.fake)
        with self._autocast(views[0]):
            return -self.discriminator(*views)[0].mean()

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, torch.bfloat16, enabled=self.bfloat16)
