"""The signature of classification losses.

    loss(logits, labels, mask, class_counts, cross_replica_sum, *, hyper_parameters) -> per_example_loss

with

- logits (N, C) float32, labels (N,) int32 and mask (N,) float32, 0 for padding;
- class_counts (C,) float32, the examples of each class that the training sampler draws per epoch;
- cross_replica_sum, which sums an array over all devices, the identity on a single one;
- per_example_loss (N,) float32, whose masked mean over the global batch is the loss, for any number of devices.

Mixed examples have two labels; their loss is that of each label, weighted by its share. A loss that counts or ranks the
examples of a batch cannot be used so, and says it by annotating `labels` as `BatchLabels`.

Hyper-parameters are traced, so runs that differ only in them share a compilation. A loss that couples the examples of a
batch is computed from sums over all devices and added to every example. Its gradient needs no further communication:
the sum over devices is its own transpose.
"""

from collections.abc import Callable
from typing import Annotated

import jax
from annotated_types import Interval

CrossReplicaSum = Callable[[jax.Array], jax.Array]

# Type of `labels` of a loss that counts or ranks the examples of a batch.
BatchLabels = Annotated[jax.Array, "one for each example"]

# Types of hyper-parameters: the configuration takes defaults and ranges from the signatures of the losses.
Scalar = jax.Array | float
NonNegative = Annotated[Scalar, Interval(ge=0)]
Positive = Annotated[Scalar, Interval(gt=0)]
Share = Annotated[Scalar, Interval(ge=0, le=1)]
PositiveShare = Annotated[Scalar, Interval(gt=0, le=1)]
BelowOne = Annotated[Scalar, Interval(ge=0, lt=1)]
