"""InceptionV3 of FID and the inception score, as released by TensorFlow in December 2015; inference only.

It differs from the InceptionV3 of most libraries: 1008 logits, average pooling that excludes padding, and max pooling
in the last block. Modules have the names of the published weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dim_jax.models.batch_norm import BatchNorm
from dim_jax.models.layers import Linear

NUM_LOGITS = 1008
LEAST_SIDE = 75  # px
# On GPU and TPU too, or scores would not be comparable with published ones.
PRECISION = lax.Precision.HIGHEST


class Layer(NamedTuple):
    """Specification of a convolution without bias, its batch norm and a ReLU.

    Attributes:
      name: name in the published weights.
      features: output channels.
      kernel_size: height and width of the kernel.
      stride: step in pixels.
      padding: "SAME" or "VALID".
    """

    name: str
    features: int
    kernel_size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


Pool = Callable[[jax.Array], jax.Array]
Step = Layer | Pool | tuple[Layer, ...]  # layers in a tuple take the same input; their outputs are concatenated
Branch = tuple[Step, ...]


def halving_max(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def same_max(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding="SAME")


def same_mean(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _halving(name: str, features: int) -> Layer:
    return Layer(name, features, (3, 3), 2, "VALID")


def _block35(pooled: int) -> tuple[Branch, ...]:
    """A block at 35x35 (for images of 299 px); `pooled` is the number of channels of its pooling branch."""
    return (
        (Layer("branch1x1", 64),),
        (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, (5, 5))),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, (3, 3)),
            Layer("branch3x3dbl_3", 96, (3, 3)),
        ),
        (same_mean, Layer("branch_pool", pooled)),
    )


def _block17(inner: int) -> tuple[Branch, ...]:
    """A block at 17x17; `inner` is the number of channels between its 1x7 and 7x1 convolutions."""
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", inner),
            Layer("branch7x7_2", inner, (1, 7)),
            Layer("branch7x7_3", 192, (7, 1)),
        ),
        (
            Layer("branch7x7dbl_1", inner),
            Layer("branch7x7dbl_2", inner, (7, 1)),
            Layer("branch7x7dbl_3", inner, (1, 7)),
            Layer("branch7x7dbl_4", inner, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ),
        (same_mean, Layer("branch_pool", 192)),
    )


def _block8(pool: Pool) -> tuple[Branch, ...]:
    """A block at 8x8."""
    return (
        (Layer("branch1x1", 320),),
        (
            Layer("branch3x3_1", 384),
            (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Layer("branch3x3dbl_1", 448),
            Layer("branch3x3dbl_2", 384, (3, 3)),
            (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Layer("branch_pool", 192)),
    )


STEM: Branch = (
    _halving("Conv2d_1a_3x3", 32),
    Layer("Conv2d_2a_3x3", 32, (3, 3), padding="VALID"),
    Layer("Conv2d_2b_3x3", 64, (3, 3)),
    halving_max,
    Layer("Conv2d_3b_1x1", 80),
    Layer("Conv2d_4a_3x3", 192, (3, 3), padding="VALID"),
    halving_max,
)
# Outputs of branches are concatenated in this order.
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _block35(32),
    "Mixed_5c": _block35(64),
    "Mixed_5d": _block35(64),
    "Mixed_6a": (
        (_halving("branch3x3", 384),),
        (Layer("branch3x3dbl_1", 64), Layer("branch3x3dbl_2", 96, (3, 3)), _halving("branch3x3dbl_3", 96)),
        (halving_max,),
    ),
    "Mixed_6b": _block17(128),
    "Mixed_6c": _block17(160),
    "Mixed_6d": _block17(160),
    "Mixed_6e": _block17(192),
    "Mixed_7a": (
        (Layer("branch3x3_1", 192), _halving("branch3x3_2", 320)),
        (
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            _halving("branch7x7x3_4", 192),
        ),
        (halving_max,),
    ),
    "Mixed_7b": _block8(same_mean),
    "Mixed_7c": _block8(same_max),
}


class Convolution(nn.Module):
    """The module of a `Layer`, with stored batch statistics.

    Attributes:
      layer: its specification.
    """

    layer: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, features, kernel_size, stride, padding = self.layer
        convolve = nn.Conv(features, kernel_size, stride, padding, use_bias=False, precision=PRECISION, name="conv")
        return nn.relu(BatchNorm(epsilon=1e-3, name="bn")(convolve(x), False))


class Block(nn.Module):
    """Branches of one input, their outputs concatenated along the channels.

    Attributes:
      branches: see BLOCKS.
    """

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([_apply_steps(branch, x) for branch in self.branches], -1)


def _apply_steps(steps: Branch, x: jax.Array) -> jax.Array:
    """Applies steps in order; called by the module that owns their layers."""
    for step in steps:
        if isinstance(step, Layer):
            x = Convolution(step, name=step.name)(x)
        elif isinstance(step, tuple):
            x = jnp.concatenate([_apply_steps((layer,), x) for layer in step], -1)  # type: ignore[arg-type]  # a Layer is a tuple too
        else:
            x = step(x)
    return x


class InceptionV3(nn.Module):
    """InceptionV3 of 2015-12-05 (23,850,960 parameters, 21,785,568 of them before the logits).

    Reference: Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016; Heusel et al.,
    "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017, for FID.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Classifies images.

        Args:
          images: (N, H, W, 3) in [-1, 1], H and W at least LEAST_SIDE; 299 for FID.

        Returns:
          logits (N, 1008) and features (N, 2048: the pooled last map), float32.
        """
        x = _apply_steps(STEM, images)
        for name, branches in BLOCKS.items():
            x = Block(branches, name=name)(x)
        features = x.mean((1, 2))
        return Linear(NUM_LOGITS, name="fc")(features), features
