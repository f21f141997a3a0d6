"""Measured peaks of this device: the rates of a large matrix product and of a large copy."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dim_jax.models.kernels.precision import matmul

# Side of the product's matrices, and bytes to copy; a device takes milliseconds for either.
MATRIX_SIDES = {"cpu": 2048, "gpu": 8192}
COPIED_BYTES = {"cpu": 2**28, "gpu": 2**30}
LARGEST = "gpu"  # for other platforms
ROUNDS, SECONDS_PER_ROUND = 3, 0.2


def matmul_flops_per_second(dtype: str) -> float:
    """Returns the best rate of a product of two large square matrices, multiplied as in the networks.

    On a GPU, float32 is therefore multiplied in TF32. The values are random, because zeros take less power.
    """
    side = MATRIX_SIDES.get(jax.default_backend(), MATRIX_SIDES[LARGEST])
    x, y = (jax.random.normal(key, (side, side)).astype(dtype) for key in jax.random.split(jax.random.key(0)))
    multiply = jax.jit(matmul)
    return 2 * side**3 / min(seconds_per_call(lambda: multiply(x, y), ROUNDS))


def copied_bytes_per_second() -> float:
    """Returns the best rate of a large copy in memory, bytes read and written."""
    size = COPIED_BYTES.get(jax.default_backend(), COPIED_BYTES[LARGEST])
    copy, values = jax.jit(jnp.negative), jnp.ones(size // 4, jnp.float32)
    return 2 * size / min(seconds_per_call(lambda: copy(values), ROUNDS))


def seconds_per_call(call: Callable[[], Any], rounds: int, seconds_per_round: float = SECONDS_PER_ROUND) -> list[float]:
    """Returns how long a call takes on the device, one value per round.

    A round is as many calls as fill about `seconds_per_round`, at least one, dispatched without waiting for each.
    Two unmeasured calls come first: one compiles, one sets the number of calls.
    """
    jax.block_until_ready(call())
    calls = max(round(seconds_per_round / _seconds(call, 1)), 1)
    return [_seconds(call, calls) / calls for _ in range(rounds)]


def _seconds(call: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        result = call()
    jax.block_until_ready(result)
    return time.perf_counter() - started
