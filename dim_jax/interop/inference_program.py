"""Trained networks as pure functions from a batch of inputs to outputs, with weights and preprocessing in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.augmentation.histology import normalize
from dim_jax.augmentation.views import IDENTITY, show_all_alike
from dim_jax.evaluation import validation
from dim_jax.evaluation.classifier_run import ClassifierRun
from dim_jax.evaluation.ensembles import Classifier
from dim_jax.gan.gan_run import GanRun
from dim_jax.gan.synthesis import GROUP, to_pixels
from dim_jax.models.prepared_weights import PREPARED, prepare_weights
from dim_jax.steps.grad_cam import PREDICTED, grad_cam, has_feature_map

# Makes the function of a program, with weights in the form for the runtime that it is then traced for.
MakeFunction = Callable[[], Callable[..., tuple[jax.Array, ...]]]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a program.

    Attributes:
      name: its name.
      shape: without the batch axis, which comes first.
      dtype: name of the dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class InferenceProgram:
    """A pure function of one batch.

    Attributes:
      inputs: its arguments, arrays of one batch size.
      outputs: its results.
      make: see MakeFunction; call it and trace the function within models.kernels.platforms.traced_for.
      dtype: name of the dtype that it computes in.
      batch_size: the only batch size that it takes; None for any.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    make: MakeFunction
    dtype: str
    batch_size: int | None = None

    def shapes(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes of the inputs, for tracing; the batch size is a symbol where it may be any."""
        size = jax.export.symbolic_shape("batch")[0] if self.batch_size is None else self.batch_size
        return [jax.ShapeDtypeStruct((size, *tensor.shape), np.dtype(tensor.dtype)) for tensor in self.inputs]


def size_of_input(run: ClassifierRun) -> tuple[int, str]:
    """Returns what distinguishes the inputs of an ensemble's members: side in px, and how images are made square."""
    return run.config.data.image_size, run.config.data.resize


def logit_offsets(adjustment: dict[str, Any] | None, num_classes: int) -> np.ndarray:
    """Returns what is added to the logits before they are divided by the temperature, float64 (C,).

    Args:
      adjustment: record of adjustment.json, or None for no offsets.
      num_classes: number of classes C.
    """
    zeros = np.zeros(num_classes)
    return validation.adjusted(zeros, {**adjustment, "temperature": 1.0}) if adjustment else zeros


def classifier_program(
    classifier: Classifier,
    views: Sequence[tuple[int, ...]],
    adjustment: dict[str, Any] | None,
    temperature: float,
    with_map: bool,
) -> InferenceProgram:
    """Returns the program of a classifier or an ensemble: uint8 images to probabilities.

    The inputs are images (N, S, S, 3) uint8, one for each distinct size and way of resizing among the members. The
    outputs are probabilities (N, C) float32 and, with `with_map`, the Grad-CAM map (N, h, w) in [0, 1] of the predicted
    class (before the adjustment, as in predict).

    Args:
      classifier: the classifier.
      views: of each member (augmentation.views).
      adjustment: record of adjustment.json, or None.
      temperature: divides the logits where there is no adjustment.
      with_map: whether the map is an output.

    Raises:
      ValueError: the classifier has no map.
    """
    members = classifier.members
    if with_map and (classifier.is_ensemble or not has_feature_map(members[0].model)):
        raise ValueError(f"{classifier.workdir} has no Grad-CAM map; drop --grad-cam")
    sizes = list(dict.fromkeys(map(size_of_input, members)))
    names = ["images"] if len(sizes) == 1 else [f"images_{size}_{resize}" for size, resize in sizes]
    num_classes = len(classifier.classes)
    offsets = logit_offsets(adjustment, num_classes)
    temperature = adjustment["temperature"] if adjustment else temperature

    def make() -> Callable[..., tuple[jax.Array, ...]]:
        variables = [_prepared_variables(run) for run in members]

        def predict(*images: jax.Array) -> tuple[jax.Array, ...]:
            by_size = dict(zip(sizes, images, strict=True))
            arguments = zip(members, variables, views, strict=True)
            logits = _mean_logits([
                _mean_logits([_logits(run, weights, by_size[size_of_input(run)], view) for view in member_views])
                for run, weights, member_views in arguments
            ])  # fmt: skip
            shares = jax.nn.softmax((logits + offsets.astype(np.float32)) / np.float32(temperature))
            if not with_map:
                return (shares,)
            is_plain = views[0] == (IDENTITY,)
            explained = jnp.full(images[0].shape[:1], PREDICTED) if is_plain else logits.argmax(-1)
            return shares, grad_cam(members[0].model, variables[0], _normalized(members[0], images[0]), explained)[2]

        return predict

    shape = ()
    if with_map:
        shape = jax.eval_shape(lambda: _map_of_one(members[0])).shape[1:]
    return InferenceProgram(
        tuple(Tensor(name, (size, size, 3), "uint8") for name, (size, _) in zip(names, sizes, strict=True)),
        (
            Tensor("probabilities", (num_classes,), "float32"),
            *([Tensor("grad_cam", shape, "float32")] if with_map else []),
        ),
        make,
        next((dtype for dtype in map(_dtype, members) if dtype != "float32"), "float32"),
    )


def _map_of_one(run: ClassifierRun) -> jax.Array:
    images = jnp.zeros((1, *_shape(run)), jnp.uint8)
    return grad_cam(run.model, run.variables, _normalized(run, images), jnp.full(1, PREDICTED))[2]


def _dtype(run: ClassifierRun) -> str:
    return run.config.model.options.get("dtype", "float32")


def _shape(run: ClassifierRun) -> tuple[int, int, int]:
    return run.config.data.image_size, run.config.data.image_size, 3


def _prepared_variables(run: ClassifierRun) -> dict[str, Any]:
    """Returns the run's variables with prepared weights, in host memory."""
    image = jnp.zeros((1, *_shape(run)))
    prepare = jax.jit(lambda variables: prepare_weights(run.model, variables, image))
    return {**run.variables, **jax.device_get(prepare(run.variables))}


def _normalized(run: ClassifierRun, images: jax.Array) -> jax.Array:
    return normalize(images.astype(jnp.float32) / 255.0, jnp.asarray(run.mean), jnp.asarray(run.std))


def _logits(run: ClassifierRun, variables: dict[str, Any], images: jax.Array, view: int) -> jax.Array:
    return run.model.apply(variables, _normalized(run, show_all_alike(images, view)))[0]


def _mean_logits(logits: list[jax.Array]) -> jax.Array:
    """Logarithms of the mean probabilities, as evaluation.ensembles.mean_logits."""
    if len(logits) == 1:
        return logits[0]
    return jnp.log(jnp.stack([jax.nn.softmax(part) for part in logits]).mean(0))


def generator_program(run: GanRun) -> InferenceProgram:
    """Returns the program of a GAN's generator: normal numbers to uint8 images.

    The inputs are latents (N, latent_size), noise (N, K) where the generator injects noise (the maps of its layers, in
    order and flat) and, for a class-conditional GAN, label (N,) int32. The output is images (N, S, S, 3) uint8. N is
    synthesis.GROUP where images are normalised by the statistics of their group (config.gan.statistics=batch).

    Args:
      run: the GAN.
    """
    synthesizer = run.synthesizer
    generator, strength = synthesizer.generator, synthesizer.label_strength
    uses_batch = synthesizer.statistics == "batch"
    sides = generator.noise_sides
    inputs = [Tensor("latents", (generator.latent_size,), "float32")]
    inputs += [Tensor("noise", (sum(side**2 for side in sides.values()),), "float32")] if sides else []
    inputs += [Tensor("label", (), "int32")] if generator.num_classes else []
    names = [tensor.name for tensor in inputs]

    def make() -> Callable[..., tuple[jax.Array, ...]]:
        def apply(variables: dict[str, Any], inputs: dict[str, jax.Array], mutable: list[str]) -> tuple[Any, Any]:
            noise = _by_layer(inputs["noise"], sides) if sides else None
            return generator.apply(
                variables, inputs["latents"], uses_batch, inputs.get("label"), noise, strength, mutable=mutable
            )

        variables = synthesizer.variables
        if not uses_batch:  # weights that depend on the batch can't be prepared
            one = {tensor.name: jnp.zeros((1, *tensor.shape), tensor.dtype) for tensor in inputs}
            prepare = jax.jit(lambda variables: apply(variables, one, [PREPARED])[1])
            variables = {**variables, **jax.device_get(prepare(variables))}

        def generate(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            updated = ["batch_stats", "spectral"] if uses_batch else []
            (images, _), _ = apply(variables, dict(zip(names, arrays, strict=True)), updated)
            return (to_pixels(images),)

        return generate

    output = Tensor("images", (generator.size, generator.size, 3), "uint8")
    dtype, batch_size = jnp.dtype(generator.dtype).name, GROUP if uses_batch else None
    return InferenceProgram(tuple(inputs), (output,), make, dtype, batch_size)


def _by_layer(noise: jax.Array, sides: dict[int, int]) -> dict[int, jax.Array]:
    """Splits noise (N, K) into the maps (N, side, side, 1) of the layers."""
    ends = np.cumsum([side**2 for side in sides.values()])[:-1]
    parts = jnp.split(noise, ends, axis=1)
    shapes = [(noise.shape[0], side, side, 1) for side in sides.values()]
    return {layer: part.reshape(shape) for layer, part, shape in zip(sides, parts, shapes, strict=True)}
