"""The one signature of all losses.

    loss(logits, labels, mask, class_counts, cross_replica_sum, *, hyper_parameters) -> per_example_loss

with logits (N, C) float32, labels (N,) int32, mask (N,) float32 (0 marks padding), class_counts (C,) float32: how many
examples of each class the training sampler draws per epoch, and cross_replica_sum: sums an array over all devices (the
identity on one). The loss of the global batch is the masked mean of what they return, (N,) float32, so that any number
of devices gives the same value. Hyper-parameters are traced, so runs that differ only in them share a compilation.

A loss of the whole batch at once is built from sums over all devices and added to every example. The gradient needs no
more: a sum over devices is its own transpose, so each device differentiates what all of them make of its examples.
"""

from collections.abc import Callable
from typing import Annotated

import jax
from annotated_types import Interval

CrossReplicaSum = Callable[[jax.Array], jax.Array]

# Hyper-parameters; a configuration reads default and range off a loss's signature.
Scalar = jax.Array | float
NonNegative = Annotated[Scalar, Interval(ge=0)]
Positive = Annotated[Scalar, Interval(gt=0)]
Share = Annotated[Scalar, Interval(ge=0, le=1)]
PositiveShare = Annotated[Scalar, Interval(gt=0, le=1)]
BelowOne = Annotated[Scalar, Interval(ge=0, lt=1)]
