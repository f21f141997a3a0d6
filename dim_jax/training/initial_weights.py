"""Drawing the weights before the first step, on the CPU: they do not depend on the accelerator.

Layers draw by NumPy (models/layers.py: `fan_in_uniform`). What a program would spend its time on is then the keys: one
per tensor, hundreds for a network, each with the rounds of a random generator that XLA compiles anew at every start,
since programs that call NumPy are never cached. The keys here are told apart by two sums, which XLA folds away; the
mixing is left to NumPy's SeedSequence.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

Tree = Any

_FACTOR = np.uint32(0x9E3779B1)  # odd, so that no two keys of a seed become one
_FIRST = 1  # XLA turns a constant that begins with 0 into a sum again


def draw(init: Callable[[jax.Array], Tree], seed: int) -> Tree:
    """Returns `init(key)` as NumPy arrays.

    Args:
      init: can be compiled; what it computes beside its result is left out.
      seed: of the key, from 0 to 2^31 - 1.
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        # The key is a constant of the program, or the sums would stay in it.
        return jax.device_get(jax.jit(lambda: init(jax.random.key(seed, impl=_IMPL)))())


def _seed(seed: jax.Array) -> jax.Array:
    return jnp.stack([jnp.uint32(_FIRST), seed.astype(jnp.uint32)])


def _fold_in(key: jax.Array, data: jax.Array) -> jax.Array:
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
