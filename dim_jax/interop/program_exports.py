"""Export of runs as ONNX or StableHLO files, each compared with its run before it is written."""

import contextlib
import hashlib
import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import dim_jax
from dim_jax.cli import command_line
from dim_jax.data.dataset import open_run_dataset
from dim_jax.evaluation.calibration import probabilities
from dim_jax.evaluation.ensembles import Classifier, is_ensemble
from dim_jax.evaluation.predictor import views_of
from dim_jax.gan.gan_run import GanRun, open_gan_run
from dim_jax.gan.synthesis import GROUP, inputs_of_seeds
from dim_jax.interop import export_record, onnx_files, program_cards, stablehlo_files
from dim_jax.interop.inference_program import (
    InferenceProgram,
    Tensor,
    classifier_program,
    generator_program,
    logit_offsets,
    size_of_input,
)
from dim_jax.prediction.folder_images import find_images
from dim_jax.prediction.new_images import fit_on_validation, open_image_classifier, predict_files, preprocessing_of
from dim_jax.reporting import cards
from dim_jax.runs import configuration, files, outputs
from dim_jax.runs.workdir import package_versions

FORMAT = 1
TARGETS: dict[str, Any] = {"onnx": onnx_files, "stablehlo": stablehlo_files}
# Largest allowed differences from the run, by output.
ALLOWED = {"probabilities": 1e-4, "grad_cam": 1e-2, "images": 1.0}
NUM_IMAGES = 16  # of the run's own data, to compare on
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "jax2onnx", "onnx", "onnxruntime")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What a file is compared with.

    Attributes:
      inputs: one array of N examples for each input of the program.
      expected: one array for each of its outputs, as the run computes them.
      source: where the inputs come from.
    """

    inputs: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]
    source: str


def export_program(
    workdir: str | Path,
    out: str | Path,
    target: str,
    *,
    images: Sequence[str | Path] = (),
    use_views: bool | None = None,
    adjust: bool = False,
    calibrate: bool = False,
    with_map: bool = False,
) -> str:
    """Writes a run as a program that needs nothing of this package, and a JSON record and a card beside it.

    The file is run and compared with the run before it replaces `out`.

    Args:
      workdir: run directory of a classifier or a GAN, or directory of an ensemble.
      out: file to write.
      target: key of TARGETS.
      images: image files and folders to compare a classifier on; none for validation images of its own data.
      use_views, adjust, calibrate: as for prediction.new_images.predict_images.
      with_map: also return the Grad-CAM map of the predicted class.

    Returns:
      A summary of what was exported, several lines.

    Raises:
      FileNotFoundError: there is no run, no checkpoint, or no image to compare on.
      ValueError: the run cannot be exported, an option does not apply, the file's outputs differ from the run's, or it
        would replace a file that is no earlier export; nothing is written.
    """
    out = Path(out)
    outputs.check(out, is_folder=False, example=f"model.{target}")
    if target == "onnx":
        onnx_files.check_installed()
    paths = (out, export_record.beside(out))
    files.check_replaceable(paths, export_record.own_files(out))
    is_classifier = is_ensemble(Path(workdir)) or configuration.read_config(workdir).trainer == "classifier"
    if is_classifier:
        program, comparison, record = _classifier(workdir, images, use_views, adjust, calibrate, with_map)
    elif images or use_views is not None or adjust or calibrate or with_map:
        raise ValueError(f"{workdir} is a GAN; --images, --views, --adjust, --calibrate and --grad-cam do not apply")
    else:
        program, comparison, record = _generator(open_gan_run(workdir))
    try:
        serialized = TARGETS[target].serialize(program)
    except ValueError as error:
        raise ValueError(f"{workdir}: {error}") from None
    with files.turn(out):
        files.check_replaceable(paths, export_record.own_files(out))
        with contextlib.ExitStack() as listed, files.replacement(out) as temporary:
            temporary.write_bytes(serialized)
            differences = _compare(
                lambda batches: TARGETS[target].run(temporary, batches, program), program, comparison
            )
            _refuse_differences(workdir, differences)
            temporary.chmod(0o644)
            record = {
                "format": FORMAT,
                "file": out.name,
                "sha256": hashlib.sha256(serialized).hexdigest(),
                "to": target,
                **record,
                "inputs": [_tensor(tensor, program) for tensor in program.inputs],
                "outputs": [_tensor(tensor, program) for tensor in program.outputs],
                "comparison": {
                    "examples": len(comparison.inputs[0]),
                    "source": comparison.source,
                    "largest_differences": differences,
                },
                "command": command_line.command() or None,
                "versions": {
                    "python": platform.python_version(),
                    "dim_jax": dim_jax.__version__,
                    **package_versions(PACKAGES),
                },
            }
            # Listed before the file is in its place, which is when the block of the replacement ends.
            listed.enter_context(export_record.listed(out, record["sha256"], record))
        cards.write(program_cards.card_path(out), program_cards.program_card(workdir, files.to_json(record)))
    shown = ", ".join(f"{name} {value:.2g}" for name, value in differences.items())
    return (
        f"{record['network']} at step {record['checkpoint_step']}, {len(serialized) / 1e6:.1f} MB\n"
        f"largest difference from the run on {len(comparison.inputs[0])} {comparison.source}: {shown}\n{out}"
    )


def _classifier(
    workdir: str | Path,
    images: Sequence[str | Path],
    use_views: bool | None,
    adjust: bool,
    calibrate: bool,
    with_map: bool,
) -> tuple[InferenceProgram, Comparison, dict[str, Any]]:
    """Returns the program of a classifier, what to compare it with, and the record's description of the network."""
    classifier = open_image_classifier(workdir)
    views = [views_of(run.config, run.workdir, use_views) for run in classifier.members]
    adjustment, temperature, _ = fit_on_validation(classifier, sum(map(len, views)), adjust, calibrate, None)
    program = classifier_program(classifier, views, adjustment, temperature, with_map)
    paths, source = _images_to_compare(classifier, images)
    sources, predictions, logits = predict_files(classifier, paths, views, adjustment, temperature)
    expected: list[np.ndarray] = [probabilities(logits)]
    if with_map and predictions[0].grad_cam is not None:
        expected.append(predictions[0].grad_cam)
    is_readable = predictions[0].index  # files are unreadable to all members or to none
    pixels = {}
    for run, folder_images in zip(classifier.members, sources, strict=True):
        size = size_of_input(run)
        if size not in pixels:
            (batch,) = folder_images.batches([is_readable])
            pixels[size] = batch["image"]
    record = {
        "network": " + ".join(run.config.model.name for run in classifier.members),
        "classes": classifier.classes,
        "preprocessing": [
            preprocessing_of(run) | {"views": len(member_views)}
            for run, member_views in zip(classifier.members, views, strict=True)
        ],
        "temperature": adjustment["temperature"] if adjustment else temperature,
        "offsets": logit_offsets(adjustment, len(classifier.classes)),
        "run": Path(workdir).name,
        "members": [run.workdir.name for run in classifier.members] if classifier.is_ensemble else None,
        "checkpoint_step": classifier.step,
    }
    return program, Comparison(tuple(pixels.values()), tuple(expected), source), record


def _images_to_compare(classifier: Classifier, images: Sequence[str | Path]) -> tuple[list[Path], str]:
    """Returns image files, and what they are.

    Raises:
      FileNotFoundError: there are none.
    """
    if images:
        return find_images(images).paths, "images of --images"
    run = classifier.members[0]
    try:
        dataset = open_run_dataset(run.workdir, run.config)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; or give images to compare the exported file on with --images=FOLDER"
        ) from None
    rows = dataset.rows("val")
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(NUM_IMAGES, len(rows))).round().astype(int))]
    return [dataset.file(row) for row in chosen.tolist()], "validation images"


def _generator(run: GanRun) -> tuple[InferenceProgram, Comparison, dict[str, Any]]:
    """Returns the program of a GAN's generator, what to compare it with, and the record's description of it."""
    program, generator = generator_program(run), run.synthesizer.generator
    seeds = range(GROUP)
    # A group whose statistics its images share is of one class.
    num_labels = max(generator.num_classes, 1) if program.batch_size is None else 1
    labels = np.arange(GROUP, dtype=np.int32) % num_labels
    latents, noise = inputs_of_seeds(generator, seeds)
    arrays = {
        "latents": latents,
        "noise": np.concatenate([part.reshape(GROUP, -1) for part in noise.values()], 1) if noise else None,
        "label": labels,
    }
    expected = np.zeros((GROUP, generator.size, generator.size, 3), np.uint8)
    for label in np.unique(labels).tolist():
        expected[labels == label] = run.synthesizer.images(seeds, label)[labels == label]
    record = {
        "network": "gcgan",
        "classes": run.classes,
        "run": run.workdir.name,
        "checkpoint_step": run.step,
        "model_sha256": run.synthesizer.model_hash,
    }
    inputs = tuple(arrays[tensor.name] for tensor in program.inputs)
    return program, Comparison(inputs, (expected,), f"images of the seeds 0 to {GROUP - 1}"), record


def _compare(
    run: Callable[[Sequence[Sequence[np.ndarray]]], list[list[np.ndarray]]],
    program: InferenceProgram,
    comparison: Comparison,
) -> dict[str, float]:
    """Returns the largest difference of each output, in batches of one example and of all others."""
    is_divisible = program.batch_size is None and len(comparison.inputs[0]) > 1
    ends = (slice(0, 1), slice(1, None)) if is_divisible else (slice(None),)
    batches = run([[array[part] for array in comparison.inputs] for part in ends])
    return {
        tensor.name: float(np.abs(np.concatenate(parts).astype(np.float64) - expected).max())
        for tensor, parts, expected in zip(
            program.outputs, zip(*batches, strict=True), comparison.expected, strict=True
        )
    }


def _refuse_differences(workdir: str | Path, differences: dict[str, float]) -> None:
    for name, value in differences.items():
        if not value <= ALLOWED[name]:
            raise ValueError(
                f"{workdir}: the exported program's {name} differ from the run's by up to {value:.2g}, and at most "
                f"{ALLOWED[name]:g} is allowed, so nothing is written; on an accelerator export with JAX_PLATFORMS=cpu"
            )


def _tensor(tensor: Tensor, program: InferenceProgram) -> dict[str, Any]:
    return {"name": tensor.name, "shape": [program.batch_size or "batch", *tensor.shape], "dtype": tensor.dtype}
