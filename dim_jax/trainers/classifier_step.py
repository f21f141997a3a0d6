"""From a classifier's configuration to its training step: network, loss, optimizer and initial state."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dim_jax import losses
from dim_jax.augmentation import get_function, mixing
from dim_jax.losses import deferred
from dim_jax.models import HEAD, make_classifier
from dim_jax.runs.schema import ClassifierConfig
from dim_jax.steps.classifier import make_train_step
from dim_jax.trainers import job
from dim_jax.training import learning_rates, optimizers, parallel
from dim_jax.training.learning_rates import LearningRate
from dim_jax.training.state import TrainState


def make_step(config: ClassifierConfig, num_classes: int, **phase: Any) -> Callable[..., Any]:
    """Returns the training step of a configuration, for `parallel.pmap_train_step`.

    Args:
      num_classes: number of classes of the data.
      phase: arguments of `steps.classifier.make_train_step` that differ between the phases of a run.
    """
    augment = config.augment
    mix = None if augment.mixing == "none" else partial(mixing.METHODS[augment.mixing], alpha=augment.mixing_alpha)
    return make_train_step(
        _make_model(config, num_classes),
        make_loss(config)[0],
        make_optimizer(config),
        axis_name=parallel.AXIS,
        flip=augment.flip,
        rotate=augment.rotate,
        stain_jitter=augment.stain_jitter,
        function=get_function(augment.function) if augment.function else None,
        mixing=mix,
        ema_decay=config.train.ema_decay,
        **phase,
    )


def _make_model(config: ClassifierConfig, num_classes: int) -> Any:
    return make_classifier(config.model.name, num_classes, axis_name=parallel.AXIS, **config.model.options)


def make_loss(config: ClassifierConfig) -> tuple[Callable[..., jax.Array], dict[str, float]]:
    """Returns the loss of a configuration and its hyper-parameters."""
    options = config.train
    loss = losses.get_loss(config.loss.name)
    parameters = losses.hyper_parameters(config.loss.name, config.loss.options)
    if options.rebalance != "none":
        loss = deferred.rebalanced(loss, options.rebalance)
        parameters |= {"rebalance_from": options.rebalance_from, "rebalance_tau": options.rebalance_tau}
    return loss, parameters


def make_optimizer(config: ClassifierConfig) -> Callable[[optax.Schedule], optax.GradientTransformation]:
    """Returns the optimizer of a configuration as a function of the learning rate."""
    options = config.optimizer

    def optimizer(learning_rate: optax.Schedule) -> optax.GradientTransformation:
        transformation = optimizers.make_optimizer(
            options.name,
            learning_rate,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
            clip_norm=options.clip_norm,
        )
        scale = options.backbone_learning_rate_scale
        return transformation if scale == 1 else optimizers.scale_other_modules(transformation, HEAD, scale)

    return optimizer


def make_learning_rate(config: ClassifierConfig, num_train_steps: int, steps_per_epoch: float) -> LearningRate:
    """Returns the schedule of a run, or of a phase of it, of `num_train_steps`."""
    options = config.optimizer
    return learning_rates.make_learning_rate(
        options.schedule,
        job.learning_rate(config),
        num_train_steps=num_train_steps,
        warmup_steps=round(options.warmup_epochs * steps_per_epoch),
        decay_steps=round(options.decay_epochs * steps_per_epoch),
        decay_rate=options.decay_rate,
    )


def initializer(
    config: ClassifierConfig, num_classes: int, shape: tuple[int, ...]
) -> Callable[[jax.Array], TrainState]:
    """Returns `init(key)`, the state before the first step.

    Args:
      num_classes: number of classes of the data.
      shape: of one input of the network, an image or a feature vector.
    """
    model = _make_model(config, num_classes)
    # The state of the optimizer does not depend on the rate.
    optimizer = make_optimizer(config)(lambda step: jnp.zeros(()))

    def init(key: jax.Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, *shape)))
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables.get("batch_stats", {}), optimizer.init(params))

    return init
