"""Run directories from published checkpoints, to evaluate, predict, generate or continue training."""

import logging
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
from dim_jax.interop.export_record import ExportRecord
from dim_jax.interop.published_files import CLASSIFIER, DISCRIMINATOR, GENERATOR, OptimizerState, PublishedCheckpoint
from dim_jax.models import HEAD, make_classifier, make_gan
from dim_jax.models.layers import Linear
from dim_jax.runs import workdir
from dim_jax.training import checkpoints, loop
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.state import AveragedTrainState, GanState, NetworkState, TrainState
from dim_jax.weights import gcgan_names, torch_names

CLASSES = ("normal", "polyp", "low_grade_in", "high_grade_in", "adenocarcinoma")
IMAGE_SIZE = 299
RESIZE = "squash"
MEAN, STD = (0.5203, 0.3638, 0.6511), (0.2339, 0.2535, 0.1455)

Tree = Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportOptions:
    """Facts about a checkpoint: from the command line, the record of an export, or as published.

    Attributes:
      source: path of the file, for messages.
      classes: names of the classifier's outputs, in order; for a GAN, the one class that it generates.
      data: folder of prepared data, or "" for none.
      image_size: side of the classifier's images in px.
      resize: how images are made square (data.images.resize).
      mean, std: per-channel statistics that its images in [0, 1] are normalised by.
      config: full configuration to continue training with, or None.
      reset_head: initialise a new head for `classes` and start a new optimizer.
      record: of an export, None if the file has none.
      assumed: names of the attributes that are assumed as published because they are not recorded.
    """

    source: str
    classes: tuple[str, ...] = CLASSES
    data: str = ""
    image_size: int = IMAGE_SIZE
    resize: str = RESIZE
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    config: dict[str, Any] | None = None
    reset_head: bool = False
    record: ExportRecord | None = None
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunContents:
    """Contents of a run directory.

    Attributes:
      config: contents of config.json.
      dataset: dataset of the run, or None.
      states: checkpoint folder -> (step, state).
    """

    config: dict[str, Any]
    dataset: datasets.Dataset | None
    states: dict[str, tuple[int, Tree]]


def build_classifier_run(checkpoint: PublishedCheckpoint, options: ImportOptions) -> RunContents:
    """Builds the run of an LRF-CNN.

    Raises:
      FileNotFoundError: the data do not exist.
      ValueError: the network, its classes, the data and the configuration do not fit together.
    """
    network, source = checkpoint.networks[CLASSIFIER], options.source
    fields = torch_names.lrf_cnn_fields(network.tensors)
    outputs, depthwise = fields.pop("num_classes"), fields.pop("depthwise")
    published = {"name": "light_lrf_cnn" if depthwise else "lrf_cnn", "width": 1.0, "dtype": "float32", **fields}
    published |= options.record.network if options.record else {}
    model_options = (options.config or {}).get("model", published)
    if not options.reset_head and outputs != len(options.classes):
        raise ValueError(
            f"{source} has {outputs} output classes, not the {len(options.classes)} of {', '.join(options.classes)}; "
            "name its own in order with --classes, or give it a new head for yours with --reset-head"
        )
    model: Any = make_classifier(num_classes=outputs, **model_options)
    names = torch_names.lrf_cnn_names(model)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    _check_fit(source, network.tensors, jax.eval_shape(model.init, jax.random.key(0), image), names, torch_names)
    variables = torch_names.to_flax(network.tensors, names)
    if options.reset_head:
        variables["params"][HEAD] = _new_head(variables["params"][HEAD], len(options.classes))
    dataset = _open_data(options)
    config = options.config or {
        "trainer": "classifier",
        "data": {
            "path": options.data, "fold": dataset.fold if dataset else 0, "backend": "tf",
            "image_size": options.image_size, "resize": options.resize, "mean": options.mean, "std": options.std,
            "cache_gib": 4.0,
        },
        "model": published,
        "train": {"eval_batch_size": 64, "global_batch_size": 8},
        **({"augment": options.record.augment} if options.record and options.record.augment else {}),
    }  # fmt: skip
    if dataset is None:
        config["classes"] = options.classes
    states: dict[str, tuple[int, Tree]] = {} if options.reset_head else {loop.BEST: (network.step, variables)}
    if options.config:
        settings = config["optimizer"]
        optimizer = make_optimizer(
            settings["name"],
            optax.constant_schedule(settings["learning_rate"]),
            weight_decay=settings["weight_decay"],
            momentum=settings["momentum"],
            clip_norm=settings["clip_norm"],
        )
        saved = None if options.reset_head else network.optimizer
        step = _first_step(source, saved, config)
        opt_state = _optimizer_state(
            source, saved, settings["name"], optimizer, variables["params"], names, torch_names
        )
        state = TrainState(np.int32(step), **variables, opt_state=opt_state)  # type: ignore[arg-type]
        if options.config["train"]["ema_decay"]:
            state = AveragedTrainState.starting_from(state)
        states[loop.CHECKPOINTS] = step, state
    return RunContents(config, dataset, states)


def build_gan_run(checkpoint: PublishedCheckpoint, options: ImportOptions) -> RunContents:
    """Builds the run of a GCGAN for one class; without a configuration to train with, a generator is enough.

    Raises:
      FileNotFoundError: the data do not exist.
      ValueError: the networks, the class, the data and the configuration do not fit together.
    """
    source = options.source
    if GENERATOR not in checkpoint.networks:
        raise ValueError(f"{source} holds a discriminator and no generator; give a file that has both")
    if len(options.classes) != 1:
        raise ValueError(f"{source} is a GAN; name the one class that it generates with --label=NAME")
    fields = gcgan_names.gcgan_fields(checkpoint.networks[GENERATOR].tensors)
    size = options.config["data"]["image_size"] if options.config else fields["size"]
    published = {name: value for name, value in fields.items() if name != "size"} | {"dtype": "float32"}
    published |= options.record.network if options.record else {}
    model_options = (options.config or {}).get("model", published)
    try:
        models: dict[str, Any] = dict(zip((GENERATOR, DISCRIMINATOR), make_gan(size, 0, **model_options), strict=True))
        name_maps: Any = (gcgan_names.generator_names, gcgan_names.discriminator_names)
        names = {kind: name_map(models[kind]) for kind, name_map in zip(models, name_maps, strict=True)}
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    variables = {}
    for kind, network in checkpoint.networks.items():
        _check_fit(source, network.tensors, _gan_shapes(kind, models), names[kind], gcgan_names)
        variables[kind] = gcgan_names.to_flax(network.tensors, names[kind])
    params = variables[GENERATOR]["params"]
    average_names = {name: names[GENERATOR][name] for name in checkpoint.average}
    ema_params = gcgan_names.to_flax(checkpoint.average, average_names)["params"] if average_names else params
    dataset = _open_data(options)
    statistics = options.record.statistics if options.record else "batch"
    config = options.config or {
        "trainer": "gan",
        "data": {
            "path": options.data, "fold": dataset.fold if dataset else 0, "image_size": size, "resize": options.resize,
        },
        "gan": {"label": options.classes[0], "conditional": False, "statistics": statistics},
        "model": published,
    }  # fmt: skip
    generator = checkpoint.networks[GENERATOR]
    if options.config is None:
        step = generator.step
        state = {**variables, "ema_params": ema_params}
        return RunContents(config, dataset, {loop.CHECKPOINTS: (step, state)})
    if DISCRIMINATOR not in checkpoint.networks:
        raise ValueError(f"{source} holds no discriminator, so it cannot be trained further; leave out --config")
    step = _first_step(source, generator.optimizer, config)
    name = config["optimizer"]["name"]
    optimizer = make_optimizer(name, config["optimizer"]["learning_rate"])
    networks = {}
    for kind, network in checkpoint.networks.items():
        params = variables[kind]["params"]
        opt_state = _optimizer_state(source, network.optimizer, name, optimizer, params, names[kind], gcgan_names)
        networks[kind] = NetworkState(**variables[kind], opt_state=opt_state)
    probability: Any = np.float32(0.0 if config["augment"]["adaptive_target"] else 1.0)
    host_step: Any = np.int32(step)
    state = GanState(host_step, **networks, ema_params=ema_params, augment_probability=probability)
    return RunContents(config, dataset, {loop.CHECKPOINTS: (step, state)})


def write_run(run: Path, contents: RunContents, facts: Mapping[str, str]) -> None:
    """Writes a run directory.

    Args:
      run: folder to write, empty or missing.
      contents: from `build_classifier_run` or `build_gan_run`.
      facts: further entries of environment.json.
    """
    run.mkdir(parents=True, exist_ok=True)
    checkpoints.check_folder(run)
    for folder, (step, state) in contents.states.items():
        checkpoints.save(run / folder, step, state, {"best": None}, keep=1)
    if contents.dataset is not None:
        datasets.save(contents.dataset, contents.config["data"]["path"], run)
    workdir.write_start(run, contents.config, [str(device) for device in jax.devices()], facts)


def _open_data(options: ImportOptions) -> datasets.Dataset | None:
    """Opens the data with the classes in the order of the network's outputs.

    Raises:
      FileNotFoundError: the data do not exist.
      ValueError: the classes of the data do not fit the network.
    """
    if not options.data:
        return None
    is_gan = len(options.classes) == 1
    dataset = _fold_of_record(datasets.open_dataset(options.data, _fold(options)), options, is_gan)
    unknown = sorted(set(dataset.classes) - set(options.classes))
    if is_gan and options.classes[0] not in dataset.classes:
        raise ValueError(f"{options.data} has no class {options.classes[0]!r}, only {', '.join(dataset.classes)}")
    if is_gan:
        return dataset
    if unknown:
        raise ValueError(
            f"{options.data} has images of {', '.join(unknown)}, but the outputs of {options.source} are "
            f"{', '.join(options.classes)}; rename its outputs with --classes, or prepare the data under those names"
        )
    if "classes" in options.assumed and dataset.classes != options.classes:
        raise ValueError(
            f"{options.source} does not record the order of its outputs; {options.data} has "
            f"{', '.join(dataset.classes)}, published is {', '.join(options.classes)}; give the order of the outputs "
            f"with --classes, for example --classes={','.join(dataset.classes)}"
        )
    if options.config and dataset.classes != options.classes:
        raise ValueError(
            f"{options.data} has the classes {', '.join(dataset.classes)} in another order than the outputs of "
            f"{options.source}; to train further, prepare the data with --classes={','.join(options.classes)}"
        )
    return replace(dataset, manifest=replace(dataset.manifest, classes=options.classes))


def _fold(options: ImportOptions) -> int:
    return options.config["data"]["fold"] if options.config else 0


def _fold_of_record(dataset: datasets.Dataset, options: ImportOptions, is_gan: bool) -> datasets.Dataset:
    """Returns the dataset with the fold that an export was trained on; with a configuration, its fold must be that.

    Raises:
      ValueError: a GAN was trained on another split, so that its images must not be used with this one.
    """
    split = options.record.split_sha256 if options.record else ""
    if not split or (options.config and dataset.split_sha256 == split):
        return dataset
    matching = None if options.config else dataset.fold_of_split(split)
    if matching is not None:
        return matching
    message = f"{options.source} was trained on another split than those of {options.data}"
    if is_gan:
        raise ValueError(f"{message}; give the data that it was trained on, or leave out --data")
    log.warning("%s: images to test it on may have been among its training images", message)
    return dataset


def _check_fit(
    source: str,
    tensors: Mapping[str, np.ndarray],
    expected: Tree,
    names: Mapping[str, torch_names.Path],
    layout: Any,
) -> None:
    """Raises ValueError unless names and shapes of the tensors are those of the network.

    Args:
      source: path of the file, for messages.
      tensors: PyTorch name -> array.
      expected: shapes of the network's variables.
      names: PyTorch name -> Flax path.
      layout: module whose `to_torch` converts them to PyTorch's layout.
    """
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), expected)
    shapes = {name: value.shape for name, value in layout.to_torch(empty, names).items()}
    for name in sorted(shapes.keys() | tensors.keys()):
        shape = tensors[name].shape if name in tensors else "missing"
        if shape != shapes.get(name):
            raise ValueError(
                f"{source} is of another network: {name} is {shape}, expected {shapes.get(name, 'no such tensor')}; "
                "give a checkpoint of the published architecture, or the configuration of its own with --config"
            )


def _gan_shapes(kind: str, models: Mapping[str, nn.Module]) -> Tree:
    """Returns the shapes of the variables of a GAN's generator or discriminator."""

    def init_both(key: jax.Array) -> tuple[Tree, Tree]:
        generator, discriminator = models[GENERATOR], models[DISCRIMINATOR]
        images, generator_variables = generator.init_with_output(key, jnp.zeros((1, generator.latent_size)), True)
        return generator_variables, discriminator.init(key, *images, 0, True, method=discriminator.reconstruct)

    return dict(zip((GENERATOR, DISCRIMINATOR), jax.eval_shape(init_both, jax.random.key(0)), strict=True))[kind]


def _new_head(head: Mapping[str, np.ndarray], num_classes: int) -> Tree:
    """Returns new parameters of a head with as many input features as `head`."""
    features = jnp.zeros((1, len(head["kernel"])))
    return jax.device_get(Linear(num_classes).init(jax.random.key(0), features)["params"])


def _first_step(source: str, saved: OptimizerState | None, config: Mapping[str, Any]) -> int:
    """Returns the step from which training continues: 0 without a saved optimizer.

    Raises:
      ValueError: it is within a dispatch.
    """
    step, dispatch = saved.step if saved else 0, config["train"]["steps_per_dispatch"]
    if step % dispatch:
        raise ValueError(
            f"{source} was saved at step {step}, which is not a multiple of config.train.steps_per_dispatch={dispatch}"
            f"; give --config.train.steps_per_dispatch={math.gcd(step, dispatch)}"
        )
    return step


def _optimizer_state(
    source: str,
    saved: OptimizerState | None,
    name: str,
    optimizer: optax.GradientTransformation,
    params: Tree,
    names: Mapping[str, torch_names.Path],
    layout: Any,
) -> Tree:
    """Returns the state of the optimizer `name` with the moments and the step of the file, if it has any.

    Raises:
      ValueError: the file's optimizer is not `name`.
    """
    state = jax.device_get(optimizer.init(params))
    if saved is None:
        return state
    if saved.name != name:
        raise ValueError(
            f"{source} was trained with {saved.name}, not {name}; give --config.optimizer.name={saved.name}"
        )
    moments = {
        moment: layout.to_flax(values, {parameter: names[parameter] for parameter in values})["params"]
        for moment, values in saved.moments.items()
    }
    state = optax.tree_utils.tree_set(state, **moments)
    counts = {"count": np.int32(saved.step)} if optax.tree_utils.tree_get_all_with_path(state, "count") else {}
    return optax.tree_utils.tree_set(state, **counts)
