"""Initialisation of weights on the CPU, independent of the accelerator.

Layers draw their weights with NumPy (`layers.fan_in_uniform`), so most of the time would go into deriving the keys: one
per tensor, hundreds per network, each with the rounds of a random generator that XLA compiles at every start, because
programs that call back to Python are never cached. The keys of this PRNG implementation are derived by two integer
operations, which XLA folds to constants; NumPy's SeedSequence does the mixing.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

Tree = Any

_FACTOR = np.uint32(0x9E3779B1)  # odd, so that different keys stay different
_FIRST = 1  # XLA does not fold operations on a constant that begins with 0


def draw(init: Callable[[jax.Array], Tree], seed: int) -> Tree:
    """Returns `init(key)` as NumPy arrays.

    Args:
      init: function of a key; jitted, so that computations its result does not need are skipped.
      seed: seed of the key, from 0 to 2^31 - 1.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        # The key is a constant of the program; otherwise XLA could not fold the operations on it.
        return jax.device_get(jax.jit(lambda: init(jax.random.key(seed, impl=_IMPL)))())


def _seed(seed: jax.Array) -> jax.Array:
    return jnp.stack([jnp.uint32(_FIRST), seed.astype(jnp.uint32)])


def _fold_in(key: jax.Array, data: jax.Array | int) -> jax.Array:
    return jnp.stack([key[0] * _FACTOR + key[1], jnp.asarray(data, jnp.uint32)])


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    return jax.vmap(lambda number: _fold_in(key, number))(numbers).reshape(*shape, 2)


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    mixing = jax.random.wrap_key_data(key, impl="threefry2x32")
    return jax.random.bits(mixing, shape, f"uint{bit_width}")


_IMPL = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_random_bits, fold_in=_fold_in, name="initial_weights"
)
