"""Training steps of a diffusion model per second, ours and PyTorch's, measured in turn on one device."""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import networks
import paired
from processes import Options, Side

from dim_jax.cli import command_line

SUMMARY = """\
Times training steps of the class-conditional denoising U-Net of configs/diffusion.py (5.5 million parameters at width
1) with EDM's preconditioning, Adam and the average of the weights, ours through the pmapped and scanned step that
`train` runs, PyTorch's through benchmarks/torch_denoising_unet.py. Batches are on the device beforehand and are not
flipped or turned. Ours also computes the gradient's norm at every step, as in training; PyTorch's does not."""
EXAMPLES = """\
  python benchmarks/diffusion_step.py --channels-last --threads=1 --json=diffusion_step.json
  python benchmarks/diffusion_step.py --dtype=bfloat16 --torch-mode=compiled --channels-last --batch-size=64
"""
LEARNING_RATE, EMA_DECAY, LABEL_DROPOUT, SIGMA_DATA = 3e-4, 0.999, 0.1, 0.5
GRANULARITY = 8  # px


def build_ours(options: Options) -> Side:
    """Builds our training step."""
    about = networks.our_device(options)
    import jax

    from dim_jax.models import make_denoiser
    from dim_jax.steps.diffusion import DiffusionTrainStep
    from dim_jax.training import initial_weights, optimizers, parallel

    network = make_denoiser(networks.NUM_CLASSES, width=options["width"], dtype=options["dtype"])

    def step_over(axis_name: str | None) -> DiffusionTrainStep:
        return DiffusionTrainStep(
            network=network,
            optimizer=optimizers.make_optimizer("adam", LEARNING_RATE),
            learning_rate=LEARNING_RATE,
            axis_name=axis_name,
            sigma_data=SIGMA_DATA,
            label_dropout=LABEL_DROPOUT,
            flip=False,
            rotate=False,
            ema_decay=EMA_DECAY,
        )

    step = step_over(parallel.AXIS)
    initial = initial_weights.draw(lambda key: step.initial_state(key, options["image_size"]), 0)
    return networks.training_side(options, step_over, initial, jax.random.key(0), None, about)


def build_torch(options: Options) -> Side:
    """Builds PyTorch's training step."""
    device, about = networks.their_device(options)
    import torch
    import torch_denoising_unet
    from torch_baseline import placed

    size, classes = options["image_size"], networks.NUM_CLASSES
    network = torch_denoising_unet.DenoisingUNet(classes, size, options["width"])
    step = torch_denoising_unet.TrainStep(
        placed(network, device, options["channels_last"]),
        classes,
        learning_rate=LEARNING_RATE,
        sigma_data=SIGMA_DATA,
        ema_decay=EMA_DECAY,
        bfloat16=options["dtype"] == "bfloat16",
        compiled=options["torch_mode"] == "compiled",
    )
    batches = []
    for seed in range(options["steps_per_dispatch"]):
        images, labels = networks.batch(options, seed)
        batches.append((networks.torch_images(images, options, device), torch.from_numpy(labels).long().to(device)))

    def turn(steps: int) -> None:
        for images, labels in itertools.islice(itertools.cycle(batches), steps):
            step(images, labels, torch_denoising_unet.draw(len(labels), size, LABEL_DROPOUT, device))
        if device == "cuda":
            torch.cuda.synchronize()

    return Side(turn, about)


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = paired.parser("diffusion_step", SUMMARY, EXAMPLES, image_size=64, batch_size=16)
    paired.add_scan_option(parser)
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    paired.check(options)
    paired.settle_scan_option(options)
    if options["image_size"] % GRANULARITY:
        raise ValueError(f"--image-size={options['image_size']} must be a multiple of {GRANULARITY}")
    title = (
        f"Diffusion training step: {options['image_size']} px, batch {options['batch_size']}, "
        f"width {options['width']:g}, {options['dtype']}, {options['steps_per_dispatch']} steps per dispatch"
    )
    paired.report("diffusion_step", title, paired.sides(options, build_ours, build_torch), options)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
