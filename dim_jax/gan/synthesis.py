"""Image synthesis with a trained GAN: one reproducible image per seed, independent of the other seeds."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from dim_jax.models.batch_norm import BatchNorm
from dim_jax.models.gcgan_blocks import draw_noise

# Seeds are computed in fixed groups of this size: other batch shapes would round differently.
GROUP = 8
# Random streams: the latents of the batch statistics are never those of an image.
_STATISTICS_STREAM, _IMAGE_STREAM = 0, 1
_STATISTICS_GROUPS = 64


@dataclass(frozen=True)
class Synthesizer:
    """A generator with fixed weights.

    Attributes:
      generator: a module with the interface of models.gcgan.Generator.
      variables: its `params`, `batch_stats` and `spectral`.
      statistics: "recalibrated" normalises by the stored batch statistics; "batch", as in the published code, by those
        of the image's group, so that an image also depends on the other seeds of its group.
      label_strength: scale of the label-dependent parts of a conditional generator, in [0, 1].
    """

    generator: nn.Module
    variables: dict[str, Any]
    statistics: str = "recalibrated"
    label_strength: float = 1.0

    def images(self, seeds: Sequence[int], label: int | None = None, truncation: float = 1.0) -> np.ndarray:
        """Generates one image per seed.

        Args:
          seeds: N integers, from 0 to 2**31 - 1.
          label: index of the class, for a conditional generator.
          truncation: scale of the latents, above 0; below 1 images vary less and have fewer artefacts.

        Returns:
          (N, S, S, 3) uint8.

        Raises:
          ValueError: a seed or `truncation` is out of range.
        """
        if not truncation > 0:
            raise ValueError(f"truncation={truncation} must be above 0")
        arguments = (label or 0, float(truncation), self.label_strength)

        def compute(members: jax.Array) -> jax.Array:
            return _generate_group(self.generator, self.statistics, self.variables, members, *arguments)

        return images_by_group(seeds, compute, self.generator.size)

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 of the generator's parameters."""
        return parameters_sha256(self.variables["params"])


def images_by_group(seeds: Sequence[int], compute: Callable[[jax.Array], jax.Array], side: int) -> np.ndarray:
    """Returns the images of seeds, each computed at its place in its group.

    Args:
      seeds: N integers, from 0 to 2**31 - 1.
      compute: the seeds of a group (GROUP,) -> their images (GROUP, side, side, 3) uint8.
      side: of the images, in px.

    Returns:
      (N, side, side, 3) uint8.

    Raises:
      ValueError: a seed is out of range.
    """
    seeds = np.asarray(seeds, np.int64)
    if len(seeds) and not (seeds.min() >= 0 and seeds.max() < 2**31):
        raise ValueError(f"seeds from {seeds.min()} to {seeds.max()} must be from 0 to 2**31 - 1")
    groups, indices = np.divmod(seeds, GROUP)
    by_group = {
        group: np.asarray(compute(jnp.arange(group * GROUP, (group + 1) * GROUP)))
        for group in np.unique(groups).tolist()
    }
    images = [by_group[group][index] for group, index in zip(groups.tolist(), indices.tolist(), strict=True)]
    return np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8)


def parameters_sha256(params: Any) -> str:
    """Returns the SHA-256 of the names and values of parameters."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).tobytes())
    return digest.hexdigest()


def image_keys(seeds: jax.Array) -> jax.Array:
    """Returns the random keys (N,) of the images of seeds (N,)."""
    return _keys(_IMAGE_STREAM, seeds)


def _keys(stream: int, seeds: jax.Array) -> jax.Array:
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(stream), seed))(seeds)


def recalibrate(generator: nn.Module, variables: dict[str, Any], label_strength: float = 1.0) -> dict[str, Any]:
    """Recomputes the batch statistics of averaged parameters over 512 latents.

    A moving average of parameters has no batch statistics of its own. The statistics of groups of images are averaged,
    and the variance of the groups' means is added to the averaged variance.

    Args:
      generator: see Synthesizer.
      variables: averaged `params`, and the `batch_stats` and `spectral` of the generator in training; of `batch_stats`
        only the shapes are used, `spectral` is the start of the power iteration for the averaged weights.
      label_strength: see Synthesizer.

    Returns:
      `variables` with recomputed `batch_stats` and `spectral`, in host memory.
    """
    return jax.device_get(_recalibrate(generator, variables, label_strength))


@partial(jax.jit, static_argnums=0)
def _recalibrate(generator: nn.Module, variables: dict[str, Any], label_strength: float) -> dict[str, Any]:
    zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

    def group_statistics(spectral: Any, group: jax.Array) -> tuple[Any, Any]:
        seeds = group * GROUP + jnp.arange(GROUP)
        latents, noise_keys = _latents(generator, _STATISTICS_STREAM, seeds)
        labels = seeds % generator.num_classes if generator.num_classes else None
        inputs = {"params": variables["params"], "batch_stats": zeros, "spectral": spectral}
        arguments = (latents, True, labels, noise_keys, label_strength)
        _, updated = generator.apply(inputs, *arguments, mutable=["batch_stats", "spectral"])
        # Starting from zero, the moving average after one pass is this fraction of the statistics of that pass.
        fraction = 1 - BatchNorm.momentum
        return updated["spectral"], jax.tree.map(lambda average: average / fraction, updated["batch_stats"])

    spectral, statistics = jax.lax.scan(group_statistics, variables["spectral"], jnp.arange(_STATISTICS_GROUPS))
    flat = flatten_dict(statistics)
    batch_stats = {path: values.mean(0) for path, values in flat.items()}
    for path in flat:
        if path[-1] == "var":
            batch_stats[path] += flat[(*path[:-1], "mean")].var(0)
    return {"params": variables["params"], "batch_stats": unflatten_dict(batch_stats), "spectral": spectral}


def variable_shapes(generator: nn.Module) -> dict[str, Any]:
    """Returns the shapes and dtypes of a generator's variables, by collection."""
    labels = jnp.zeros(1, jnp.int32) if generator.num_classes else None
    return jax.eval_shape(
        lambda key: generator.init(key, jnp.zeros((1, generator.latent_size)), True, labels), jax.random.key(0)
    )


def _latents(generator: nn.Module, stream: int, seeds: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns latents (N, latent_size) and the random keys of the injected noise (N,) of seeds (N,)."""
    keys = _keys(stream, seeds)
    latent_keys, noise_keys = jnp.split(jax.vmap(jax.random.split)(keys), 2, axis=1)
    latents = jax.vmap(lambda key: jax.random.normal(key, (generator.latent_size,)))(latent_keys[:, 0])
    return latents, noise_keys[:, 0]


def inputs_of_seeds(generator: nn.Module, seeds: Sequence[int]) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Returns what the images of N seeds are generated from.

    Returns:
      latents (N, latent_size) and, by layer, the injected noise (N, side, side, 1) (gcgan.Generator.noise_sides); all
      are normal, float32.
    """
    latents, keys = _latents(generator, _IMAGE_STREAM, jnp.asarray(seeds))
    noise = {layer: draw_noise(keys, layer, side) for layer, side in generator.noise_sides.items()}
    return jax.device_get((latents, noise))


def to_pixels(images: jax.Array) -> jax.Array:
    """Converts images in about [-1, 1] to uint8."""
    return jnp.round((jnp.clip(images, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


@partial(jax.jit, static_argnums=(0, 1))
def _generate_group(
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
    return to_pixels(images)
