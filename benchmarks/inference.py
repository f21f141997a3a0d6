"""Images classified per second, ours and PyTorch's, measured in turn on one device."""

import sys
from collections.abc import Sequence
from typing import Any

import networks
import paired
from processes import Options, Side

from dim_jax.cli import command_line, huge_pages

SUMMARY = """\
Times inference of LRF-CNN or EfficientNet-Lite (uint8 image to logits and features), ours through the pmapped step
that `evaluate` runs, PyTorch's through benchmarks/torch_baseline.py, with the network of the package
efficientnet-lite-pytorch. The batch is on the device beforehand. Ours also computes each image's
Grad-CAM map, as in evaluation; PyTorch's does not."""
EXAMPLES = """\
  python benchmarks/inference.py --image-size=64 --width=0.25 --batch-size=64 --json=inference.json
  python benchmarks/inference.py --batch-size=1 --steps=32 --latency --torch-mode=compiled  # how long one image takes
"""


def build_ours(options: Options) -> Side:
    """Builds our evaluation step."""
    model, weights, about = networks.ours(options)
    import jax
    import numpy as np

    from dim_jax.models.prepared_weights import prepare_weights
    from dim_jax.steps import grad_cam
    from dim_jax.steps.classifier import make_eval_step
    from dim_jax.training import parallel

    dispatch = parallel.pmap_eval_step(make_eval_step(model))
    variables = parallel.replicate(weights)
    one_image = np.zeros((1, options["image_size"], options["image_size"], 3), np.float32)
    variables |= parallel.jit_replicated(lambda variables: prepare_weights(model, variables, one_image))(variables)
    images, _ = networks.batch(options, 0)
    predicted = np.full(len(images), grad_cam.PREDICTED, np.int32)
    batch = jax.device_put(parallel.shard({"image": images, "explained": predicted}))

    def turn(steps: int) -> None:
        for _ in range(steps):
            outputs = dispatch(variables, batch, (networks.MEAN, networks.STD), None)
            if options["latency"]:
                jax.block_until_ready(outputs)
        jax.block_until_ready(outputs)

    # The operations are those of the forward pass; only our side computes maps.
    normalized = jax.ShapeDtypeStruct(images.shape, np.float32)
    return Side(turn, about, networks.gauge(options, model.apply, weights, normalized))


def build_torch(options: Options) -> Side:
    """Builds PyTorch's evaluation step."""
    model, device, about = networks.theirs(options)
    import torch
    import torch_baseline

    step = torch_baseline.make_eval_step(
        model,
        torch.from_numpy(networks.MEAN).to(device),
        torch.from_numpy(networks.STD).to(device),
        bfloat16=options["dtype"] == "bfloat16",
        compiled=options["torch_mode"] == "compiled",
    )
    images = networks.torch_images(networks.batch(options, 0)[0], options, device)

    def turn(steps: int) -> None:
        for _ in range(steps):
            step(images)
            if options["latency"] and device == "cuda":
                torch.cuda.synchronize()
        if device == "cuda":
            torch.cuda.synchronize()

    return Side(turn, about)


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = networks.parser("inference", SUMMARY, EXAMPLES)
    parser.add_argument("--latency", action="store_true", help="wait for every step before the next is sent off")
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    networks.check(options)
    title = (
        f"{networks.MODELS[options['model']]} inference: {options['image_size']} px, batch {options['batch_size']}, "
        f"width {options['width']:g}, {options['dtype']}{', each step waited for' if options['latency'] else ''}"
    )
    paired.report("inference", title, paired.sides(options, build_ours, build_torch), options)


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
