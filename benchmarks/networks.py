"""Devices, images and networks of both sides of a benchmark."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import paired
import records
from processes import Options, Side

NUM_CLASSES = 5
MEAN = np.array((0.5203, 0.3638, 0.6511), np.float32)
STD = np.array((0.2339, 0.2535, 0.1455), np.float32)
STAGES = "64,128/192,224,256,288,320/320,384"
LRF_CNN = "lrf_cnn"
# --model and what tables call it.
MODELS = {LRF_CNN: "LRF-CNN", "efficientnet_lite0": "EfficientNet-Lite0", "efficientnet_lite2": "EfficientNet-Lite2"}
GAN_SIZES = (64, 128, 256, 512, 1024)


def parser(program: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """Returns a parser with the options that all paired benchmarks of classifiers share."""
    result = paired.parser(program, summary, examples)
    result.add_argument("--model", choices=MODELS, default=LRF_CNN, help=f"default {LRF_CNN}")
    result.add_argument("--stages", default=STAGES, help="channels of LRF-CNN's blocks, stages parted by /")
    return result


def check(options: dict[str, Any]) -> None:
    """Checks the shared options and turns `stages` into tuples of numbers, in place.

    Raises:
      ValueError: an option makes no sense.
    """
    paired.check(options)
    model = options.get("model", LRF_CNN)
    if model != LRF_CNN and (options["width"] != 1 or options["stages"] != STAGES):
        raise ValueError(f"--model={model} has its published widths and stages; leave out --width and --stages")
    options["stages"] = parse_stages(options["stages"])


def parse_stages(text: str) -> tuple[tuple[int, ...], ...]:
    """Returns the channels of LRF-CNN's blocks by stage, of a text such as 64,128/192.

    Raises:
      ValueError: it is none.
    """
    try:
        stages = tuple(tuple(int(channels) for channels in part.split(",")) for part in text.split("/"))
    except ValueError:
        stages = ((0,),)
    if any(channels < 1 for stage in stages for channels in stage):
        raise ValueError(f"--stages={text} must be numbers of channels, such as 64,128/192")
    return stages


def check_gan_size(options: Options) -> None:
    """Raises ValueError unless `image_size` is a size of GCGAN."""
    if options["image_size"] not in GAN_SIZES:
        sizes = ", ".join(map(str, GAN_SIZES))
        raise ValueError(f"--image-size={options['image_size']} is not a size of GCGAN: {sizes}")


def batch(options: Options, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise (B, H, W, 3) uint8 and labels (B,) int32; the values of pixels do not affect the time."""
    rng = np.random.default_rng(seed)
    size, count = options["image_size"], options["batch_size"]
    return rng.integers(0, 256, (count, size, size, 3), np.uint8), rng.integers(0, NUM_CLASSES, count, np.int32)


def our_device(options: Options) -> dict[str, str]:
    """Sets up JAX for the requested device, before anything else imports it, and returns a description of the device.

    Raises:
      ValueError: JAX sees several devices, which would not be a fair pair, or not the requested one.
    """
    if options["platform"] == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    device = jax.devices()[0]
    if options["platform"] == "gpu" and device.platform != "gpu":
        raise ValueError(f"--platform=gpu, but JAX runs on {device.platform}; install jax[cuda12] or jax[cuda13]")
    if jax.device_count() > 1:
        raise ValueError(f"JAX sees {jax.device_count()} devices; show it one, as with CUDA_VISIBLE_DEVICES=0")
    return {"platform": device.platform, "device": device.device_kind, **records.versions("jax", "jaxlib", "flax")}


def gauge(options: Options, step: Callable[..., Any], *arguments: Any) -> Callable[[], dict[str, float]]:
    """Returns what Side asks for: the work of `step(*arguments)`, one step on one device, and the device's peak.

    Args:
      step: traceable outside of pmap, so of networks without a device axis.
      arguments: arrays, or whatever has their shapes and dtypes.
    """

    def measure() -> dict[str, float]:
        import flops
        import peaks

        return {
            "flops_per_step": flops.of_program(step, *arguments),
            "peak_flops_per_second": peaks.matmul_flops_per_second(options["dtype"]),
        }

    return measure


def ours(options: Options) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Returns our model, its initial variables on the host, and what to say about this side.

    Raises:
      ValueError: as in `our_device`.
    """
    about = our_device(options)
    import jax.numpy as jnp

    from dim_jax.models import make_classifier
    from dim_jax.training import initial_weights, parallel

    fields = {name: options[name] for name in ("width", "stages")} if options["model"] == LRF_CNN else {}
    model = make_classifier(options["model"], NUM_CLASSES, dtype=options["dtype"], axis_name=parallel.AXIS, **fields)
    shape = (1, options["image_size"], options["image_size"], 3)
    initial_variables = initial_weights.draw(lambda key: model.init(key, jnp.zeros(shape)), 0)
    variables = {name: initial_variables[name] for name in ("params", "batch_stats")}
    return model, variables, about


def training_side(
    options: Options,
    step_over: Callable[[str | None], Callable[..., Any]],
    initial: Any,
    constants: Any,
    pixels: Any,
    about: dict[str, str],
) -> Side:
    """Returns our side of a benchmark of training, which scans `steps_per_dispatch` steps in one dispatch.

    Args:
      step_over: makes the step with statistics over a mapped axis, or over none.
      initial: the state before the first step, on the host.
      constants, pixels: what the step takes beside state and batch.
      about: what to say about the side.
    """
    import jax

    from dim_jax.training import parallel

    dispatch, state = parallel.pmap_train_step(step_over(parallel.AXIS)), parallel.replicate(initial)

    def host_batch(seed: int) -> dict[str, np.ndarray]:
        images, labels = batch(options, seed)
        return {"image": images, "label": labels, "mask": np.ones(len(labels), np.float32)}

    batches = parallel.shard_steps([host_batch(seed) for seed in range(options["steps_per_dispatch"])])
    one_batch = {name: np.asarray(array)[0, 0] for name, array in batches.items()}

    def turn(steps: int) -> None:
        nonlocal state
        for _ in range(steps // options["steps_per_dispatch"]):
            state, _ = dispatch(state, batches, constants, pixels)
        jax.block_until_ready(state)

    return Side(turn, about, gauge(options, step_over(None), initial, one_batch, constants, pixels))


def their_device(options: Options) -> tuple[str, dict[str, str]]:
    """Sets up PyTorch for the requested device and returns the device's name and a description.

    Raises:
      ValueError: PyTorch is not installed, or sees no GPU where one is requested.
    """
    try:
        import torch
    except ImportError:
        raise ValueError("PyTorch is not installed; pip install -e '.[torch]', or measure --sides=ours") from None
    has_gpu = torch.cuda.is_available()
    if options["platform"] == "gpu" and not has_gpu:
        raise ValueError(f"--platform=gpu, but PyTorch {torch.__version__} sees no GPU")
    device = "cuda" if has_gpu and options["platform"] != "cpu" else "cpu"
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    # XLA's defaults on a GPU: TF32 matmuls of float32, and autotuned convolutions.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    about = {
        "platform": "gpu" if device == "cuda" else "cpu",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }
    if device == "cuda":
        about["cuda"] = str(torch.version.cuda)
    return device, about


def theirs(options: Options) -> tuple[Any, str, dict[str, str]]:
    """Returns PyTorch's model on its device, the device's name, and a description of this side.

    Raises:
      ValueError: as in `their_device`, or the package of EfficientNet-Lite is not installed.
    """
    device, about = their_device(options)
    import torch_baseline

    if options["model"] == LRF_CNN:
        model = torch_baseline.LRFCNN(NUM_CLASSES, options["width"], stages=options["stages"])
    else:
        try:
            from torch_efficientnet_lite import EfficientNetLite
        except ImportError:
            raise ValueError("efficientnet-lite-pytorch is not installed; pip install -e '.[torch]'") from None
        model = EfficientNetLite.named(options["model"], NUM_CLASSES)
    return torch_baseline.placed(model, device, options["channels_last"]), device, about


def torch_images(images: np.ndarray, options: Options, device: str) -> Any:
    """Returns images (B, H, W, 3) as a tensor (B, 3, H, W) on `device`, in the memory format that `options` ask for."""
    import torch

    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    layout = torch.channels_last if options["channels_last"] else torch.contiguous_format
    return images.contiguous(memory_format=layout).to(device)
