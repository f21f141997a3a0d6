"""Training steps of GCGAN per second, ours and PyTorch's, measured in turn on one device."""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import networks
import paired
from processes import Options, Side

from dim_jax.cli import command_line, huge_pages

SUMMARY = """\
Times training steps of GCGAN (the discriminator's update, then the generator's, both by RMSprop, and the average of
the generator's weights), ours through the pmapped and scanned step that `train` runs, PyTorch's through
benchmarks/torch_gan_step.py. Both augment real and generated images by DiffAugment, and judge three reconstructions by
their pixels, so that no frozen network is needed. Batches are on the device beforehand and are not flipped or turned.
Ours also computes both gradients' norms and statistics of the logits at every step, as in training; PyTorch's does not.
Ours runs the 1x1 convolutions beside the generator's blocks before pixels are repeated, which gives the same numbers;
PyTorch's after it, as published."""
EXAMPLES = """\
  python benchmarks/gan_step.py --image-size=64 --width=0.25 --batch-size=8 --json=gan_step.json
  python benchmarks/gan_step.py --dtype=bfloat16 --torch-mode=compiled --channels-last --batch-size=16
"""
RECONSTRUCTIONS = ("pixels", "none")
LEARNING_RATE, EMA_DECAY = 2e-4, 0.999


def build_ours(options: Options) -> Side:
    """Builds our training step."""
    about = networks.our_device(options)
    import jax

    from dim_jax.losses import gan as gan_losses
    from dim_jax.models import make_gan
    from dim_jax.steps.gan import GanTrainStep
    from dim_jax.training import initial_weights, optimizers, parallel

    distance = None
    if options["reconstruction"] == "pixels":

        def distance(frozen: Any, rebuilt: jax.Array, target: jax.Array) -> jax.Array:
            return gan_losses.pixel_distance(rebuilt, target)

    def step_over(axis_name: str | None) -> GanTrainStep:
        generator, discriminator = make_gan(
            options["image_size"],
            0,
            width=options["width"],
            dtype=options["dtype"],
            axis_name=axis_name,
            context="map",
            tanh=options["image_size"] == 1024,
        )
        return GanTrainStep(
            generator=generator,
            discriminator=discriminator,
            optimizer=optimizers.make_optimizer("rmsprop", LEARNING_RATE),
            learning_rate=LEARNING_RATE,
            distance=distance,
            axis_name=axis_name,
            flip=False,
            ema_decay=EMA_DECAY,
        )

    initial = initial_weights.draw(step_over(parallel.AXIS).initial_state, 0)
    return networks.training_side(options, step_over, initial, jax.random.key(0), (None, {}), about)


def build_torch(options: Options) -> Side:
    """Builds PyTorch's training step."""
    device, about = networks.their_device(options)
    import torch
    import torch_gan_step
    import torch_gcgan
    from torch_baseline import placed

    size, width = options["image_size"], options["width"]
    generator = torch_gcgan.Generator(size, width, tanh=size == 1024)
    discriminator = torch_gcgan.Discriminator(size, width)
    step = torch_gan_step.TrainStep(
        placed(generator, device, options["channels_last"]),
        placed(discriminator, device, options["channels_last"]),
        reconstruct=options["reconstruction"] == "pixels",
        learning_rate=LEARNING_RATE,
        ema_decay=EMA_DECAY,
        bfloat16=options["dtype"] == "bfloat16",
        compiled=options["torch_mode"] == "compiled",
    )
    seeds = range(options["steps_per_dispatch"])
    batches = [networks.torch_images(networks.batch(options, seed)[0], options, device) for seed in seeds]

    def turn(steps: int) -> None:
        for images in itertools.islice(itertools.cycle(batches), steps):
            step(images, torch_gan_step.draw(options["batch_size"], device))
        if device == "cuda":
            torch.cuda.synchronize()

    return Side(turn, about)


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = paired.parser("gan_step", SUMMARY, EXAMPLES, image_size=256, batch_size=8)
    parser.add_argument(
        "--reconstruction",
        choices=RECONSTRUCTIONS,
        default="pixels",
        help="of real images (default pixels)",
    )
    paired.add_scan_option(parser)
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    paired.check(options)
    paired.settle_scan_option(options)
    networks.check_gan_size(options)
    title = (
        f"GCGAN training step: {options['image_size']} px, batch {options['batch_size']}, width {options['width']:g}, "
        f"{options['dtype']}, reconstruction {options['reconstruction']}, "
        f"{options['steps_per_dispatch']} steps per dispatch"
    )
    paired.report("gan_step", title, paired.sides(options, build_ours, build_torch), options)


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
