"""Time per image of exported programs, beside our predict step and PyTorch's ONNX of the same network, in turn."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import networks
import numpy as np
import paired
import records
from processes import Build, Options, Side

from dim_jax.cli import command_line

SUMMARY = """\
Exports networks to ONNX and StableHLO as python -m dim_jax.export does and prints, as a Markdown table, the largest
difference of the probabilities (GCGAN: of the pixels, in units of 1/255) from the run, the size of the file and the
time per image: of both files, of the evaluation step that predict runs, which also computes the Grad-CAM map (GCGAN:
of generate), and of PyTorch's own ONNX of EfficientNet-Lite. Weights are ImageNet's where published, else initial
ones; images are synthetic tissue. All run on the CPU."""
EXAMPLES = """\
  python benchmarks/exported.py --image-size=224 --json=exported.json
  python benchmarks/exported.py --networks=efficientnet_lite0,efficientnet_lite2 --batch-size=1 --threads=1
"""
GCGAN = "gcgan"
NETWORKS = ("lrf_cnn", "light_lrf_cnn", "efficientnet_lite0", "efficientnet_lite2", "coatnet", "wavemix", GCGAN)
CLASSES = ("normal", "polyp", "low", "high", "cancer")
PREDICT, GENERATE, THEIRS = "predict", "generate", "PyTorch's ONNX"
NUM_IMAGES = 16


def write_classifier_run(folder: Path, options: Options) -> None:
    """Writes the run of an untrained classifier, or one with ImageNet's weights, without data."""
    import jax.numpy as jnp

    from dim_jax.interop.imported_runs import RunContents, write_run
    from dim_jax.models import classifier_options, make_classifier
    from dim_jax.models.efficientnet_lite import PUBLISHED
    from dim_jax.training import initial_weights, loop
    from dim_jax.weights import pretrained

    name, size = options["model"], options["image_size"]
    fields = {key: default for key, (_, default) in classifier_options(name).items()}
    model = make_classifier(name, len(CLASSES), **fields)
    initial = initial_weights.draw(lambda key: model.init(key, jnp.zeros((1, size, size, 3))), 0)
    variables = {kind: initial[kind] for kind in ("params", "batch_stats") if kind in initial}
    if name in PUBLISHED:
        variables, _ = pretrained.with_imagenet_weights(name, variables)
    data = {
        "path": "", "fold": 0, "backend": "tf", "image_size": size, "resize": "squash",
        "mean": networks.MEAN.tolist(), "std": networks.STD.tolist(), "cache_gib": 4.0,
    }  # fmt: skip
    train = {"eval_batch_size": options["batch_size"], "global_batch_size": 8}
    config = {"trainer": "classifier", "data": data, "model": {"name": name, **fields}, "train": train}
    write_run(folder, RunContents({**config, "classes": CLASSES}, None, {loop.BEST: (0, variables)}), {})


def write_gan_run(folder: Path, options: Options) -> None:
    """Writes the run of an untrained GCGAN of one class, without data."""
    import jax.numpy as jnp

    from dim_jax.interop.imported_runs import RunContents, write_run
    from dim_jax.models import make_gan
    from dim_jax.training import initial_weights, loop

    size = options["gan_size"]
    generator, _ = make_gan(size, 0)
    initial = initial_weights.draw(lambda key: generator.init(key, jnp.zeros((1, generator.latent_size)), True), 0)
    config = {
        "trainer": "gan",
        "data": {"path": "", "fold": 0, "image_size": size, "resize": "squash"},
        "gan": {"label": CLASSES[0], "conditional": False, "statistics": "recalibrated"},
        "model": {"dtype": "float32"},
    }
    state = {"generator": initial, "ema_params": initial["params"]}
    write_run(folder, RunContents(config, None, {loop.CHECKPOINTS: (0, state)}), {})


def _session(path: str, options: Options) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options["threads"]
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def _side(call: Callable[[], Any], package: str) -> Side:
    def turn(steps: int) -> None:
        for _ in range(steps):
            call()

    return Side(turn, {"platform": "cpu", **records.versions(package)})


def _inputs(options: Options) -> dict[str, np.ndarray]:
    """Returns a batch of inputs of the exported program by name."""
    if options["model"] != GCGAN:
        return {"images": networks.batch(options, 0)[0]}
    from dim_jax.gan.gan_run import open_gan_run
    from dim_jax.gan.synthesis import inputs_of_seeds

    generator, size = open_gan_run(options["files"]["run"]).synthesizer.generator, options["batch_size"]
    latents, noise = inputs_of_seeds(generator, range(size))
    flat_noise = {"noise": np.concatenate([part.reshape(size, -1) for part in noise.values()], 1)} if noise else {}
    return {"latents": latents, **flat_noise}


def build_onnx(options: Options) -> Side:
    """Builds ONNX Runtime on the exported file."""
    session, inputs = _session(options["files"]["onnx"], options), _inputs(options)
    output = session.get_outputs()[0].name
    return _side(lambda: session.run([output], inputs), "onnxruntime")


def build_stablehlo(options: Options) -> Side:
    """Builds JAX on the exported file."""
    import jax

    program = jax.export.deserialize(bytearray(Path(options["files"]["stablehlo"]).read_bytes()))
    call, inputs = jax.jit(program.call), _inputs(options).values()
    return _side(lambda: np.asarray(call(*inputs)[0]), "jax")


def build_predict(options: Options) -> Side:
    """Builds the evaluation step of predict."""
    from dim_jax.evaluation.classifier_run import open_classifier_run
    from dim_jax.models.prepared_weights import prepare_weights
    from dim_jax.steps.classifier import make_eval_step
    from dim_jax.steps.grad_cam import PREDICTED
    from dim_jax.training import parallel

    run, (images, _) = open_classifier_run(options["files"]["run"]), networks.batch(options, 0)
    step, variables = parallel.pmap_eval_step(make_eval_step(run.model)), parallel.replicate(run.variables)
    one_image = np.zeros((1, *images.shape[1:]), np.float32)
    variables |= parallel.jit_replicated(lambda variables: prepare_weights(run.model, variables, one_image))(variables)
    batch = {"image": images, "explained": np.full(len(images), PREDICTED, np.int32)}
    return _side(
        lambda: np.asarray(step(variables, parallel.shard(batch), (run.mean, run.std), None)[0]), "jax"
    )  # fmt: skip


def build_generate(options: Options) -> Side:
    """Builds what generate runs."""
    from dim_jax.gan.gan_run import open_gan_run

    synthesizer = open_gan_run(options["files"]["run"]).synthesizer
    return _side(lambda: synthesizer.images(range(options["batch_size"])), "jax")


def build_torch(options: Options) -> Side:
    """Builds ONNX Runtime on what PyTorch exports of the same network, for normalised images."""
    import torch
    from torch_efficientnet_lite import EfficientNetLite

    network = EfficientNetLite.named(options["model"], len(CLASSES)).eval()
    images = torch.from_numpy(networks.batch(options, 0)[0]).permute(0, 3, 1, 2).float().contiguous() / 255
    axes = {"images": {0: "batch"}, "logits": {0: "batch"}, "features": {0: "batch"}}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "torch.onnx"))
        torch.onnx.export(
            network, (images,), path, input_names=["images"], output_names=["logits", "features"], dynamic_axes=axes,
            dynamo=False,
        )  # fmt: skip
        session = _session(path, options)
    inputs = {"images": images.numpy()}
    return _side(lambda: session.run(["logits"], inputs), "torch")


def measure(options: Options, images: Path, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Exports one network and times all sides.

    Returns:
      rows of the table, and what was measured.
    """
    from dim_jax.interop.export_record import beside
    from dim_jax.interop.program_exports import export_program
    from dim_jax.runs import files

    paths, rows = {"run": str(folder / "run")}, {}
    if options["model"] == GCGAN:
        write_gan_run(folder / "run", options)
    else:
        write_classifier_run(folder / "run", options)
    for target in ("onnx", "stablehlo"):
        path = folder / f"model.{target}"
        export_program(folder / "run", path, target, images=() if options["model"] == GCGAN else (images,))
        differences = files.read_json(beside(path))["comparison"]["largest_differences"]
        difference = differences["images"] if options["model"] == GCGAN else differences["probabilities"]
        paths[target], rows[target] = str(path), (f"{difference:.1e}", f"{path.stat().st_size / 1e6:.1f}")
    builds: dict[str, Build] = {GENERATE: build_generate} if options["model"] == GCGAN else {PREDICT: build_predict}
    builds |= {"onnx": build_onnx, "stablehlo": build_stablehlo}
    if options["model"].startswith("efficientnet"):
        builds[THEIRS] = build_torch
    results = paired.measure(builds, {**options, "files": paths})
    table = []
    for name, side in results["sides"].items():
        difference, size = rows.get(name, ("", ""))
        milliseconds = side["milliseconds_per_step"]["median"] / options["batch_size"]
        row = {"network": options["model"], "target": name, "difference": difference, "MB": size, "ms": milliseconds}
        table.append(row)
    return table, results


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = paired.parser("exported", SUMMARY, EXAMPLES, image_size=224)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, with commas (default: %(default)s)")
    sides = networks.GAN_SIZES
    parser.add_argument("--gan-size", type=int, default=256, choices=sides, help="px of GCGAN's images (default 256)")
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    options |= {"platform": "cpu", "latency": True}
    paired.check(options)
    names = command_line.comma_separated(options["networks"])
    for name in names:
        if name not in NETWORKS:
            raise ValueError(f"--networks={name} is not one of {', '.join(NETWORKS)}")
    networks.our_device(options)
    environment = records.environment(options)
    from dim_jax.data.preparation import prepare_dataset

    print("| network | target | largest difference | MB | ms per image |\n|---|---|---|---|---|")
    measured = {}
    with tempfile.TemporaryDirectory() as root:
        images = prepare_dataset("phantom", Path(root, "data"), image_size=options["image_size"], scale=0.03)
        for name in names:
            table, measured[name] = measure({**options, "model": name}, Path(images), Path(root, name))
            for row in table:
                print(f"| {name} | {row['target']} | {row['difference']} | {row['MB']} | {row['ms']:.1f} |", flush=True)
    others = max(results["cores_used_by_others"] or 0 for results in measured.values())
    print(
        f"\n{environment['cpu']}, {environment['threads']} threads, batches of {options['batch_size']}, "
        f"{options['image_size']} px, {environment['date']}; other processes kept up to {others:.2f} of "
        f"{environment['cores']} cores busy"
    )
    records.write("exported", options, {"environment": environment, "networks": measured})


if __name__ == "__main__":
    sys.exit(command_line.run(main))
