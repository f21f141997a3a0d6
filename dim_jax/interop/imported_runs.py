"""Run directories made of published checkpoints: to evaluate, to predict and draw with, and to go on training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dim_jax.data import dataset as datasets
from dim_jax.interop.published_files import CLASSIFIER, DISCRIMINATOR, GENERATOR, OptimizerState, PublishedCheckpoint
from dim_jax.models import make_classifier, make_gan
from dim_jax.models.layers import Linear
from dim_jax.runs import workdir
from dim_jax.training import checkpoints, loop
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.state import GanState, NetworkState, TrainState
from dim_jax.weights import gcgan_names, torch_names

CLASSES = ("normal", "polyp", "low_grade_in", "high_grade_in", "adenocarcinoma")
IMAGE_SIZE = 299
MEAN, STD = (0.5203, 0.3638, 0.6511), (0.2339, 0.2535, 0.1455)
HEAD = "head"

Tree = Any


@dataclass(frozen=True)
class Wanted:
    """What a file does not tell, from the command line.

    Attributes:
      source: the file, to name it in errors.
      classes: what the outputs stand for, in order; of a GAN, the class that it draws.
      data: prepared dataset, or "" for none.
      image_size: side of the classifier's images in px.
      mean, std: what its images are normalised by.
      config: a whole configuration to go on training with, or None.
      reset_head: draw a new head for `classes` and start a new optimizer.
    """

    source: str
    classes: tuple[str, ...] = CLASSES
    data: str = ""
    image_size: int = IMAGE_SIZE
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    config: dict[str, Any] | None = None
    reset_head: bool = False


@dataclass(frozen=True)
class Contents:
    """What goes into a run directory.

    Attributes:
      config: config.json.
      dataset: the images, or None.
      states: folder of checkpoints -> (step, state).
    """

    config: dict[str, Any]
    dataset: datasets.Dataset | None
    states: dict[str, tuple[int, Tree]]


def classifier(saved: PublishedCheckpoint, wanted: Wanted) -> Contents:
    """Returns the run of an LRF-CNN.

    Raises:
      FileNotFoundError, ValueError: the network, its classes, the data and the configuration do not fit together.
    """
    network, source = saved.networks[CLASSIFIER], wanted.source
    fields = torch_names.lrf_cnn_fields(network.tensors)
    outputs, depthwise = fields.pop("num_classes"), fields.pop("depthwise")
    found = {"name": "light_lrf_cnn" if depthwise else "lrf_cnn", "width": 1.0, "dtype": "float32", **fields}
    options = (wanted.config or {}).get("model", found)
    if not wanted.reset_head and outputs != len(wanted.classes):
        raise ValueError(
            f"{source} ends in {outputs} classes, not the {len(wanted.classes)} of {', '.join(wanted.classes)}; name "
            "its own in their order with --classes, or give it a new head for yours with --reset-head"
        )
    model = make_classifier(num_classes=outputs, **options)
    names = torch_names.lrf_cnn_names(model)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    _check_fit(source, network.tensors, jax.eval_shape(model.init, jax.random.key(0), image), names, torch_names)
    variables = torch_names.to_flax(network.tensors, names)
    if wanted.reset_head:
        variables["params"][HEAD] = _new_head(variables["params"][HEAD], len(wanted.classes))
    dataset = _open_data(wanted)
    config = wanted.config or {
        "trainer": "classifier",
        "data": {
            "path": wanted.data, "fold": 0, "backend": "tf", "image_size": wanted.image_size, "resize": "squash",
            "mean": wanted.mean, "std": wanted.std, "cache_gib": 4.0,
        },
        "model": found,
        "train": {"eval_batch_size": 64, "global_batch_size": 8},
    }  # fmt: skip
    if dataset is None:
        config["classes"] = wanted.classes
    states = {} if wanted.reset_head else {loop.BEST: (network.step, variables)}
    if wanted.config:
        options = config["optimizer"]
        optimizer = make_optimizer(
            options["name"],
            optax.constant_schedule(options["learning_rate"]),
            weight_decay=options["weight_decay"],
            momentum=options["momentum"],
            clip_norm=options["clip_norm"],
        )
        kept = None if wanted.reset_head else network.optimizer
        step = _first_step(source, kept, config)
        opt_state = _optimizer_state(source, kept, options["name"], optimizer, variables["params"], names, torch_names)
        states[loop.CHECKPOINTS] = step, TrainState(np.int32(step), **variables, opt_state=opt_state)
    return Contents(config, dataset, states)


def gan(saved: PublishedCheckpoint, wanted: Wanted) -> Contents:
    """Returns the run of a GCGAN for one class; its discriminator may be missing where it only draws.

    Raises:
      FileNotFoundError, ValueError: the networks, the class, the data and the configuration do not fit together.
    """
    source = wanted.source
    if GENERATOR not in saved.networks:
        raise ValueError(f"{source} holds a discriminator and no generator; give a file that has both")
    if len(wanted.classes) != 1:
        raise ValueError(f"{source} is a GAN; name the one class that it draws with --classes=NAME")
    fields = gcgan_names.gcgan_fields(saved.networks[GENERATOR].tensors)
    size = wanted.config["data"]["image_size"] if wanted.config else fields["size"]
    found = {name: value for name, value in fields.items() if name != "size"} | {"dtype": "float32"}
    options = (wanted.config or {}).get("model", found)
    try:
        models = dict(zip((GENERATOR, DISCRIMINATOR), make_gan(size, 0, **options), strict=True))
        makers = (gcgan_names.generator_names, gcgan_names.discriminator_names)
        names = {kind: make(models[kind]) for kind, make in zip(models, makers, strict=True)}
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    variables = {}
    for kind, network in saved.networks.items():
        _check_fit(source, network.tensors, _gan_shapes(kind, models), names[kind], gcgan_names)
        variables[kind] = gcgan_names.to_flax(network.tensors, names[kind])
    learned = variables[GENERATOR]["params"]
    averaged = {name: names[GENERATOR][name] for name in saved.average}
    ema_params = gcgan_names.to_flax(saved.average, averaged)["params"] if averaged else learned
    config = wanted.config or {
        "trainer": "gan",
        "data": {"path": wanted.data, "fold": 0, "image_size": size, "resize": "squash"},
        "gan": {"label": wanted.classes[0], "conditional": False, "statistics": "batch"},
        "model": found,
    }
    generator = saved.networks[GENERATOR]
    if wanted.config is None:
        step = generator.step
        state = {**variables, "ema_params": ema_params}
        return Contents(config, _open_data(wanted), {loop.CHECKPOINTS: (step, state)})
    if DISCRIMINATOR not in saved.networks:
        raise ValueError(f"{source} holds no discriminator, so it cannot be trained further; leave out --config")
    step = _first_step(source, generator.optimizer, config)
    name = config["optimizer"]["name"]
    optimizer = make_optimizer(name, config["optimizer"]["learning_rate"])
    networks = {}
    for kind, network in saved.networks.items():
        params = variables[kind]["params"]
        opt_state = _optimizer_state(source, network.optimizer, name, optimizer, params, names[kind], gcgan_names)
        networks[kind] = NetworkState(**variables[kind], opt_state=opt_state)
    probability = np.float32(0.0 if config["augment"]["adaptive_target"] else 1.0)
    state = GanState(np.int32(step), **networks, ema_params=ema_params, augment_probability=probability)
    return Contents(config, _open_data(wanted), {loop.CHECKPOINTS: (step, state)})


def write(run: Path, contents: Contents, facts: Mapping[str, str]) -> None:
    """Writes a run directory.

    Args:
      run: where there is none yet.
      contents: of `classifier` or `gan`.
      facts: what to say of its origin in environment.json, by name.
    """
    run.mkdir(parents=True, exist_ok=True)
    for folder, (step, state) in contents.states.items():
        checkpoints.save(run / folder, step, state, {"best": None}, keep=1)
    if contents.dataset is not None:
        datasets.save(contents.dataset, contents.config["data"]["path"], run)
    workdir.write_start(run, contents.config, [str(device) for device in jax.devices()], facts)


def _open_data(wanted: Wanted) -> datasets.Dataset | None:
    """Opens the data with the classes in the order of the network's outputs."""
    if not wanted.data:
        return None
    dataset = datasets.open_dataset(wanted.data, wanted.config["data"]["fold"] if wanted.config else 0)
    unknown = sorted(set(dataset.classes) - set(wanted.classes))
    is_gan = len(wanted.classes) == 1
    if is_gan and wanted.classes[0] not in dataset.classes:
        raise ValueError(f"{wanted.data} has no class {wanted.classes[0]!r}, only {', '.join(dataset.classes)}")
    if is_gan:
        return dataset
    if unknown:
        raise ValueError(
            f"{wanted.data} has images of {', '.join(unknown)}, which {wanted.source} does not know: its outputs are "
            f"{', '.join(wanted.classes)}; rename its outputs with --classes, or prepare the data under those names"
        )
    if wanted.config and dataset.classes != wanted.classes:
        raise ValueError(
            f"{wanted.data} has the classes {', '.join(dataset.classes)} in another order than the outputs of "
            f"{wanted.source}; to train further, prepare the data with --classes={','.join(wanted.classes)}"
        )
    return replace(dataset, manifest=replace(dataset.manifest, classes=wanted.classes))


def _check_fit(
    source: str,
    tensors: Mapping[str, np.ndarray],
    expected: Tree,
    names: Mapping[str, torch_names.Path],
    layout: Any,
) -> None:
    """Raises ValueError unless the tensors are those of the network, by name and shape.

    Args:
      expected: shapes of the network's variables.
      layout: module whose `to_torch` gives them in PyTorch's layout.
    """
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), expected)
    shapes = {name: value.shape for name, value in layout.to_torch(empty, names).items()}
    for name in sorted(shapes.keys() | tensors.keys()):
        there = tensors[name].shape if name in tensors else "missing"
        if there != shapes.get(name):
            raise ValueError(
                f"{source} is of another network: {name} is {there} there and {shapes.get(name, 'unknown')} here; give "
                "a checkpoint of the published architecture, or with --config the configuration of its own"
            )


def _gan_shapes(kind: str, models: Mapping[str, nn.Module]) -> Tree:
    """Returns the shapes of a GAN's variables."""

    def everything(key: jax.Array) -> tuple[Tree, Tree]:
        generator, discriminator = models[GENERATOR], models[DISCRIMINATOR]
        images, drawing = generator.init_with_output(key, jnp.zeros((1, generator.latent_size)), True)
        judging = discriminator.init(key, *images, 0, True, method=discriminator.reconstruct)
        return drawing, judging

    return dict(zip((GENERATOR, DISCRIMINATOR), jax.eval_shape(everything, jax.random.key(0)), strict=True))[kind]


def _new_head(head: Mapping[str, np.ndarray], num_classes: int) -> Tree:
    features = jnp.zeros((1, len(head["kernel"])))
    return jax.device_get(Linear(num_classes).init(jax.random.key(0), features)["params"])


def _first_step(source: str, kept: OptimizerState | None, config: Mapping[str, Any]) -> int:
    """Returns the step from which training goes on: 0 where no optimizer was saved.

    Raises:
      ValueError: it lies within a dispatch.
    """
    step, dispatch = kept.step if kept else 0, config["train"]["steps_per_dispatch"]
    if step % dispatch:
        raise ValueError(
            f"{source} was saved at step {step}, which is no multiple of config.train.steps_per_dispatch={dispatch}; "
            f"give --config.train.steps_per_dispatch={math.gcd(step, dispatch)}"
        )
    return step


def _optimizer_state(
    source: str,
    kept: OptimizerState | None,
    name: str,
    optimizer: optax.GradientTransformation,
    params: Tree,
    names: Mapping[str, torch_names.Path],
    layout: Any,
) -> Tree:
    """Returns the state of `optimizer`, which is called `name`, with the moments and the step of the file.

    Raises:
      ValueError: the file's optimizer is another one.
    """
    state = jax.device_get(optimizer.init(params))
    if kept is None:
        return state
    if kept.name != name:
        raise ValueError(f"{source} was trained with {kept.name}, not {name}; give --config.optimizer.name={kept.name}")
    moments = {
        moment: layout.to_flax(values, {parameter: names[parameter] for parameter in values})["params"]
        for moment, values in kept.moments.items()
    }
    state = optax.tree_utils.tree_set(state, **moments)
    counts = {"count": np.int32(kept.step)} if optax.tree_utils.tree_get_all_with_path(state, "count") else {}
    return optax.tree_utils.tree_set(state, **counts)
