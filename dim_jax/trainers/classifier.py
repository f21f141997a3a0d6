"""Trains a classifier on a prepared dataset, then evaluates its best checkpoint on validation and test images."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax import losses
from dim_jax.cli.command_line import say
from dim_jax.data import dataset as datasets
from dim_jax.data.sampler import Sampler, make_sampler
from dim_jax.evaluation import metrics, split_evaluation
from dim_jax.evaluation.predictor import Predictions, Predictor, make_predictor
from dim_jax.models import make_classifier
from dim_jax.models.efficientnet_lite import PIXEL_MEAN, PIXEL_STD
from dim_jax.runs import configuration
from dim_jax.steps.classifier import Constants, make_train_step
from dim_jax.trainers import job
from dim_jax.training import hosts, initial_weights, loop, parallel
from dim_jax.training.learning_rates import make_learning_rate
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.state import TrainState
from dim_jax.weights import pretrained

BEST_METRICS = ("macro_f1", "accuracy", "balanced_accuracy", "g_mean", "mcc", "macro_auroc")
INITIAL_WEIGHTS = ("random", "imagenet")

log = logging.getLogger(__name__)


def train(config: dict[str, Any], run: Path, dry_run: bool = False, describe: bool = True, profile: int = 0) -> None:
    """Runs the whole classifier job in the run directory `run`, as job.carry_out says.

    Args:
      config: as configs/classifier.py makes it.
    """
    check_options(config)
    job.carry_out(job.Job(open_data, _num_train_steps, make_task, _finish), config, run, dry_run, describe, profile)


def _finish(config: dict[str, Any], run: Path, predictor: Predictor) -> None:
    """Evaluates the best checkpoint."""
    for split in ("val", "test"):
        if len(predictor.dataset.rows(split)):
            found = split_evaluation.evaluate_split(run, split, predictor=predictor)
            log.info("evaluated %s: macro_f1 %.4f, g_mean %.4f", split, found["macro_f1"], found["g_mean"])
            say(split_evaluation.summary(found))


def _num_train_steps(config: dict[str, Any], sampler: Sampler) -> float:
    return config["train"]["num_epochs"] * sampler.epoch_size / sampler.global_batch_size


def make_task(
    config: dict[str, Any], run: Path, data: datasets.Dataset, sampler: Sampler
) -> tuple[loop.Task, loop.LoopSchedule, Predictor]:
    """Builds what the loop needs from a configuration: model, loss, optimizer, steps, batches and evaluation."""
    options, optimizer_options = config["train"], config["optimizer"]
    batch_size = options["global_batch_size"]
    parallel.check_batch_size("config.train.global_batch_size", batch_size)
    steps_per_epoch = sampler.epoch_size / batch_size
    schedule = loop.LoopSchedule.in_dispatches(
        options["steps_per_dispatch"],
        num_train_steps=_num_train_steps(config, sampler),
        eval_every=options["eval_every_epochs"] * steps_per_epoch,
        checkpoint_every=options["checkpoint_every_epochs"] * steps_per_epoch,
    )
    learning_rate = make_learning_rate(
        optimizer_options["schedule"],
        job.learning_rate(config),
        num_train_steps=schedule.num_train_steps,
        warmup_steps=round(optimizer_options["warmup_epochs"] * steps_per_epoch),
        decay_steps=round(optimizer_options["decay_epochs"] * steps_per_epoch),
        decay_rate=optimizer_options["decay_rate"],
    )
    optimizer = partial(
        make_optimizer,
        optimizer_options["name"],
        weight_decay=optimizer_options["weight_decay"],
        momentum=optimizer_options["momentum"],
        clip_norm=optimizer_options["clip_norm"],
    )
    model = make_classifier(num_classes=len(data.classes), axis_name=parallel.AXIS, **config["model"])
    loss = losses.LOSSES[config["loss"]["name"]]
    loss_parameters = losses.hyper_parameters(config["loss"]["name"], config["loss"])
    class_counts = sampler.class_counts(data.labels, len(data.classes))
    predictor = make_predictor(config, data)
    mean, std = predictor.statistics
    constants = Constants(jax.random.key(config["seed"]), mean, std, class_counts, loss_parameters, learning_rate)
    dispatch = parallel.pmap_train_step(
        make_train_step(model, loss, optimizer, axis_name=parallel.AXIS, **config["augment"])
    )

    # A loss that follows the run's progress is taken at its end, so that one evaluation compares with the next.
    @jax.jit
    def whole_split_loss(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        return loss(logits, labels, mask, class_counts, lambda x: x, **loss_parameters)

    def validate(state: TrainState) -> dict[str, float]:
        found = predictor(state.variables, data.rows("val"))
        # Host 0 judges for all, so that they cannot take different checkpoints for the best.
        return hosts.on_first_host(lambda: judge(found))

    def judge(found: Predictions) -> dict[str, float]:
        per_example = whole_split_loss(found.logits, found.label, np.ones(len(found.label), np.float32))
        values = metrics.classification_metrics(found.label, found.logits, data.classes)
        return {"loss": float(per_example.mean()), **metrics.scalars(values)}

    state, facts = _initial_state(model, optimizer(learning_rate), config["seed"], predictor.images.shape), {}
    if config["data"]["backend"] == "features":
        facts["features"] = predictor.images.space
    if options["initial_weights"] == "imagenet":
        variables, facts["initial weights"] = pretrained.with_imagenet_weights(state.variables)
        state = state.replace(**variables)
    task = loop.Task(
        state=state,
        dispatch=lambda state, batches: dispatch(state, batches, constants, predictor.pixels),
        batches=partial(job.training_batches, predictor.images, sampler, schedule),
        evaluate=validate,
        best_metric=options["best_metric"],
        images_per_step=batch_size,
        steps_per_epoch=steps_per_epoch,
        facts=facts,
    )
    return task, schedule, predictor


def _initial_state(model: Any, optimizer: Any, seed: int, shape: tuple[int, ...]) -> TrainState:
    """Draws the state before the first step, of a model of images or features of that shape."""

    def init(key: jax.Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, *shape)))
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables.get("batch_stats", {}), optimizer.init(params))

    return initial_weights.draw(init, seed)


def open_data(config: dict[str, Any], source: Path) -> tuple[datasets.Dataset, Sampler]:
    """Returns the dataset in the prepared folder `source` with the generated images to add, and its sampler."""
    options = config["data"]
    data = datasets.open_dataset(
        source,
        options["fold"],
        options["generated"],
        options["generated_count"],
        mean=options["mean"],
        std=options["std"],
    )
    sampler = make_sampler(
        data,
        seed=config["seed"],
        global_batch_size=config["train"]["global_batch_size"],
        class_balanced=options["class_balanced"],
        generated_weight=options["generated_weight"],
    )
    return data, sampler


def check_options(config: dict[str, Any]) -> None:
    """Raises ValueError for options that can be judged without the data."""
    configuration.check(config)
    if config["train"]["best_metric"] not in BEST_METRICS:
        raise ValueError(
            f"config.train.best_metric={config['train']['best_metric']!r} cannot choose a checkpoint; use one of "
            f"{', '.join(BEST_METRICS)}"
        )
    losses.hyper_parameters(config["loss"]["name"], config["loss"])
    make_classifier(num_classes=2, **config["model"])
    make_optimizer(config["optimizer"]["name"], job.learning_rate(config))
    _check_initial_weights(config)
    _check_features(config)


def _check_features(config: dict[str, Any]) -> None:
    data = config["data"]
    if (data["backend"] == "features") != (config["model"]["name"] == "linear"):
        raise ValueError(
            f"config.model.name={config['model']['name']} and config.data.backend={data['backend']} do not fit: "
            "linear takes features, every other model images; --config=configs/classifier.py:linear sets both"
        )
    of_images = [f"config.augment.{name}" for name, value in config["augment"].items() if value]
    of_images += [f"config.data.{name}" for name in ("mean", "std") if data[name]]
    if data["backend"] == "features" and of_images:
        raise ValueError(f"{of_images[0]} changes images, and config.data.backend=features has none; leave it unset")


def _check_initial_weights(config: dict[str, Any]) -> None:
    weights, data = config["train"]["initial_weights"], config["data"]
    if weights not in INITIAL_WEIGHTS:
        raise ValueError(f"config.train.initial_weights={weights!r}: choose {' or '.join(INITIAL_WEIGHTS)}")
    given = (*data["mean"], *data["std"])
    if weights == "imagenet" and not (len(given) == 6 and np.allclose(given, PIXEL_MEAN + PIXEL_STD, atol=1e-4)):
        raise ValueError(
            f"config.train.initial_weights=imagenet needs config.data.mean={PIXEL_MEAN} and .std={PIXEL_STD}, by which "
            "those weights were trained; --config=configs/classifier.py:finetune sets them"
        )
