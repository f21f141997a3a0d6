"""Collectives of a compiled training step, and predicted step times on many devices."""

import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import records

from dim_jax.cli import command_line

SUMMARY = """\
Compiles the training step of LRF-CNN or GCGAN for a few fake devices of the CPU and lists its collectives: how many
there are, how many must wait for one another, and their bytes. From these, from the operations that XLA counts and from
the assumptions of this file it predicts the time of a step for 1 to 256 devices with the same batch on each. Nothing is
timed."""
EXAMPLES = """\
  python benchmarks/communication.py --model=classifier --width=0.25 --image-size=64
  python benchmarks/communication.py --model=gan --image-size=256 --json=communication.json
"""
ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4,
              "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
# Bytes below which the time of a collective is its latency alone.
SMALL = 1 << 16
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Machine:
    """Assumptions of the prediction about a device and its links.

    Attributes:
      name: product name.
      flops: peak of bfloat16 products, 1/s.
      group: devices that the fast links join.
      bandwidth: bytes/s that a device sends within its group.
      latency: of one message within the group, s.
      outer_bandwidth, outer_latency: the same between groups.
    """

    name: str
    flops: float
    group: int
    bandwidth: float
    latency: float
    outer_bandwidth: float
    outer_latency: float


# Peaks and bandwidths (in one direction) are the manufacturers'; latencies are rough guesses.
MACHINES = {
    "tpu_v5e": Machine("TPU v5e, one slice", 197e12, 256, 100e9, 1e-6, 100e9, 1e-6),
    "h100": Machine("H100 SXM, 8 to a node, 400 Gbit/s each", 989e12, 8, 450e9, 3e-6, 50e9, 10e-6),
}
# Share of the peak that these networks of small and depthwise convolutions reach.
UTILISATION = 0.15


@dataclass(frozen=True)
class Collective:
    """A collective: its kind, its input bytes per device, and the length of the chain of collectives before it."""

    kind: str
    size: int
    depth: int


def collectives(program: str) -> list[Collective]:
    """Returns the collectives of a compiled program, from the text of its HLO."""
    results = []
    for computation in re.split(r"\n(?=\S)", program):
        depths: dict[str, int] = {}
        for line in computation.splitlines():
            match = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)", line)
            if not match:
                continue
            name, shape, operation, rest = match.groups()
            operands = re.split(r"\), [\w-]+=", rest, maxsplit=1)[0]
            depth = max((depths.get(operand, 0) for operand in re.findall(r"%([\w.-]+)", operands)), default=0)
            kind = operation.removesuffix("-start")
            if kind in COLLECTIVES:
                results.append(Collective(kind, _bytes(shape), depth))
                depth += 1
            depths[name] = depth
    return results


def _bytes(shape: str) -> int:
    """Returns the bytes of an HLO shape such as f32[3,4]{1,0} or (f32[3], s32[])."""
    return sum(
        ITEM_BYTES[kind] * math.prod(int(side) for side in sides.split(",") if side)
        for kind, sides in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    )


def reduction_seconds(size: int, devices: int, bandwidth: float, latency: float) -> float:
    """Returns the time of an all-reduce over a ring or a tree, whichever is faster."""
    if devices == 1:
        return 0.0
    ring = 2 * (devices - 1) * (latency + size / devices / bandwidth)
    tree = 2 * math.ceil(math.log2(devices)) * (latency + size / bandwidth)
    return min(ring, tree)


def step_seconds(results: dict[str, Any], machine: Machine, devices: int) -> tuple[float, float]:
    """Returns the predicted seconds of computation and of communication in a step, without overlap.

    Reductions within a group and between groups follow one another. Small ones cost the latency of the longest chain.
    """
    inner, outer = min(devices, machine.group), -(-devices // machine.group)

    def reduction(size: int) -> float:
        within = reduction_seconds(size, inner, machine.bandwidth, machine.latency)
        between = reduction_seconds(size // inner, outer, machine.outer_bandwidth, machine.outer_latency)
        return within + between

    communication = reduction(results["large_bytes"]) + results["in_a_row"] * reduction(0)
    return results["flops"] / (machine.flops * UTILISATION), communication


def measure(options: dict[str, Any]) -> dict[str, Any]:
    """Compiles the step and returns the number and bytes of its collectives and its operations."""
    import jax
    import numpy as np

    from dim_jax.training import initial_weights, parallel

    devices, side = options["devices"], options["image_size"]
    rows = devices * options["batch_size"]
    batch = {
        "image": np.zeros((rows, side, side, 3), np.uint8),
        "label": np.zeros(rows, np.int32),
        "mask": np.ones(rows, np.float32),
    }
    step, init, constants, pixels = (_classifier if options["model"] == "classifier" else _gan)(options)
    state = initial_weights.draw(init, 0)
    # One step per dispatch, so that every collective of the program is executed once.
    arguments = (parallel.replicate(state), parallel.shard_steps([batch]), constants, pixels)
    compiled = parallel.pmap_train_step(step).lower(*arguments).compile()
    results = collectives(compiled.as_text())
    params = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if _is_trained(path)]
    cost = compiled.cost_analysis()
    return {
        "parameter_bytes": sum(leaf.nbytes for leaf in params),
        "collectives": len(results),
        "kinds": sorted({item.kind for item in results}),
        "bytes": sum(item.size for item in results),
        "large": sum(item.size >= SMALL for item in results),
        "large_bytes": sum(item.size for item in results if item.size >= SMALL),
        "small_bytes": sum(item.size for item in results if item.size < SMALL),
        "in_a_row": max((item.depth + 1 for item in results), default=0),
        "flops": float((cost[0] if isinstance(cost, list) else cost)["flops"]),
    }


def _is_trained(path: tuple) -> bool:
    names = [getattr(key, "name", "") for key in path]
    return "params" in names and "opt_state" not in names and "ema_params" not in names


def _classifier(options: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    from functools import partial

    import jax
    import jax.numpy as jnp
    import numpy as np

    from dim_jax import losses
    from dim_jax.models import make_classifier
    from dim_jax.steps.classifier import Constants, make_train_step
    from dim_jax.training import learning_rates, optimizers, parallel
    from dim_jax.training.state import TrainState

    num_classes, side = 5, options["image_size"]
    model = make_classifier("lrf_cnn", num_classes, axis_name=parallel.AXIS, width=options["width"])
    schedule = learning_rates.make_learning_rate("constant", 1e-3, num_train_steps=1)
    optimizer = partial(optimizers.make_optimizer, "adam", weight_decay=1e-5)
    parameters = losses.hyper_parameters("fafl", {"alpha0": 0.5, "beta0": 3.0, "m": 4.0, "adaptive": 1.0})
    mean, std, counts = np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), np.ones(num_classes, np.float32)

    def init(key: jax.Array) -> TrainState:
        variables = model.init(key, jnp.zeros((1, side, side, 3)))
        params = variables["params"]
        state = optimizer(schedule).init(params)
        return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], state)

    step = make_train_step(model, losses.LOSSES["fafl"], optimizer, axis_name=parallel.AXIS, flip=True)
    return step, init, Constants(jax.random.key(0), mean, std, counts, parameters, schedule), None


def _gan(options: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    import jax

    from dim_jax.losses import gan as gan_losses
    from dim_jax.models import make_gan
    from dim_jax.steps.gan import GanTrainStep
    from dim_jax.training import optimizers, parallel

    generator, discriminator = make_gan(options["image_size"], 0, width=options["width"], axis_name=parallel.AXIS)
    step = GanTrainStep(
        generator=generator,
        discriminator=discriminator,
        optimizer=optimizers.make_optimizer("rmsprop", 2e-4),
        learning_rate=2e-4,
        distance=lambda frozen, *images: gan_losses.pixel_distance(*images),
        axis_name=parallel.AXIS,
    )
    return step, step.initial_state, jax.random.key(0), parallel.replicate((None, {}))


def _print(options: dict[str, Any], results: dict[str, Any]) -> None:
    say = command_line.say
    name = "LRF-CNN" if options["model"] == "classifier" else "GCGAN"
    say(f"{name} at {options['image_size']} px, width {options['width']:g}, {options['batch_size']} images per device")
    say(f"  parameters       {results['parameter_bytes'] / 1e6:10.2f} MB")
    say(f"  collectives      {results['collectives']:10d}    {', '.join(results['kinds'])}")
    say(f"  in a row         {results['in_a_row']:10d}    each needs the one before it")
    say(f"  sent per step    {results['bytes'] / 1e6:10.2f} MB in all")
    say(f"    {results['large']:5d} of 64 KiB on {results['large_bytes'] / 1e6:8.2f} MB")
    say(f"    {results['collectives'] - results['large']:5d} smaller      {results['small_bytes'] / 1e6:8.2f} MB")
    say(f"  operations       {results['flops'] / 1e9:10.2f} GFLOP per device, as XLA counts them")
    for machine in MACHINES.values():
        say(f"  {machine.name}: predicted")
        say("    devices   compute ms   communicate ms   efficiency   images/s")
        for devices in DEVICES:
            compute, communicate = step_seconds(results, machine, devices)
            total = compute + communicate
            say(
                f"    {devices:7d}   {compute * 1e3:10.2f}   {communicate * 1e3:14.3f}   {compute / total:10.0%}   "
                f"{devices * options['batch_size'] / total:8.0f}"
            )


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, compiles and prints."""
    parser = command_line.parser("communication", SUMMARY, EXAMPLES)
    parser.prog = "python benchmarks/communication.py"
    parser.add_argument("--model", choices=("classifier", "gan"), required=True, help="what to train")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies all channel counts (default 1)")
    parser.add_argument("--image-size", type=int, help="px (default 299, of a GAN 256)")
    parser.add_argument("--batch-size", type=int, default=8, help="images per device (default 8)")
    parser.add_argument("--devices", type=int, default=2, help="fake devices to compile for (default 2)")
    parser.add_argument("--json", metavar="FILE", type=records.json_path, help="also write the results to this file")
    options = vars(parser.parse_args(arguments))
    options["image_size"] = options["image_size"] or (256 if options["model"] == "gan" else 299)
    if options["devices"] < 2 or options["batch_size"] < 1:
        raise ValueError("--devices must be at least 2 and --batch-size at least 1")
    os.environ["JAX_PLATFORMS"] = "cpu"
    # The collectives do not depend on the optimisation level.
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={options['devices']} --xla_backend_optimization_level=0"
    )
    results = measure(options)
    _print(options, results)
    if options["json"]:
        from dim_jax.runs import files

        files.write_json(options["json"], {"options": options, **results})


if __name__ == "__main__":
    sys.exit(command_line.run(main))
