"""GCGAN in PyTorch with the published parameter names, our own code: the baseline of benchmarks/gan_step.py and a test.

Nothing of dim_jax is imported here, so that the baseline cannot inherit its choices.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

# Side of a map in pixels -> its channels.
GENERATOR_CHANNELS = {4: 1024, 8: 512, 16: 256, 32: 128, 64: 128, 128: 64, 256: 32, 512: 16, 1024: 8}
BIG_CHANNELS = {256: 16, 128: 32, 64: 64, 32: 128, 16: 256, 8: 512}
SMALL_CHANNELS = {64: 32, 32: 64, 16: 128, 8: 256}
DECODER_CHANNELS = {16: 128, 32: 64, 64: 64, 128: 32}
LATENT_SIZE = 256

# An image at its two sizes: (N, 3, S, S) and (N, 3, s, s) with s = small_size(S), in about [-1, 1].
Views = tuple[Tensor, Tensor]


def small_size(size: int) -> int:
    """Returns the side of the small image that goes with one of side `size`."""
    return min(128, size // 2)


def scaled(channels: int, width: float) -> int:
    """Returns a published number of channels times `width`, at least 1."""
    return max(round(channels * width), 1)


def at_least_float32(x: Tensor) -> Tensor:
    """Converts a network's output from autocast's bfloat16 to float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def conv(inputs: int, features: int, kernel_size: int, stride: int = 1, padding: int = 0) -> nn.Module:
    """A spectrally normalised convolution without bias."""
    return spectral_norm(nn.Conv2d(inputs, features, kernel_size, stride, padding, bias=False))


def normalized_conv(inputs: int, features: int, kernel_size: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    """`conv`, batch norm and the discriminator's activation."""
    layers = [conv(inputs, features, kernel_size, stride, padding), nn.BatchNorm2d(features)]
    return [*layers, nn.LeakyReLU(0.2, inplace=True)]


def up_block(inputs: int, features: int) -> nn.Sequential:
    """Doubles the side: repeated pixels, a 3x3 convolution, batch norm, gated linear unit."""
    layers = [conv(inputs, 2 * features, 3, padding=1), nn.BatchNorm2d(2 * features), nn.GLU(1)]
    return nn.Sequential(nn.Upsample(scale_factor=2), *layers)


class InjectedNoise(nn.Module):
    """Adds noise that all channels of a position share, times a learned gain that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), 1, *x.shape[2:], dtype=x.dtype, device=x.device)
        return x + self.weight * noise


class CompoundUpBlock(nn.Module):
    """Doubles the side by two noisy convolutions, beside a 1x1 convolution of the repeated pixels."""

    def __init__(self, inputs: int, features: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Upsample(scale_factor=2)]
        for channels in (inputs, features):
            layers += [conv(channels, 2 * features, 3, padding=1), InjectedNoise()]
            layers += [nn.BatchNorm2d(2 * features), nn.GLU(1)]
        self.block = nn.Sequential(*layers)
        self.skip = nn.Sequential(nn.Upsample(scale_factor=2), conv(inputs, features, 1), nn.BatchNorm2d(features))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + self.skip(x)


class GlobalContext(nn.Module):
    """Adds a bottleneck of a map's mean, weighted by the softmax of the map over its own positions."""

    def __init__(self, channels: int):
        super().__init__()
        hidden = max(channels // 16, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        context = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x + context * x.flatten(2).softmax(-1).view_as(x)


class Gate(nn.Module):
    """Scales the channels of `target` by gates computed from the global context of `source`."""

    def __init__(self, source: int, target: int):
        super().__init__()
        self.global_context_block = GlobalContext(source)
        squeeze = [nn.AdaptiveAvgPool2d(4), conv(source, target, 4), nn.SiLU()]
        self.main = nn.Sequential(*squeeze, conv(target, target, 1), nn.Sigmoid())

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return target * self.main(self.global_context_block(source))


class Generator(nn.Module):
    """Generator of GCGAN, with the published names of parameters and buffers.

    Sizes below the published 256 px leave out the largest maps, and the gates that would end there.

    Reference: Yuan et al., IEEE JBHI 2026.
    """

    def __init__(self, size: int, width: float = 1.0, tanh: bool = False):
        """Args:
        size: side of the images: 64, 128, 256, 512 or 1024 px.
        width: multiplies all numbers of channels; latents keep their size.
        tanh: bring the pixels into (-1, 1); published at 1024 px only.
        """
        super().__init__()
        channels = {side: scaled(count, width) for side, count in GENERATOR_CHANNELS.items() if side <= size}
        seed = spectral_norm(nn.ConvTranspose2d(LATENT_SIZE, 2 * channels[4], 4, bias=False))
        seed = nn.Sequential(seed, nn.BatchNorm2d(2 * channels[4]), nn.GLU(1))
        self.init = nn.Sequential(OrderedDict(init=seed))
        self.sides = [side for side in channels if side > 4]
        self.gated = [side for side in self.sides if 64 <= side < 1024]
        for number, side in enumerate(self.sides):
            block = up_block if number % 2 else CompoundUpBlock
            setattr(self, f"feat_{side}", block(channels[side // 2], channels[side]))
        for side in self.gated:
            setattr(self, f"se_{side}", Gate(channels[side // 16], channels[side]))
        self.small_side, self.tanh = small_size(size), tanh
        self.to_128 = conv(channels[self.small_side], 3, 1)
        self.to_big = conv(channels[size], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Views:
        """Generates one image at two sizes per latent vector (N, 256), in float32 at least."""
        x = self.init(latents[:, :, None, None])
        maps = {4: x}
        for side in self.sides:
            x = getattr(self, f"feat_{side}")(x)
            if side in self.gated:
                x = getattr(self, f"se_{side}")(maps[side // 16], x)
            maps[side] = x
        images, small = at_least_float32(self.to_big(x)), at_least_float32(self.to_128(maps[self.small_side]))
        return (images.tanh(), small.tanh()) if self.tanh else (images, small)


class DownBlock(nn.Module):
    """Halves the side: the mean of two convolutions and of averaged pixels through a 1x1 convolution."""

    def __init__(self, inputs: int, features: int):
        super().__init__()
        first = normalized_conv(inputs, features, 4, stride=2, padding=1)
        self.main = nn.Sequential(*first, *normalized_conv(features, features, 3, padding=1))
        self.direct = nn.Sequential(nn.AvgPool2d(2), *normalized_conv(inputs, features, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.direct(x)) / 2


class HalvingBlock(nn.Module):
    """Halves the side by one convolution."""

    def __init__(self, inputs: int, features: int):
        super().__init__()
        self.main = nn.Sequential(*normalized_conv(inputs, features, 4, stride=2, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def decoder(inputs: int, size: int, width: float) -> nn.Sequential:
    """Rebuilds an image of side `size` from a map 8x8."""
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(8)]
    for side, count in DECODER_CHANNELS.items():
        if side <= size:
            layers.append(up_block(inputs, scaled(count, width)))
            inputs = scaled(count, width)
    layers += [conv(inputs, 3, 3, padding=1), nn.Tanh()]
    return nn.Sequential(OrderedDict(main=nn.Sequential(*layers)))


def quadrant(x: Tensor, part: Tensor) -> Tensor:
    """Cuts a quarter out of x (N, C, S, S); `part` is (1,) int64, 0 to 3 row by row, and may stay on the device."""
    number, channels, side, _ = x.shape
    parts = x.reshape(number, channels, 2, side // 2, 2, side // 2)
    parts = parts.index_select(2, part // 2).index_select(4, part % 2)
    return parts.reshape(number, channels, side // 2, side // 2)


class Discriminator(nn.Module):
    """Discriminator of GCGAN on two image sizes, which also reconstructs real images; with the published names.

    Sizes below the published 256 px leave out the largest maps, and the gates that would begin there.

    Reference: Yuan et al., IEEE JBHI 2026.
    """

    def __init__(self, size: int, width: float = 1.0):
        """Args: as for Generator."""
        super().__init__()
        small = small_size(size)
        channels = {side: scaled(count, width) for side, count in BIG_CHANNELS.items() if side <= size}
        stem, *self.sides = channels
        if size == 1024:
            layers = [conv(3, scaled(8, width), 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            layers += normalized_conv(scaled(8, width), channels[stem], 4, stride=2, padding=1)
        elif size == 512:
            layers = [conv(3, channels[stem], 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        else:
            layers = [conv(3, channels[stem], 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        self.down_from_big = nn.Sequential(*layers)
        # The published names hold the ratio of 512 px to the side of the map.
        for side in self.sides:
            setattr(self, f"down_{512 // side}", DownBlock(channels[2 * side], channels[side]))
        self.gated = [side for side in self.sides if 8 * side in channels]
        for side in self.gated:
            setattr(self, f"se_{64 // side}_{512 // side}", Gate(channels[8 * side], channels[side]))
        hidden = 2 * channels[8]
        self.rf_big = nn.Sequential(*normalized_conv(channels[8], hidden, 1), conv(hidden, 1, 4))

        first, *rest = (scaled(count, width) for side, count in SMALL_CHANNELS.items() if side < small)
        layers = [conv(3, first, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for inputs, features in zip([first, *rest], rest, strict=False):
            layers.append(HalvingBlock(inputs, features))
        self.down_from_small = nn.Sequential(*layers)
        last = scaled(SMALL_CHANNELS[8], width)
        self.rf_small = conv(last, 1, 4)
        self.decoder_big = decoder(channels[8], small, width)
        self.decoder_part = decoder(channels[16], small, width)
        self.decoder_small = decoder(last, small, width)

    def forward(self, images: Tensor, small: Tensor, part: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Returns logits for images (N, 3, S, S) and their small versions `small` (N, 3, s, s).

        Args:
          part: (1,) int64, the quadrant to rebuild; None: rebuild nothing, as for generated images.

        Returns:
          logits (N, 50), 25 from either size, and the rebuilt images (N, 3, s, s), if any: the whole one from what was
          seen of the big size, the whole one from the small size, the quadrant. All at least in float32.
        """
        x = self.down_from_big(images)
        maps = {2 * self.sides[0]: x}
        for side in self.sides:
            x = getattr(self, f"down_{512 // side}")(x)
            if side in self.gated:
                x = getattr(self, f"se_{64 // side}_{512 // side}")(maps[8 * side], x)
            maps[side] = x
        small_map = self.down_from_small(small)
        logits = torch.cat([self.rf_big(x).flatten(1), self.rf_small(small_map).flatten(1)], 1)
        rebuilt = []
        if part is not None:
            rebuilt = [self.decoder_big(x), self.decoder_small(small_map), self.decoder_part(quadrant(maps[16], part))]
        return at_least_float32(logits), [at_least_float32(image) for image in rebuilt]
