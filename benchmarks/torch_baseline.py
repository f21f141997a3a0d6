"""LRF-CNN in PyTorch with the published parameter names, our own code: the baseline of benchmarks and of one test.

Nothing of dim_jax is imported here, so that the baseline cannot inherit its choices.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BRANCHES = ((3, 0), (3, 3), (5, 3), (5, 5))
STAGES = ((64, 128), (192, 224, 256, 288, 320), (320, 384))

Loss = Callable[[Tensor, Tensor], Tensor]


class DepthwiseSeparable(nn.Module):
    """Depthwise k x k convolution, then a 1x1 convolution; both with bias: (N, inputs, H, W) -> (N, features, H, W)."""

    def __init__(self, inputs: int, features: int, kernel_size: int = 1, dilation: int = 1):
        """Args:
        inputs, features: channels.
        kernel_size: side of the depthwise kernel, odd.
        dilation: spacing of its taps in pixels.
        """
        super().__init__()
        margin = dilation * (kernel_size // 2)
        self.depthwise = nn.Conv2d(inputs, inputs, kernel_size, padding=margin, dilation=dilation, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class LRFBlock(nn.Module):
    """Parallel branches of different receptive fields on one input, merged and added to a projected shortcut."""

    def __init__(self, inputs: int, features: int, branches: Sequence[tuple[int, int]], depthwise: bool):
        """Args:
        inputs, features: channels; every branch has `features` of them.
        branches: (depthwise kernel, dilation of the 3x3 convolution after it; 0: none) per branch.
        depthwise: make the dilated convolutions depthwise separable.
        """
        super().__init__()
        self.num_branches = len(branches)
        for index, (kernel_size, dilation) in enumerate(branches):
            layers = [DepthwiseSeparable(inputs, features), nn.BatchNorm2d(features), nn.ReLU()]
            layers += [DepthwiseSeparable(features, features, kernel_size), nn.BatchNorm2d(features), nn.ReLU()]
            if dilation:
                if depthwise:
                    layers.append(DepthwiseSeparable(features, features, 3, dilation))
                else:
                    layers.append(nn.Conv2d(features, features, 3, padding=dilation, dilation=dilation))
                layers += [nn.BatchNorm2d(features), nn.ReLU()]
            setattr(self, f"branch{index}", nn.Sequential(*layers))
        self.conv_linear = DepthwiseSeparable(self.num_branches * features, features)
        self.shortcut = DepthwiseSeparable(inputs, features)
        self.bn_shortcut = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        outputs = [getattr(self, f"branch{index}")(x) for index in range(self.num_branches)]
        merged = self.conv_linear(torch.cat(outputs, 1))
        return F.relu(0.1 * merged + self.bn_shortcut(self.shortcut(x)))


class LRFCNN(nn.Module):
    """LRF-CNN with the published names of parameters and buffers.

    Reference: Yuan et al., IEEE JBHI 2026.
    """

    def __init__(
        self,
        num_classes: int,
        width: float = 1.0,
        stem_width: int = 64,
        stages: Sequence[Sequence[int]] = STAGES,
        branches: Sequence[tuple[int, int]] = BRANCHES,
        attention_width: int = 512,
        drop_connect: float = 0.5,
        depthwise: bool = False,
    ):
        """Args:
        num_classes: number of logits.
        width: multiplies every number of channels and hidden units below, rounded to whole ones.
        stem_width: channels of the 7x7 stem.
        stages: output channels of the blocks; a max pooling stands before every stage.
        branches: see LRFBlock.
        attention_width: hidden units of the attention.
        drop_connect: probability that a pooled feature is dropped in training.
        depthwise: see LRFBlock.
        """
        super().__init__()

        def scaled(channels: int) -> int:
            return max(round(channels * width), 1)

        channels = scaled(stem_width)
        layers = [nn.Conv2d(3, channels, 7, stride=2, padding=3), nn.BatchNorm2d(channels), nn.ReLU()]
        for stage in stages:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            for features in map(scaled, stage):
                layers.append(LRFBlock(channels, features, branches, depthwise))
                channels = features
        self.features = nn.Sequential(*layers)
        hidden = scaled(attention_width)
        self.attention_fc = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Sigmoid())
        self.classifier = nn.Linear(channels, num_classes)
        self.drop_connect = drop_connect

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Classifies normalised images (N, 3, H, W).

        Returns:
          logits (N, num_classes) and features (N, last width: the pooled map before dropping), at least float32.
        """
        x = self.features(images)
        features = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        # The head stays in float32 under autocast too, as ours does.
        with torch.autocast(images.device.type, enabled=False):
            dropped = F.dropout(features, self.drop_connect, self.training)
            return self.classifier(self.attention_fc(dropped) * dropped), features


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p_y over logits (N, C) and labels (N,)."""
    return F.cross_entropy(logits, labels)


def published_fafl(logits: Tensor, labels: Tensor, alpha0: float = 0.5, beta0: float = 3.0, m: float = 1.0) -> Tensor:
    """Mean of the frequency-aware adaptive focal loss with the counts of this batch, added as an offset.

    Args:
      logits: (N, C).
      labels: (N,) int64.
      alpha0, beta0, m: weight, focusing and offset, each at least 0.
    """
    counts = F.one_hot(labels, logits.shape[1]).sum(0)
    offset = torch.where(counts > 0, m / counts.clamp(min=1) ** 0.25, 0.0)
    probability = F.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    log_shifted = F.log_softmax(logits + offset, 1).gather(1, labels[:, None])[:, 0]
    alpha, beta = alpha0 * (1 - probability), beta0 * probability
    # The power's derivative is infinite at 0.
    rest = -torch.expm1(log_shifted.clamp(max=-1e-7))
    return (-alpha * rest**beta * log_shifted).mean()


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "published_fafl": published_fafl}


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 images (N, 3, H, W) to [0, 1], then by channel statistics of shape (3,), in float32."""
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


def placed(model: nn.Module, device: str, channels_last: bool) -> nn.Module:
    """Moves a model to a device ("cpu" or "cuda"), its weights laid out channels-last where asked."""
    return model.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def make_train_step(
    model: nn.Module,
    mean: Tensor,
    std: Tensor,
    *,
    loss: str = "published_fafl",
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-5,
    bfloat16: bool = False,
    compiled: bool = False,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns `train_step(images, labels) -> loss`, which updates `model` by Adam with L2 added to the gradient.

    Images are (N, 3, H, W) uint8, in either memory format, and labels (N,) int64, on the model's device. The returned
    loss stays on the device, so that a caller who does not look at it does not wait.

    Args:
      model: returns (logits, features); on its device already.
      mean, std: channel statistics, (3,), on the model's device.
      loss: key of LOSSES.
      learning_rate: constant.
      weight_decay: L2.
      bfloat16: run the network under autocast; parameters, head and loss stay float32.
      compiled: compile normalisation, network and loss, forward and backward, with torch.compile.
    """
    model.train()
    # The single-kernel form of Adam is the fastest that PyTorch has.
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, weight_decay=weight_decay, fused=True)

    def loss_of_batch(images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            logits, _ = model(normalize(images, mean, std))
        return LOSSES[loss](logits, labels)

    forward = torch.compile(loss_of_batch) if compiled else loss_of_batch

    def train_step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = forward(images, labels)
        value.backward()
        optimizer.step()
        return value.detach()

    return train_step


def make_eval_step(
    model: nn.Module, mean: Tensor, std: Tensor, *, bfloat16: bool = False, compiled: bool = False
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Returns `eval_step(images) -> (logits, features)` on stored statistics, without gradients.

    Args: as in `make_train_step`.
    """
    model.eval()

    def outputs(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            return model(normalize(images, mean, std))

    forward = torch.compile(outputs) if compiled else outputs

    def eval_step(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return forward(images)

    return eval_step
