"""Drawing images from a trained generator: one image per seed, with the same bytes whatever is drawn beside it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dim_jax.models.batch_norm import BatchNorm

# An image is always computed in the same place of the same group of seeds: other shapes of a batch round differently.
GROUP = 8
# Latents for the batch statistics come from seeds that no image is drawn from.
_STATISTICS_STREAM, _IMAGE_STREAM = 0, 1
_STATISTICS_GROUPS = 64
STATISTICS = ("recalibrated", "batch")


@dataclass(frozen=True)
class Synthesizer:
    """A generator with fixed weights.

    Attributes:
      generator: as models.gcgan.Generator.
      variables: its `params`, `batch_stats` and `spectral`.
      statistics: "recalibrated" normalises by the stored batch statistics; "batch", as the published code does, by
        those of the image's group, so that an image depends on the seeds of its group.
      label_strength: how much the label of a conditional generator counts, from 0 to 1.
    """

    generator: nn.Module
    variables: dict[str, Any]
    statistics: str = "recalibrated"
    label_strength: float = 1.0

    def images(self, seeds: Sequence[int], label: int | None = None, truncation: float = 1.0) -> np.ndarray:
        """Draws one image per seed.

        Args:
          seeds: (N,) integers from 0 on.
          label: the class to draw, where the generator is conditional.
          truncation: scales the latents: below 1 images vary less and stray less.

        Returns:
          (N, S, S, 3) uint8.

        Raises:
          ValueError: a seed is negative, or `truncation` is not above 0.
        """
        seeds = np.asarray(seeds, np.int64)
        if len(seeds) and not (seeds.min() >= 0 and seeds.max() < 2**31):
            raise ValueError(f"seeds must be from 0 to 2**31 - 1, found {seeds.min()} to {seeds.max()}")
        if not truncation > 0:
            raise ValueError(f"truncation={truncation} must be above 0")
        groups, places = np.divmod(seeds, GROUP)
        arguments = (label or 0, float(truncation), self.label_strength)
        drawn = {}
        for group in np.unique(groups).tolist():
            members = jnp.arange(group * GROUP, (group + 1) * GROUP)
            drawn[group] = np.asarray(_draw(self.generator, self.statistics, self.variables, members, *arguments))
        side = self.generator.size
        found = [drawn[group][place] for group, place in zip(groups.tolist(), places.tolist(), strict=True)]
        return np.stack(found) if found else np.zeros((0, side, side, 3), np.uint8)

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of the generator's parameters."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables["params"]):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
        return digest.hexdigest()


def recalibrate(generator: nn.Module, variables: dict[str, Any], label_strength: float = 1.0) -> dict[str, Any]:
    """Returns `variables` with the batch statistics that belong to their `params`, over 512 latents.

    A moving average of parameters has no batch statistics of its own. Those of a group of images are averaged over
    many groups, and the spread of the groups' means is added to the variance.

    Args:
      variables: averaged `params`, and the `batch_stats` and `spectral` of the generator in training: of the former
        only the shapes count, the latter are brought to the averaged weights.
      label_strength: as for Synthesizer.
    """
    return jax.device_get(_recalibrate(generator, variables, label_strength))


@partial(jax.jit, static_argnums=0)
def _recalibrate(generator: nn.Module, variables: dict[str, Any], label_strength: float) -> dict[str, Any]:
    empty = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

    def statistics_of(spectral: Any, group: jax.Array) -> tuple[Any, Any]:
        seeds = group * GROUP + jnp.arange(GROUP)
        latents, noise_keys = _latents(generator, _STATISTICS_STREAM, seeds)
        labels = seeds % generator.num_classes if generator.num_classes else None
        given = {"params": variables["params"], "batch_stats": empty, "spectral": spectral}
        arguments = (latents, True, labels, noise_keys, label_strength)
        _, seen = generator.apply(given, *arguments, mutable=["batch_stats", "spectral"])
        # Beside nothing old, what is stored after one pass is this share of the statistics of that pass.
        share = 1 - BatchNorm.momentum
        return seen["spectral"], jax.tree.map(lambda stored: stored / share, seen["batch_stats"])

    spectral, found = jax.lax.scan(statistics_of, variables["spectral"], jnp.arange(_STATISTICS_GROUPS))
    flat = flatten_dict(found)
    batch_stats = {path: values.mean(0) for path, values in flat.items()}
    for path in flat:
        if path[-1] == "var":
            batch_stats[path] += flat[(*path[:-1], "mean")].var(0)
    return {"params": variables["params"], "batch_stats": unflatten_dict(batch_stats), "spectral": spectral}


def variable_shapes(generator: nn.Module) -> dict[str, Any]:
    """Returns the shapes of a generator's variables."""
    labels = jnp.zeros(1, jnp.int32) if generator.num_classes else None
    return jax.eval_shape(
        lambda key: generator.init(key, jnp.zeros((1, generator.latent_size)), True, labels), jax.random.key(0)
    )


def _latents(generator: nn.Module, stream: int, seeds: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns latents (N, latent_size) and the keys of the injected noise (N,)."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(stream), seed))(seeds)
    latent_keys, noise_keys = jnp.split(jax.vmap(jax.random.split)(keys), 2, axis=1)
    latents = jax.vmap(lambda key: jax.random.normal(key, (generator.latent_size,)))(latent_keys[:, 0])
    return latents, noise_keys[:, 0]


@partial(jax.jit, static_argnums=(0, 1))
def _draw(
    generator: nn.Module,
    statistics: str,
    variables: dict[str, Any],
    seeds: jax.Array,
    label: int,
    truncation: float,
    label_strength: float,
) -> jax.Array:
    """Returns the images of a group of seeds, (GROUP, S, S, 3) uint8."""
    latents, noise_keys = _latents(generator, _IMAGE_STREAM, seeds)
    labels = jnp.full(len(seeds), label) if generator.num_classes else None
    arguments = (labels, noise_keys, label_strength)
    if statistics == "batch":
        mutable = ["batch_stats", "spectral"]
        (images, _), _ = generator.apply(variables, truncation * latents, True, *arguments, mutable=mutable)
    else:
        images, _ = generator.apply(variables, truncation * latents, False, *arguments)
    return jnp.round((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
