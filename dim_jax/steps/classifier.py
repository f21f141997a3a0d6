"""Training and evaluation steps of a classifier, on one device's shard of the batch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from dim_jax.augmentation import Augmentation
from dim_jax.augmentation.histology import augment, normalize
from dim_jax.augmentation.mixing import Mixed
from dim_jax.augmentation.views import show_view
from dim_jax.losses import follows_progress
from dim_jax.losses.signature import CrossReplicaSum
from dim_jax.models.kernels.platforms import computed_together
from dim_jax.steps.batch_images import Batch, gather_images, partners
from dim_jax.steps.grad_cam import grad_cam, has_feature_map
from dim_jax.training.joined_updates import global_norm
from dim_jax.training.learning_rates import LearningRate
from dim_jax.training.moving_average import update_average
from dim_jax.training.optimizers import apply_gradient
from dim_jax.training.random_keys import example_keys
from dim_jax.training.state import AveragedTrainState, TrainState


class Constants(flax.struct.PyTreeNode):
    """Traced constants of a run; runs that differ only in these share a compilation.

    Attributes:
      key: random key of the run.
      mean, std: channel statistics of the training images in [0, 1], (3,).
      class_counts: examples of each class that the sampler draws per epoch, (C,).
      loss_parameters: hyper-parameters of the loss by name.
      schedule: learning rate as a function of the step.
    """

    key: jax.Array
    mean: jax.Array
    std: jax.Array
    class_counts: jax.Array
    loss_parameters: dict[str, jax.Array]
    schedule: LearningRate


def make_train_step(
    model: nn.Module,
    loss: Callable[..., jax.Array],
    make_optimizer: Callable[[optax.Schedule], optax.GradientTransformation],
    *,
    axis_name: str | None,
    flip: bool = False,
    rotate: bool = False,
    stain_jitter: float = 0.0,
    function: Augmentation | None = None,
    mixing: Callable[[jax.Array, jax.Array, jax.Array], Mixed] | None = None,
    ema_decay: float = 0.0,
    trained_module: str | None = None,
    first_step: int = 0,
    steps_after: int = 0,
) -> Callable[[TrainState, Batch, Constants, jax.Array | None], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `train_step(state, batch, constants, pixels) -> (state, metrics)`.

    The batch has `label` (B,), `mask` (B,), `row` (B,), the rows in the global batch, and images as in `gather_images`;
    with `mixing` also the labels and images of partners.
    Metrics are scalars of the global batch: loss, accuracy, gradient_norm, learning_rate.

    Args:
      model: returns (logits, features); its `axis_name` must be the same.
      loss: see losses.signature.
      make_optimizer: returns the optimizer for a learning-rate schedule.
      axis_name: mapped device axis, or None outside pmap.
      flip, rotate, stain_jitter, function: see `augmentation.histology.augment`.
      mixing: (key, image, partner) -> mixed image and the partner's share of the label, as augmentation.mixing has
        them; None for no mixing. The loss must take mixed labels.
      ema_decay: of the averages of an AveragedTrainState, in [0, 1).
      trained_module: the top-level module that alone is trained, the others being in inference mode; None for all.
      first_step: step at which the schedule of the learning rate and the state of the optimizer begin.
      steps_after: steps of the run after the end of that schedule.
    """
    cross_replica_sum: CrossReplicaSum = lambda x: x if axis_name is None else lax.psum(x, axis_name)  # noqa: E731

    augmented = partial(augment, flip=flip, rotate=rotate, stain_jitter=stain_jitter, function=function)

    def train_step(
        state: TrainState, batch: Batch, constants: Constants, pixels: jax.Array | None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        row_keys = example_keys(constants.key, state.step, batch["row"])
        keys = jax.vmap(lambda key: jax.random.split(key))(row_keys)
        images, labels, mask = augmented(keys[:, 0], gather_images(batch, pixels)), batch["label"], batch["mask"]
        if mixing is not None:
            partner = partners(batch)
            # `split` above made the keys 0 and 1.
            mixing_keys, partner_keys = (jax.vmap(jax.random.fold_in, (0, None))(row_keys, number) for number in (2, 3))
            partner_images = augmented(partner_keys, gather_images(partner, pixels))
            images, partner_shares = jax.vmap(mixing)(mixing_keys, images, partner_images)
        images = normalize(images, constants.mean, constants.std)
        num_examples = cross_replica_sum(mask.sum())
        loss_parameters = dict(constants.loss_parameters)
        if follows_progress(loss):
            num_train_steps = first_step + constants.schedule.num_train_steps + steps_after
            loss_parameters["progress"] = state.step / num_train_steps

        def of_labels(value: Callable[[jax.Array], jax.Array]) -> jax.Array:
            """Returns a per-example value that depends on the label; of mixed examples the mean over both labels."""
            values = value(labels)
            return values if mixing is None else values + partner_shares * (value(partner["label"]) - values)

        def local_loss(trained: Any) -> tuple[jax.Array, Any]:
            # This device's term of the masked mean: the sum over devices is the loss, also for gradients.
            variables = {"params": {**state.params, **trained}, "batch_stats": state.batch_stats}
            if trained_module is None:
                (logits, _), updates = model.apply(variables, images, True, keys[:, 1], mutable=["batch_stats"])
            else:
                (logits, _), updates = model.apply(variables, images), {"batch_stats": state.batch_stats}
            per_example = of_labels(
                lambda labels: loss(logits, labels, mask, constants.class_counts, cross_replica_sum, **loss_parameters)
            )
            batch_stats = computed_together(updates.get("batch_stats", {}), state.step)
            return (per_example * mask).sum() / num_examples, (logits, batch_stats)

        trained = state.params if trained_module is None else {trained_module: state.params[trained_module]}
        (device_loss, (logits, batch_stats)), local_gradient = jax.value_and_grad(local_loss, has_aux=True)(trained)
        gradient: Any = cross_replica_sum(local_gradient)
        if trained_module is not None:
            gradient = {**jax.tree.map(jnp.zeros_like, state.params), **gradient}
        optimizer = make_optimizer(constants.schedule)
        params, opt_state = apply_gradient(optimizer, gradient, state.opt_state, state.params, state.step)
        if trained_module is not None:  # weight decay must not change the others either
            params = {**state.params, trained_module: params[trained_module]}
        correct = of_labels(lambda labels: (logits.argmax(-1) == labels) * mask).sum()
        metrics = {
            "loss": cross_replica_sum(device_loss),
            "accuracy": cross_replica_sum(correct) / num_examples,
            "gradient_norm": global_norm(gradient),
            "learning_rate": jnp.asarray(constants.schedule(state.step - first_step), jnp.float32),
        }
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if isinstance(state, AveragedTrainState):
            averages, weights = (state.ema_params, state.ema_batch_stats), (state.params, state.batch_stats)
            averages = computed_together(update_average(averages, weights, ema_decay, state.step), state.step)
            state = state.replace(ema_params=averages[0], ema_batch_stats=averages[1])
        return state, metrics

    return train_step


def make_eval_step(
    model: nn.Module,
) -> Callable[[Mapping, Batch, tuple, jax.Array | None], tuple[jax.Array, jax.Array, jax.Array | None]]:
    """Returns `eval_step(variables, batch, (mean, std), pixels) -> (logits, features, maps)`.

    The model runs in inference mode on images without augmentation. The batch has images as in `gather_images`,
    `explained` (B,), the class that the Grad-CAM map is for, as in `grad_cam`, and, to show the model mirrored or
    turned images, `view` (B,), as in `augmentation.views`. `maps` is None for a model without feature map.
    """

    def eval_step(
        variables: Mapping, batch: Batch, statistics: tuple, pixels: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        images = gather_images(batch, pixels)
        if "view" in batch:
            images = show_view(images, batch["view"])
        images = normalize(images, *statistics)
        if not has_feature_map(model):
            return *model.apply(variables, images), None
        return grad_cam(model, variables, images, batch["explained"])

    return eval_step
