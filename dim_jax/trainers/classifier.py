"""Trains a classifier on a prepared dataset, then evaluates its best checkpoint on validation and test images."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import evaluate, files, loop, losses, metrics, parallel, workdir
from dim_jax.data import dataset as datasets
from dim_jax.data.batches import TrainingPlan
from dim_jax.data.sampler import Sampler, make_sampler
from dim_jax.data.tf_pipeline import TfImages
from dim_jax.models import make_classifier
from dim_jax.optimizers import make_optimizer, make_schedule
from dim_jax.prepare import prepare
from dim_jax.state import TrainState
from dim_jax.steps.classifier import Constants, make_train_step

PREPARED = "data"
BEST_METRICS = ("macro_f1", "accuracy", "balanced_accuracy", "g_mean", "mcc", "macro_auroc")

log = logging.getLogger(__name__)


def train(config: dict[str, Any], run: Path, dry_run: bool = False) -> None:
    """Runs the whole classifier job in the run directory `run`, going on where an earlier call stopped.

    Args:
      config: as configs/classifier.py makes it.
      run: run directory.
      dry_run: print data and options, and write nothing.

    Raises:
      FileNotFoundError, ValueError: the configuration or the data make no sense.
      FloatingPointError: training diverged.
    """
    parallel.enable_compilation_cache()
    _check_options(config)
    workdir.check_config(run, config)
    source = Path(config["data"]["path"])
    is_raw = not (source / "manifest.json").is_file()
    if dry_run:
        if is_raw:
            print(f"{source} is not prepared yet: it would first be prepared into {run / PREPARED}")
        else:
            _describe(config, *_open_data(config, source))
        return
    with workdir.claim(run):
        if is_raw:
            log.info("%s is not prepared yet; preparing it into %s", source, run / PREPARED)
            source = prepare(
                config["data"]["path"],
                run / PREPARED,
                image_size=config["data"]["image_size"],
                scale=config["data"]["phantom_scale"] if config["data"]["path"] == "phantom" else 1.0,
            )
        data, sampler = _open_data(config, source)
        _describe(config, data, sampler)
        task, schedule, predictor = make_task(config, data, sampler)
        if not (run / workdir.CONFIG).is_file():
            datasets.save(data, source, run)
            workdir.write_start(run, config, [str(device) for device in jax.devices()])
        with workdir.logging_to(run):
            _run(config, run, data, task, schedule, predictor)


def _run(
    config: dict[str, Any],
    run: Path,
    data: datasets.Dataset,
    task: loop.Task,
    schedule: loop.Schedule,
    predictor: evaluate.Predictor,
) -> None:
    """Trains, evaluates the best checkpoint and writes the report."""
    options = config["train"]
    log.info("training on %s", ", ".join(str(device) for device in jax.devices()))
    best = loop.fit(
        task, schedule, run, keep_checkpoints=options["keep_checkpoints"], tensorboard=options["tensorboard"]
    )
    log.info("best validation %s %.4f at step %d", best["metric"], best["value"], best["step"])
    for split in ("val", "test"):
        if len(data.rows(split)):
            found = evaluate.evaluate(run, split, predictor=predictor)
            log.info("evaluated %s: macro_f1 %.4f, g_mean %.4f", split, found["macro_f1"], found["g_mean"])
            print(evaluate.summary(found))
    # The page needs matplotlib; nothing before it does.
    from dim_jax import report

    print(f"report: {report.write([run])}")


def make_task(
    config: dict[str, Any], data: datasets.Dataset, sampler: Sampler
) -> tuple[loop.Task, loop.Schedule, evaluate.Predictor]:
    """Builds what the loop needs from a configuration: model, loss, optimizer, steps, batches and evaluation."""
    options, optimizer_options = config["train"], config["optimizer"]
    batch_size = options["global_batch_size"]
    parallel.check_batch_size("config.train.global_batch_size", batch_size)
    steps_per_epoch = sampler.epoch_size / batch_size
    schedule = loop.Schedule.in_dispatches(
        options["steps_per_dispatch"],
        num_train_steps=options["num_epochs"] * steps_per_epoch,
        eval_every=options["eval_every_epochs"] * steps_per_epoch,
        checkpoint_every=options["checkpoint_every_epochs"] * steps_per_epoch,
    )
    learning_rate = make_schedule(
        optimizer_options["schedule"],
        optimizer_options["learning_rate"],
        num_train_steps=schedule.num_train_steps,
        warmup_steps=round(optimizer_options["warmup_epochs"] * steps_per_epoch),
        decay_steps=round(optimizer_options["decay_epochs"] * steps_per_epoch),
        decay_rate=optimizer_options["decay_rate"],
    )
    optimizer = make_optimizer(
        optimizer_options["name"],
        learning_rate,
        weight_decay=optimizer_options["weight_decay"],
        momentum=optimizer_options["momentum"],
        clip_norm=optimizer_options["clip_norm"],
    )
    model = make_classifier(num_classes=len(data.classes), axis_name=parallel.AXIS, **config["model"])
    loss = losses.LOSSES[config["loss"]["name"]]
    loss_parameters = losses.hyper_parameters(config["loss"]["name"], config["loss"])
    class_counts = sampler.class_counts(data.labels, len(data.classes))
    mean, std = data.channel_statistics()
    constants = Constants(jax.random.key(config["seed"]), mean, std, class_counts, loss_parameters)
    dispatch = parallel.pmap_train_step(
        make_train_step(model, loss, optimizer, learning_rate, axis_name=parallel.AXIS, **config["augment"])
    )
    images = TfImages(data, config["data"]["image_size"], config["data"]["resize"], config["data"]["cache_gib"])
    predictor = evaluate.Predictor(model, data, images, options["eval_batch_size"])

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        plan = TrainingPlan(sampler, start, schedule.num_train_steps, jax.process_index(), jax.process_count())
        stream = images.batches(plan)
        for _ in range(start, schedule.num_train_steps, schedule.steps_per_dispatch):
            yield parallel.shard_steps([next(stream) for _ in range(schedule.steps_per_dispatch)])

    @jax.jit
    def whole_split_loss(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        return loss(logits, labels, mask, class_counts, lambda x: x, **loss_parameters)

    def validate(state: TrainState) -> dict[str, float]:
        found = predictor(state.variables, data.rows("val"))
        per_example = whole_split_loss(found.logits, found.label, np.ones(len(found.label), np.float32))
        values = metrics.classification_metrics(found.label, found.logits, data.classes)
        return {"loss": float(per_example.mean()), **metrics.scalars(values)}

    task = loop.Task(
        state=_initial_state(model, optimizer, config["seed"], config["data"]["image_size"]),
        dispatch=lambda state, batches: dispatch(state, batches, constants),
        batches=batches,
        evaluate=validate,
        best_metric=options["best_metric"],
        images_per_step=batch_size,
        steps_per_epoch=steps_per_epoch,
    )
    return task, schedule, predictor


def _initial_state(model: Any, optimizer: Any, seed: int, image_size: int) -> TrainState:
    """Draws the initial parameters on the CPU, so that they do not depend on the accelerator."""

    @jax.jit
    def init(key: jax.Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, image_size, image_size, 3)))
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], optimizer.init(params))

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        # Keys of this kind compile in a third of the time of the default ones; only the layers' names are folded in.
        return jax.device_get(init(jax.random.key(seed, impl="unsafe_rbg")))


def _open_data(config: dict[str, Any], source: Path) -> tuple[datasets.Dataset, Sampler]:
    options = config["data"]
    data = datasets.open_dataset(source, options["fold"], options["generated"], options["generated_count"])
    sampler = make_sampler(
        data,
        seed=config["seed"],
        global_batch_size=config["train"]["global_batch_size"],
        class_balanced=options["class_balanced"],
        generated_weight=options["generated_weight"],
    )
    return data, sampler


def _check_options(config: dict[str, Any]) -> None:
    """Raises ValueError for options that can be judged without the data."""
    if not config["data"]["path"]:
        raise ValueError("config.data.path is empty; give a prepared dataset, a folder of class folders, or phantom")
    if config["data"]["path"] != "phantom" and not Path(config["data"]["path"]).is_dir():
        raise FileNotFoundError(f"config.data.path={config['data']['path']}: no such folder")
    if config["data"]["backend"] != "tf":
        raise ValueError(f"config.data.backend={config['data']['backend']!r} is not a backend; choose tf")
    if config["train"]["best_metric"] not in BEST_METRICS:
        raise ValueError(
            f"config.train.best_metric={config['train']['best_metric']!r} cannot choose a checkpoint; use one of "
            f"{', '.join(BEST_METRICS)}"
        )
    losses.hyper_parameters(config["loss"]["name"], config["loss"])
    make_classifier(num_classes=2, **config["model"])
    make_optimizer(config["optimizer"]["name"], config["optimizer"]["learning_rate"])


def _describe(config: dict[str, Any], data: datasets.Dataset, sampler: Sampler) -> None:
    """Prints the data and the options before any work starts."""
    print(datasets.training_summary(data, sampler.class_counts(data.labels, len(data.classes))))
    steps = config["train"]["num_epochs"] * sampler.epoch_size / sampler.global_batch_size
    print(f"{sampler.epoch_size} draws per epoch, batches of {sampler.global_batch_size}, about {steps:.0f} steps")
    for name, value in workdir.flatten(files.to_json(config)).items():
        print(f"  {name} = {value!r}")
