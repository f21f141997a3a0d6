"""Trains a classifier on a prepared dataset, then evaluates its best checkpoint on validation and test images."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dim_jax.augmentation import mixing
from dim_jax.cli.command_line import say
from dim_jax.data import dataset as datasets
from dim_jax.data.sampler import Sampler, SwitchedSampler, make_sampler
from dim_jax.evaluation import frozen_networks, metrics, split_evaluation
from dim_jax.evaluation.predictor import Predictions, Predictor, make_predictor, views_of
from dim_jax.gan import pools
from dim_jax.losses import deferred
from dim_jax.models import HEAD
from dim_jax.runs import files
from dim_jax.runs.configuration import parse_config
from dim_jax.runs.schema import ClassifierConfig
from dim_jax.steps.classifier import Constants
from dim_jax.trainers import classifier_step, head_first, initial_run, job
from dim_jax.training import checkpoints, hosts, initial_weights, loop, parallel
from dim_jax.training.learning_rates import LearningRate
from dim_jax.training.state import AveragedTrainState, TrainState
from dim_jax.weights import pretrained

log = logging.getLogger(__name__)


def train(
    config: Mapping[str, Any] | ClassifierConfig,
    run: Path,
    dry_run: bool = False,
    describe: bool = True,
    profile: int = 0,
) -> None:
    """Trains and evaluates a classifier in the run directory `run`; see `job.run_job`.

    Args:
      config: configuration from configs/classifier.py, parsed or not.
    """
    classifier_job = job.Job(open_data, _num_train_steps, make_task, _finish)
    job.run_job(classifier_job, parse_config(config), run, dry_run, describe, profile)


def _finish(config: ClassifierConfig, run: Path, predictor: Predictor) -> None:
    """Evaluates the best checkpoint."""
    predictor = predictor.with_views(views_of(config, run))  # compiled once for both splits
    for split in ("val", "test"):
        if len(predictor.dataset.rows(split)):
            values = split_evaluation.evaluate_split(run, split, predictor=predictor)
            log.info("evaluated %s: macro_f1 %.4f, g_mean %.4f", split, values["macro_f1"], values["g_mean"])
            say(split_evaluation.summary(values))


def _num_train_steps(config: ClassifierConfig, sampler: Sampler) -> float:
    return config.train.num_epochs * sampler.epoch_size / sampler.global_batch_size


def make_task(
    config: ClassifierConfig, run: Path, data: datasets.Dataset, sampler: Sampler
) -> tuple[loop.Task, loop.LoopSchedule, Predictor]:
    """Builds the task of the training loop from a configuration: model, loss, optimizer, steps and evaluation."""
    options = config.train
    batch_size = options.global_batch_size
    parallel.check_batch_size("config.train.global_batch_size", batch_size)
    steps_per_epoch = sampler.epoch_size / batch_size
    schedule = loop.LoopSchedule.in_dispatches(
        options.steps_per_dispatch,
        num_train_steps=_num_train_steps(config, sampler),
        eval_every=options.eval_every_epochs * steps_per_epoch,
        checkpoint_every=options.checkpoint_every_epochs * steps_per_epoch,
    )
    # On all hosts at the same time, before anything that may fail on one of them.
    earlier = _initial_run(config, run, data)
    optimizer = classifier_step.make_optimizer(config)
    partners = _partner_sampler(config, data)
    loss, loss_parameters, class_counts = _objective(config, data, sampler, partners)
    predictor = make_predictor(config, data)
    mean, std = predictor.statistics

    def program(learning_rate: LearningRate, **phase: Any) -> head_first.Dispatch:
        """Returns a dispatch that is compiled at its first call."""
        constants = Constants(jax.random.key(config.seed), mean, std, class_counts, loss_parameters, learning_rate)
        dispatch = parallel.pmap_train_step(classifier_step.make_step(config, len(data.classes), **phase))
        return lambda state, batches: dispatch(state, batches, constants, predictor.pixels)

    num_train_steps = schedule.num_train_steps
    num_head_steps = _num_head_steps(config, num_train_steps)
    num_other_steps = num_train_steps - num_head_steps
    rate = classifier_step.make_learning_rate(config, num_other_steps, steps_per_epoch)
    dispatch = program(rate, first_step=num_head_steps)
    if num_head_steps:
        head_rate = classifier_step.make_learning_rate(config, num_head_steps, steps_per_epoch)
        head_alone = program(head_rate, trained_module=HEAD, steps_after=num_other_steps)
        restart = parallel.jit_replicated(lambda state: state.replace(opt_state=optimizer(rate).init(state.params)))
        dispatch = head_first.head_first(head_alone, dispatch, restart, num_head_steps)

    # A loss that depends on `progress` is evaluated as at the end of the run, so that evaluations are comparable.
    @jax.jit
    def whole_split_loss(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        return loss(logits, labels, mask, class_counts, lambda x: x, **loss_parameters)

    def validate(state: TrainState) -> dict[str, float]:
        predictions = predictor(state.variables, data.rows("val"))
        # Computed on host 0 only, so that all hosts agree on the best checkpoint.
        return hosts.on_first_host(lambda: score(predictions))

    def score(predictions: Predictions) -> dict[str, float]:
        per_example = whole_split_loss(
            predictions.logits, predictions.label, np.ones(len(predictions.label), np.float32)
        )
        values = metrics.classification_metrics(predictions.label, predictions.logits, data.classes)
        return {"loss": float(per_example.mean()), **metrics.scalars(values)}

    initial_state = classifier_step.initializer(config, len(data.classes), predictor.images.shape)
    state, facts = initial_weights.draw(initial_state, config.seed), {}
    if config.data.backend == "features":
        facts["features"] = predictor.images.space
    if _treats_head_apart(config):
        head_first.check_parts(state.params, HEAD, config.model.name)
    if options.initial_weights == "imagenet":
        variables, facts["initial weights"] = pretrained.with_imagenet_weights(config.model.name, state.variables)
        state = state.replace(**variables)
    elif earlier is not None:
        weights, facts["initial weights"] = earlier
        state = state.replace(**initial_run.with_weights(state.variables, weights, HEAD, options.initial_weights))
    if options.ema_decay:
        state = AveragedTrainState.starting_from(state)
    task = loop.Task(
        state=state,
        dispatch=dispatch,
        batches=partial(
            job.training_batches,
            predictor.images,
            _with_deferred_sampling(config, data, sampler, num_train_steps),
            schedule,
            partners=partners,
        ),
        evaluate=validate,
        best_metric=options.best_metric,
        images_per_step=batch_size,
        steps_per_epoch=steps_per_epoch,
        facts=facts,
    )
    return task, schedule, predictor


def _num_head_steps(config: ClassifierConfig, num_train_steps: int) -> int:
    """Returns how many steps train the head alone, in whole dispatches."""
    per_dispatch = config.train.steps_per_dispatch
    dispatches = config.train.head_only_share * num_train_steps / per_dispatch
    return per_dispatch * max(round(dispatches), 1) if dispatches else 0


def _objective(
    config: ClassifierConfig, data: datasets.Dataset, sampler: Sampler, partners: Sampler | None
) -> tuple[Callable[..., jax.Array], dict[str, float], np.ndarray]:
    """Returns the loss, its hyper-parameters, and the examples of each class per epoch, float32 (C,)."""
    augment = config.augment
    loss, parameters = classifier_step.make_loss(config)
    class_counts = sampler.class_counts(data.labels, len(data.classes))
    if partners is not None and augment.mixing == "balanced_mixup":
        of_partners = partners.class_counts(data.labels, len(data.classes))
        class_counts += mixing.balanced_share(augment.mixing_alpha) * (of_partners - class_counts)
    return loss, parameters, class_counts


def _initial_run(config: ClassifierConfig, run: Path, data: datasets.Dataset) -> tuple[dict[str, Any], str] | None:
    """Returns the variables and a description of the run to start from; None if there is none, or no need any more."""
    source = config.train.initial_weights
    if source in ("random", "imagenet"):
        return None
    # A run that resumes does not need the earlier one, which may be gone.
    folders = (run / loop.CHECKPOINTS, run / loop.BEST)
    return hosts.on_first_host(lambda: None if any(map(checkpoints.steps, folders)) else initial_run.read(source, data))


def _treats_head_apart(config: ClassifierConfig) -> bool:
    is_from_run = config.train.initial_weights not in ("random", "imagenet")
    return bool(config.train.head_only_share) or config.optimizer.backbone_learning_rate_scale != 1 or is_from_run


def check_weights(config: ClassifierConfig) -> None:
    """Raises ValueError if the network needs published weights that are not installed."""
    if config.train.initial_weights == "imagenet":
        pretrained.check_imagenet_weights(config.model.name)
    if config.data.backend == "features":
        frozen_networks.check_weights(config.data.feature_network)


def open_data(config: ClassifierConfig, source: Path) -> tuple[datasets.Dataset, Sampler]:
    """Returns the dataset in the prepared folder `source` with the generated images to add, and its sampler."""
    options = config.data
    data = datasets.open_dataset(
        source,
        options.fold,
        options.generated,
        options.generated_count,
        mean=options.mean,
        std=options.std,
    )
    if options.generated:
        record = pools.marked_images([path for path, _ in data.generated]) | files.read_object(options.generated)
        pools.check_preprocessing(record, options.generated, options)
    return data, _sampler(config, data)


def _sampler(config: ClassifierConfig, data: datasets.Dataset, **options: Any) -> Sampler:
    """Returns the sampler of a configuration with some options of `make_sampler` changed."""
    own = {
        "seed": config.seed,
        "global_batch_size": config.train.global_batch_size,
        "class_balanced": config.data.class_balanced,
        "generated_weight": config.data.generated_weight,
        "epoch_of": config.data.epoch_of,
    }
    return make_sampler(data, **own | options)


def _with_deferred_sampling(
    config: ClassifierConfig, data: datasets.Dataset, sampler: Sampler, num_train_steps: int
) -> Sampler | SwitchedSampler:
    """Returns the sampler of a run that may draw all classes equally often in its last part."""
    if config.train.rebalance != deferred.SAMPLING:
        return sampler
    # The progress of the run in the arithmetic of a training step, so that sampler and loss change at the same step.
    progress = np.arange(num_train_steps, dtype=np.float32) / np.float32(num_train_steps)
    from_step = int(np.count_nonzero(progress < np.float32(config.train.rebalance_from)))
    return SwitchedSampler(sampler, _sampler(config, data, class_balanced=True), from_step)


def _partner_sampler(config: ClassifierConfig, data: datasets.Dataset) -> Sampler | None:
    """Returns the sampler of the examples that others are mixed with, or None where none are mixed."""
    if config.augment.mixing == "none":
        return None
    # Seeds of runs are below 2^31, so no run draws its examples in this order.
    balanced = {"class_balanced": True} if config.augment.mixing == "balanced_mixup" else {}
    return _sampler(config, data, seed=config.seed + 2**31, **balanced)
