"""The training step compiled for GPUs or TPUs on a machine without them: kernels, memory, collectives and a bound."""

import collections
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hlo
import networks
import paired
import records
import targets

from dim_jax.cli import command_line

SUMMARY = """\
Compiles the training step of a run, one step per dispatch, for an accelerator that need not be there, and reads the
program: memory per device; launches, which are fusions, library calls, synchronous copies and whatever else takes time
in every computation that is executed, bodies of loops times their iterations; loops; collectives, their bytes and how
many wait for one another; operations of matrix products and convolutions, without padding; bytes that kernels read and
write. All by module of the network: the first two names in the scope of an operation. The bound of a kernel is the
larger of operations / peak and bytes / bandwidth, plus a launch, from the data sheets in benchmarks/targets.py; their
sum is a floor for the step, not a time: nothing is timed here, and nothing autotuned."""
EXAMPLES = """\
  python benchmarks/ahead_of_time.py --target=h100 --width=0.25 --image-size=64 --batch-size=32 --dtype=bfloat16
  python benchmarks/ahead_of_time.py --target=v5e:2x4 --stages=64/128 --width=0.25 --image-size=64 --json=tpu.json
  python benchmarks/ahead_of_time.py --target=h100:1x1x8 --model=gan --batch-size=64 --dtype=bfloat16
"""
IMAGE_SIZES = {"classifier": 299, "gan": 256}
NO_MODULE = "rest of the step"
# Scopes of the training step beside its networks.
SCOPES = ("augmentation", "optimizer", "global_norm", "moving_average")
LARGEST_PARTS = 30


def part_of(op_name: str) -> str:
    """Returns the part of the step that an operation belongs to.

    Args:
      op_name: such as jit(many_steps)/transpose(jvp(LRFCNN))/block0/merge/dot_general.

    Returns:
      The network and its module (LRFCNN/block0), one of SCOPES, or NO_MODULE.
    """
    names = [re.sub(r"^(?:\w+\()*([^()]*)\)*$", r"\1", name) for name in op_name.split("/")]
    for index, name in enumerate(names):
        if name[:1].isupper():  # a class of a module; other scopes and operations begin with a small letter
            return "/".join([name, *names[index + 1 : -1][:1]])
        if name in SCOPES:
            return name
    return NO_MODULE


def summary(kernels: Iterable[hlo.Kernel], accelerator: targets.Accelerator) -> dict[str, Any]:
    """Returns launches, fusions, library calls, copies, operations, bytes and the floor in ms of some kernels."""
    kernels = list(kernels)
    counts = collections.Counter[str]()
    for kernel in kernels:
        counts[kernel.kind] += kernel.times
    return {
        "launches": sum(counts.values()),
        "fusions": counts["fusion"],
        "library_calls": counts["library call"],
        "copies": counts["copy"],
        "other": counts["other"],
        "flops": sum(kernel.times * kernel.flops for kernel in kernels),
        "bytes": sum(kernel.times * kernel.num_bytes for kernel in kernels),
        "floor_milliseconds": 1000 * sum(targets.kernel_seconds(kernel, accelerator) for kernel in kernels),
    }


def read(program: hlo.Program, accelerator: targets.Accelerator, num_devices: int) -> dict[str, Any]:
    """Returns what is in a compiled program."""
    kernels, sums = program.kernels(), program.collectives()
    parts: dict[str, list[hlo.Kernel]] = {}
    for kernel in kernels:
        parts.setdefault(part_of(kernel.op_name), []).append(kernel)
    by_part = {name: summary(group, accelerator) for name, group in parts.items()}
    return {
        **summary(kernels, accelerator),
        "loops": program.loops(),
        "prefetches": program.prefetches(),
        "collectives": len(sums),
        "collective_kinds": sorted({collective.kind for collective in sums}),
        "collective_bytes": sum(collective.num_bytes for collective in sums),
        "collectives_in_a_row": max((collective.depth + 1 for collective in sums), default=0),
        "communication_milliseconds": 1000 * targets.communication_seconds(sums, accelerator, num_devices),
        "parts": dict(sorted(by_part.items(), key=lambda item: -item[1]["launches"])),
    }


def _config(options: Mapping[str, Any], num_devices: int) -> Any:
    from dim_jax.runs import config_flags
    from dim_jax.runs.configuration import parse_config

    config = config_flags.load_file(str(Path(__file__).parents[1] / "configs" / f"{options['model']}.py"))
    config.data.image_size = options["image_size"]
    config.train.global_batch_size = options["batch_size"] * num_devices
    config.model.width, config.model.dtype = options["width"], options["dtype"]
    if options["model"] == "classifier":
        config.model.stages = options["stages"]
    else:
        config.gan.label = "any"  # of which class the images are does not change the program
    return parse_config(config.to_dict())


def classifier_step(config: Any) -> tuple[Callable[..., Any], Callable[..., Any], Any, Any]:
    """Returns the step of a classifier's run, its initial state as a function of a key, constants, and pixels."""
    import jax
    import numpy as np

    from dim_jax.steps.classifier import Constants
    from dim_jax.trainers import classifier_step

    side, count = config.data.image_size, networks.NUM_CLASSES
    constants = Constants(
        key=jax.random.key(0),
        mean=networks.MEAN,
        std=networks.STD,
        class_counts=np.ones(count, np.float32),
        loss_parameters=classifier_step.make_loss(config)[1],
        schedule=classifier_step.make_learning_rate(config, 1000, 100.0),
    )
    init = classifier_step.initializer(config, count, (side, side, 3))
    return classifier_step.make_step(config, count), init, constants, None


def gan_step(config: Any) -> tuple[Callable[..., Any], Callable[..., Any], Any, Any]:
    """Returns the same of a GAN's run; reconstructions are compared by pixels, so that no frozen network is needed."""
    import jax

    from dim_jax.losses import gan as gan_losses
    from dim_jax.trainers import gan

    step = gan.make_step(config, 0, lambda frozen, *images: gan_losses.pixel_distance(*images))
    return step, step.initial_state, jax.random.key(0), (None, {})


def compile_step(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Compiles the step and returns the text of the program, and its devices, seconds and memory.

    Raises:
      ValueError: the compiler refuses the program, or is not installed.
    """
    import jax
    import jax.numpy as jnp

    from dim_jax.models.kernels import platforms
    from dim_jax.training import parallel

    devices = targets.devices_of(options["target"])
    config = _config(options, len(devices))
    build = {"classifier": classifier_step, "gan": gan_step}[options["model"]]
    step, init, constants, pixels = build(config)

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    count, rows, side = len(devices), options["batch_size"], options["image_size"]
    batch = {"image": jax.ShapeDtypeStruct((count, 1, rows, side, side, 3), jnp.uint8)}
    for name, dtype in (("label", jnp.int32), ("mask", jnp.float32), ("row", jnp.int32)):
        batch[name] = jax.ShapeDtypeStruct((count, 1, rows), dtype)
    state, constants = shapes(jax.eval_shape(init, jax.random.key(0))), shapes(jax.eval_shape(lambda: constants))
    started = time.perf_counter()
    with platforms.traced_for("accelerator"):
        lowered = parallel.pmap_train_step(step, devices).lower(state, batch, constants, pixels)
    traced = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"the compiler refuses the program for {options['target']}: {error}") from None
    seconds = {"trace_seconds": traced - started, "compile_seconds": time.perf_counter() - traced}
    memory = compiled.memory_analysis()
    about = {
        "devices": count,
        "device": devices[0].device_kind,
        **seconds,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        **records.versions("jax", "libtpu", "jax-cuda12-plugin"),
    }
    return compiled.as_text(), about


def table(options: Mapping[str, Any], about: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Returns the result for people."""
    network = {"classifier": "LRF-CNN", "gan": "GCGAN"}[options["model"]]
    width = max(map(len, result["parts"]))
    lines = [
        f"{network}'s training step, {options['image_size']} px, {options['batch_size']} images per device, width "
        f"{options['width']:g}, {options['dtype']}, for {about['devices']} x {about['device']}",
        f"compiled in {about['compile_seconds']:.0f} s, traced in {about['trace_seconds']:.0f} s; per device "
        f"{about['argument_bytes'] / 1e9:.3f} GB of arguments and {about['temporary_bytes'] / 1e9:.3f} GB of "
        "temporaries",
        f"launches {result['launches']} (fusions {result['fusions']}, library calls {result['library_calls']}, copies "
        f"{result['copies']}, other {result['other']}); loops {result['loops']}; prefetches {result['prefetches']}",
        f"collectives {result['collectives']}, of which {result['collectives_in_a_row']} in a row; "
        f"{result['collective_bytes'] / 1e6:.2f} MB; predicted {result['communication_milliseconds']:.3f} ms",
        f"{result['flops'] / 1e9:.1f} GFLOP and {result['bytes'] / 1e9:.2f} GB per device; floor "
        f"{result['floor_milliseconds']:.2f} ms without collectives",
        f"{'':{width}}{'launches':>10}{'copies':>8}{'GFLOP':>10}{'GB':>8}{'floor ms':>10}",
    ]
    for name, part in list(result["parts"].items())[:LARGEST_PARTS]:
        lines.append(
            f"{name:{width}}{part['launches']:10}{part['copies']:8}{part['flops'] / 1e9:10.2f}"
            f"{part['bytes'] / 1e9:8.3f}{part['floor_milliseconds']:10.3f}"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the options.

    Raises:
      ValueError: one of them makes no sense.
    """
    parser = command_line.parser("ahead_of_time", SUMMARY, EXAMPLES)
    parser.prog = "python benchmarks/ahead_of_time.py"
    add = parser.add_argument
    add("--target", required=True, help="h100, h100:1x1x8 (slices x hosts x GPUs), or TPUs such as v5e:2x4")
    add("--model", choices=IMAGE_SIZES, default="classifier", help="what to train (default classifier)")
    add("--image-size", type=int, metavar="PX", help="side of the images (default 299, of a GAN 256)")
    add("--batch-size", type=int, default=32, help="images per device (default 32)")
    add("--width", type=float, default=1.0, help="multiplies all channel counts (default 1)")
    add("--stages", default=networks.STAGES, help="channels of LRF-CNN's blocks, stages parted by /")
    add("--dtype", choices=paired.DTYPES, default="float32", help="of the computation (default float32)")
    add("--json", metavar="OUT", type=records.json_path, help="also write everything to this file")
    add("--text", metavar="OUT", type=command_line.path, help="write the text of the compiled program to this file")
    options = vars(parser.parse_args(arguments))
    targets.accelerator(options["target"])
    options["image_size"] = options["image_size"] or IMAGE_SIZES[options["model"]]
    paired.check(options | {"rounds": 1, "steps": 1, "threads": 0})
    options["stages"] = networks.parse_stages(options["stages"])
    if options["model"] == "gan":
        networks.check_gan_size(options)
    return options


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, compiles and prints."""
    options = parse(arguments)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost")
    accelerator = targets.accelerator(options["target"])
    if accelerator.platform == "cuda":
        # Algorithms of the libraries are chosen by timing them.
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
    text, about = compile_step(options)
    if options["text"]:
        Path(options["text"]).write_text(text, encoding="utf-8")
    result = read(hlo.parse(text), accelerator, about["devices"])
    command_line.say(table(options, about, result))
    records.write("ahead_of_time", options, {"about": about, **result})


if __name__ == "__main__":
    sys.exit(command_line.run(main))
