"""Export of a run's weights to a file of the published code."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.interop import export_record, program_cards, published_files
from dim_jax.interop.export_record import ExportRecord
from dim_jax.interop.published_files import DISCRIMINATOR, GENERATOR
from dim_jax.models import make_gan
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.reporting import cards
from dim_jax.runs import configuration, files, outputs
from dim_jax.training import checkpoints, loop
from dim_jax.weights import gcgan_names, safetensor_files, torch_names, torch_writer


def export_run(run: str | Path, out: str | Path, file_format: str, checkpoint: str = "best") -> str:
    """Writes the weights of a run in the format of the published code, and a record (export_record) and a card of them.

    Args:
      run: run directory.
      out: file to write.
      file_format: "torch" or "safetensors".
      checkpoint: for a classifier "best" on validation, or "newest"; a GAN is always exported at its newest.

    Returns:
      A summary of what was exported, several lines.

    Raises:
      FileNotFoundError: there is no run, or no checkpoint.
      ValueError: the published code has no such network, `out` is a folder, or an export would replace another file.
    """
    out = Path(out)
    outputs.check(out, is_folder=False, example="model.pth")
    paths = (out, export_record.beside(out))
    files.check_replaceable(paths, export_record.own_files(out))
    is_gan = configuration.read_config(run, "classifier", "gan").trainer == "gan"
    tensors: Any
    tensors, record, summary = _gan_tensors(run) if is_gan else _classifier_tensors(run, checkpoint)
    text = export_record.to_text(record)
    if file_format == "torch":
        encoded = torch_writer.encode(tensors, {f"{export_record.KEY}.json": text})
    else:
        if is_gan:
            tensors = {f"{key}.{name}": array for key, part in tensors.items() for name, array in part.items()}
        encoded = safetensor_files.encode(tensors, {export_record.KEY: text})
    with files.turn(out):
        files.check_replaceable(paths, export_record.own_files(out))
        with export_record.listed(out, hashlib.sha256(encoded).hexdigest(), json.loads(text)):
            files.write_bytes(out, encoded)
        cards.write(program_cards.card_path(out), program_cards.weights_card(run, out))
    return f"{summary}\n{out}"


def _classifier_tensors(run: str | Path, checkpoint: str) -> tuple[dict[str, Any], ExportRecord, str]:
    """Returns the PyTorch state dict of a classifier's run, its record, and a summary with its preprocessing."""
    classifier = open_classifier_run(run, checkpoint)
    if not isinstance(classifier.model, LRFCNN):
        name = classifier.config.model.name
        raise ValueError(f"{run} is {name}, which the published code does not have; only LRF-CNN can be exported")
    tensors = torch_names.to_torch(classifier.variables, torch_names.lrf_cnn_names(classifier.model))
    data = classifier.config.data
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (classifier.mean, classifier.std))
    summary = (
        f"LRF-CNN at step {classifier.step}; outputs, in order: {', '.join(classifier.classes)}\n"
        f"for images of {data.image_size} px ({data.resize}), scaled to [0, 1], mean {mean}, std {std}"
    )
    return published_files.with_counters(tensors, classifier.step), export_record.of_classifier(classifier), summary


def _gan_tensors(run: str | Path) -> tuple[dict[str, dict[str, Any]], ExportRecord, str]:
    """Returns the PyTorch state dicts of a GAN's run, with averaged parameters, its record, and a summary."""
    config = configuration.read_config(run, "gan")
    restored = checkpoints.restore(Path(run, loop.CHECKPOINTS))
    if restored is None:
        raise FileNotFoundError(f"{run} holds no checkpoint yet; train the run first")
    if config.gan.conditional:
        raise ValueError(f"{run} is a class-conditional GAN, which the published code does not have")
    models: tuple[Any, ...] = make_gan(config.data.image_size, 0, **config.model.options)
    name_maps: Any = (gcgan_names.generator_names, gcgan_names.discriminator_names)
    state_dicts = {}
    for kind, model, name_map in zip((GENERATOR, DISCRIMINATOR), models, name_maps, strict=True):
        if kind in restored.state:
            variables = {name: restored.state[kind][name] for name in ("params", "batch_stats", "spectral")}
            if kind == GENERATOR:
                variables["params"] = restored.state["ema_params"]
            tensors = gcgan_names.to_torch(variables, name_map(model))
            state_dicts[published_files.KEYS[kind]] = published_files.with_counters(tensors, restored.step)
    summary = f"GCGAN of {config.gan.label} at step {restored.step}, averaged generator"
    return state_dicts, export_record.of_gan(run, config), summary
