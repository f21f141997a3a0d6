"""The denoising U-Net and its training step in PyTorch, our own code: the baseline of benchmarks/diffusion_step.py.

Nothing of dim_jax is imported here, so that the baseline cannot inherit its choices.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP_CHANNELS = 8
FREQUENCIES = torch.logspace(math.log10(0.25), math.log10(16.0), 32)  # cycles per unit of c_noise


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // GROUP_CHANNELS, channels)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Sets the weights of a layer to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norms, the second one scaled and shifted by the embedding."""

    def __init__(self, inputs: int, features: int, embedded: int):
        super().__init__()
        self.norm0, self.conv0 = group_norm(inputs), nn.Conv2d(inputs, features, 3, padding=1)
        self.modulation = nn.Linear(embedded, 2 * features)
        self.norm1, self.conv1 = group_norm(features), zero(nn.Conv2d(features, features, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == features else nn.Conv2d(inputs, features, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.conv0(F.silu(self.norm0(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        y = self.conv1(F.silu(torch.addcmul(shift, self.norm1(y), 1 + scale)))
        return y + self.shortcut(x)


class SelfAttention(nn.Module):
    """Residual self-attention of one head over all positions of a map."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.project = group_norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.merge = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.project(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, -1)
        y = F.scaled_dot_product_attention(queries, keys, values)
        return x + self.merge(y.transpose(1, 2).reshape(x.shape))


class DenoisingUNet(nn.Module):
    """U-Net of scaled noisy images (N, 3, S, S), noise levels (N,) and labels (N,), from 0 to `num_classes`."""

    def __init__(
        self,
        num_classes: int,
        size: int,
        width: float = 1.0,
        patch: int = 2,
        channels: Sequence[int] = (64, 128, 128),
        blocks: int = 2,
        attention_side: int = 16,
    ):
        """Args:
        size: side of the images in px.
        width: multiplies all numbers of channels, rounded to whole groups.
        patch: side in px of the squares of pixels whose colours are the channels of a position of the first map.
        channels: of each level; every level but the first halves the resolution.
        blocks: residual blocks of each level, on the way down and on the way up.
        attention_side: attention follows the blocks of maps of at most this side.
        """
        super().__init__()
        self.patch = patch
        widths = [GROUP_CHANNELS * max(round(number * width / GROUP_CHANNELS), 1) for number in channels]
        embedded = 4 * widths[0]
        self.embed0, self.embed1 = nn.Linear(2 * len(FREQUENCIES), embedded), nn.Linear(embedded, embedded)
        self.labels = nn.Embedding(num_classes + 1, embedded)
        self.register_buffer("frequencies", FREQUENCIES, persistent=False)
        self.stem = nn.Conv2d(3 * patch**2, widths[0], 3, padding=1)
        side, current, skips = size // patch, widths[0], []

        def refining(inputs: int, features: int, attends: bool) -> nn.ModuleList:
            attention = [SelfAttention(features)] if attends and side <= attention_side else []
            return nn.ModuleList([ResidualBlock(inputs, features, embedded), *attention])

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, features in enumerate(widths):
            side = side // 2 if level else side
            level_blocks = nn.ModuleList()
            for _ in range(blocks):
                level_blocks.append(refining(current, features, True))
                current = features
                skips.append(current)
            self.down.append(level_blocks)
        self.middle = nn.ModuleList([refining(current, current, attends) for attends in (True, False)])
        for level, features in reversed(list(enumerate(widths))):
            level_blocks = nn.ModuleList()
            for _ in range(blocks):
                level_blocks.append(refining(current + skips.pop(), features, True))
                current = features
            self.up.append(level_blocks)
            side = side * 2 if level else side
        self.norm, self.head = group_norm(current), zero(nn.Conv2d(current, 3 * patch**2, 3, padding=1))

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        angles = 2 * math.pi * noise[:, None] * self.frequencies
        embedding = self.embed0(torch.cat([angles.cos(), angles.sin()], 1)) + self.labels(labels)
        embedding = F.silu(self.embed1(F.silu(embedding)))

        def refine(x: Tensor, layers: nn.ModuleList) -> Tensor:
            block, *attention = layers
            x = block(x, embedding)
            return attention[0](x) if attention else x

        x, skips = self.stem(self._fold(x)), []
        for level, blocks in enumerate(self.down):
            x = F.avg_pool2d(x, 2) if level else x
            for layers in blocks:
                x = refine(x, layers)
                skips.append(x)
        for layers in self.middle:
            x = refine(x, layers)
        for remaining, blocks in zip(reversed(range(len(self.up))), self.up, strict=True):
            for layers in blocks:
                x = refine(torch.cat([x, skips.pop()], 1), layers)
            x = F.interpolate(x, scale_factor=2) if remaining else x
        return self._unfold(self.head(F.silu(self.norm(x)))).float()

    def _fold(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, patch^2 3, S / patch, S / patch); channels are (row, column, colour)."""
        number, colours, side, _ = x.shape
        squares = x.view(number, colours, side // self.patch, self.patch, side // self.patch, self.patch)
        folded = squares.permute(0, 3, 5, 1, 2, 4).reshape(number, -1, side // self.patch, side // self.patch)
        return folded.contiguous(memory_format=self._layout())

    def _unfold(self, x: Tensor) -> Tensor:
        number, channels, side, _ = x.shape
        squares = x.view(number, self.patch, self.patch, channels // self.patch**2, side, side)
        return squares.permute(0, 3, 4, 1, 5, 2).reshape(number, -1, side * self.patch, side * self.patch)

    def _layout(self) -> torch.memory_format:
        is_last = self.stem.weight.is_contiguous(memory_format=torch.channels_last)
        return torch.channels_last if is_last else torch.contiguous_format


class Draws(NamedTuple):
    """Random values of a training step.

    Attributes:
      levels: (N,), standard normal, for the logarithm of the noise levels.
      noise: (N, 3, S, S), standard normal.
      is_dropped: (N,) bool, whether the network sees no label.
    """

    levels: Tensor
    noise: Tensor
    is_dropped: Tensor


def draw(number: int, size: int, label_dropout: float, device: str) -> Draws:
    """Draws for a batch of `number` images of `size` px, on `device`, so that the host never waits for it."""
    return Draws(
        levels=torch.randn(number, device=device),
        noise=torch.randn(number, 3, size, size, device=device),
        is_dropped=torch.rand(number, device=device) < label_dropout,
    )


class TrainStep:
    """`train_step(images, labels, draws) -> loss`: one update by Adam of a denoiser with EDM's preconditioning.

    Images are (N, 3, S, S) uint8 and labels (N,) int64 on the network's device. The loss stays on the device.

    Attributes:
      average: moving average of the parameters, in their order.

    Reference: Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS 2022.
    """

    def __init__(
        self,
        network: DenoisingUNet,
        num_classes: int,
        *,
        learning_rate: float = 3e-4,
        sigma_data: float = 0.5,
        noise_mean: float = -1.2,
        noise_std: float = 1.2,
        ema_decay: float = 0.999,
        bfloat16: bool = False,
        compiled: bool = False,
    ):
        """Args:
        network: on its device already.
        num_classes: the label that stands for none.
        learning_rate: of Adam.
        sigma_data: standard deviation of the images.
        noise_mean, noise_std: of the logarithm of the noise levels.
        ema_decay: share of the old average that a step keeps.
        bfloat16: run the network under autocast; parameters and loss stay float32.
        compiled: compile network and loss, forward and backward, with torch.compile.
        """
        self.network, self.num_classes, self.sigma_data = network.train(), num_classes, sigma_data
        self.noise_mean, self.noise_std, self.ema_decay, self.bfloat16 = noise_mean, noise_std, ema_decay, bfloat16
        # The single-kernel form of Adam is the fastest that PyTorch has.
        self.optimizer = torch.optim.Adam(network.parameters(), learning_rate, fused=True)
        self.average = [parameter.detach().clone() for parameter in network.parameters()]
        self._loss = torch.compile(self._loss) if compiled else self._loss

    def __call__(self, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(images, labels, draws)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.network.parameters()), 1 - self.ema_decay)
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        images = images.float() / 127.5 - 1
        sigma = torch.exp(self.noise_mean + self.noise_std * draws.levels)
        total = (sigma**2 + self.sigma_data**2).sqrt()
        skip, out, scale = (
            value[:, None, None, None]
            for value in ((self.sigma_data / total) ** 2, sigma * self.sigma_data / total, 1 / total)
        )
        noisy = images + sigma[:, None, None, None] * draws.noise
        labels = torch.where(draws.is_dropped, self.num_classes, labels)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            residual = self.network(scale * noisy, sigma.log() / 4, labels)
        denoised = skip * noisy + out * residual
        return ((denoised - images) / out).square().mean()
