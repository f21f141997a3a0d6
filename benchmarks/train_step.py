"""Training steps of a classifier per second, ours and PyTorch's, measured in turn on one device."""

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import networks
import paired
from processes import Options, Side

from dim_jax.cli import command_line, huge_pages

SUMMARY = """\
Times training steps of LRF-CNN or EfficientNet-Lite (forward, backward, Adam with L2, batch statistics; no
augmentation), ours through the pmapped and scanned step that `train` runs, PyTorch's through
benchmarks/torch_baseline.py, with the network of the package efficientnet-lite-pytorch. Batches lie on the device
beforehand. Ours also computes accuracy and the gradient's norm at every step, as in training; PyTorch's does not."""
EXAMPLES = """\
  python benchmarks/train_step.py --image-size=64 --width=0.25 --batch-size=16 --json=train_step.json
  python benchmarks/train_step.py --model=efficientnet_lite0 --image-size=160 --batch-size=16 --channels-last
  python benchmarks/train_step.py --dtype=bfloat16 --torch-mode=compiled --channels-last --batch-size=64
"""
LOSSES = ("published_fafl", "cross_entropy")
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 1e-5


def build_ours(options: Options) -> Side:
    """Builds our training step."""
    model, variables, about = networks.ours(options)
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dim_jax import losses
    from dim_jax.steps.classifier import Constants, make_train_step
    from dim_jax.training import learning_rates, optimizers
    from dim_jax.training.state import TrainState

    schedule = learning_rates.make_learning_rate("constant", LEARNING_RATE, num_train_steps=1)
    optimizer = functools.partial(optimizers.make_optimizer, "adam", weight_decay=WEIGHT_DECAY)
    chosen = {"alpha0": 0.5, "beta0": 3.0, "m": 1.0, "adaptive": 1.0, "label_smoothing": 0.0}
    constants = Constants(
        key=jax.random.key(0),
        mean=networks.MEAN,
        std=networks.STD,
        class_counts=np.ones(networks.NUM_CLASSES, np.float32),
        loss_parameters=losses.hyper_parameters(options["loss"], chosen),
        schedule=schedule,
    )

    def step_over(axis_name: str | None) -> Callable:
        loss = losses.LOSSES[options["loss"]]
        return make_train_step(model.clone(axis_name=axis_name), loss, optimizer, axis_name=axis_name)

    params, batch_stats = variables["params"], variables["batch_stats"]
    opt_state = optimizer(schedule).init(params)
    initial = TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state)
    return networks.training_side(options, step_over, initial, constants, None, about)


def build_torch(options: Options) -> Side:
    """Builds PyTorch's training step."""
    model, device, about = networks.theirs(options)
    import torch
    import torch_baseline

    step = torch_baseline.make_train_step(
        model,
        torch.from_numpy(networks.MEAN).to(device),
        torch.from_numpy(networks.STD).to(device),
        loss=options["loss"],
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        bfloat16=options["dtype"] == "bfloat16",
        compiled=options["torch_mode"] == "compiled",
    )
    batches = []
    for seed in range(options["steps_per_dispatch"]):
        images, labels = networks.batch(options, seed)
        batches.append((networks.torch_images(images, options, device), torch.from_numpy(labels).long().to(device)))

    def turn(steps: int) -> None:
        for images, labels in itertools.islice(itertools.cycle(batches), steps):
            step(images, labels)
        if device == "cuda":
            torch.cuda.synchronize()

    return Side(turn, about)


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = networks.parser("train_step", SUMMARY, EXAMPLES)
    parser.add_argument("--loss", choices=LOSSES, default=LOSSES[0], help=f"default {LOSSES[0]}")
    paired.add_scan_option(parser)
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    networks.check(options)
    paired.settle_scan_option(options)
    title = (
        f"{networks.MODELS[options['model']]} training step: {options['image_size']} px, "
        f"batch {options['batch_size']}, width {options['width']:g}, {options['dtype']}, {options['loss']}, "
        f"{options['steps_per_dispatch']} steps per dispatch"
    )
    paired.report("train_step", title, paired.sides(options, build_ours, build_torch), options)


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
