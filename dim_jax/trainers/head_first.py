"""Training the head alone before all layers, and the module that is the head."""

from collections.abc import Callable, Collection
from typing import Any

from dim_jax.training import parallel
from dim_jax.training.state import TrainState

Dispatch = Callable[[Any, Any], tuple[Any, Any]]


def head_first(
    head_alone: Dispatch, all_layers: Dispatch, restart: Callable[[Any], Any], num_head_steps: int
) -> Dispatch:
    """Returns a dispatch that trains the head alone up to a step, and all layers from then on.

    The second phase begins with a new state of the optimizer: moments that were not updated would make its first steps
    too long. Which phase a dispatch belongs to follows from the step of the state, so a resumed run does the same.

    Args:
      head_alone, all_layers: (replicated state, sharded batches) -> (replicated state, metrics).
      restart: replicated state -> replicated state with a new state of the optimizer.
      num_head_steps: a multiple of the steps of a dispatch.

    Reference: Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", ICLR
    2022 (linear probing, then fine-tuning).
    """

    def dispatch(state: TrainState, batches: Any) -> tuple[Any, Any]:
        step = int(parallel.unreplicate(state.step))
        if step < num_head_steps:
            return head_alone(state, batches)
        return all_layers(restart(state) if step == num_head_steps else state, batches)

    return dispatch


def check_parts(modules: Collection[str], head: str, model: str) -> None:
    """Raises ValueError unless a model has a head and other modules.

    Args:
      modules: names of the top-level modules with parameters.
      head: name of the head.
      model: name of the model, for the message.
    """
    if head not in modules or len(modules) < 2:
        raise ValueError(
            f"config.model.name={model} has the modules {', '.join(sorted(modules))}; to treat its head apart, by "
            f"config.train.head_only_share, config.optimizer.backbone_learning_rate_scale or initial weights of a run, "
            f"it needs one named {head!r} and others"
        )
