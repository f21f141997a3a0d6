"""Packing of runs: a folder of a few MB that every command opens as a run, without images and optimizer."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data import field_statistics, images
from dim_jax.data.dataset import Dataset, open_run_dataset
from dim_jax.evaluation import validation
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.gan.gan_run import open_gan_run
from dim_jax.interop import program_cards
from dim_jax.reporting import cards
from dim_jax.runs import configuration, files, workdir
from dim_jax.training import packed_runs
from dim_jax.training.packed_runs import RECORD

FORMAT = 1


def pack_run(run: str | Path, out: str | Path, data_name: str = "", licence: str = "") -> str:
    """Writes a run of a classifier (its best checkpoint) or a GAN (its newest, averaged) as a packed run with a card.

    It holds config.json without the path of the data, weights.safetensors, packed.json (where it comes from, what it
    was trained on, digests of its training images, their field statistics) and, for a classifier, its scores, the
    logits of its validation images, and the adjustment that was chosen on them.

    Args:
      run: run directory.
      out: folder to write, new or empty.
      data_name: name of the data set.
      licence: of the data, and so of the weights; if it is "", the card has what `prepare` recorded.

    Returns:
      A summary of what was written.

    Raises:
      FileNotFoundError: there is no run, no checkpoint, or its training images are not where they were.
      ValueError: the run was imported without images, or is a classifier of features; or `out` is not empty.
    """
    run, out = Path(run), Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"--out={out} is not an empty folder; choose another")
    config = configuration.read_saved(run / configuration.FILE_NAME)
    parsed = configuration.read_config(run, "classifier", "gan")
    if not parsed.data.path:
        raise ValueError(f"{run} was imported without images, so what it was trained on is unknown")
    dataset = open_run_dataset(run, parsed)
    config["data"] = {**config["data"], "path": ""}
    if parsed.trainer == "gan":
        step, state, more = _gan(run, config)
    else:
        if parsed.data.backend == "features":
            raise ValueError(f"{run} is a classifier of features, not of images, and cannot be packed")
        step, state, more = _classifier(run, config, dataset)
    with files.replacement(out, is_folder=True) as folder:
        files.write_json(folder / configuration.FILE_NAME, config)
        weights = packed_runs.save(folder, step, state)
        record = {
            "format": FORMAT,
            "data": {"name": data_name, "licence": licence, **_facts(dataset)},
            "step": step,
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "trained": _environment(run),
            **more,
        }
        files.write_json(folder / RECORD, record)
        _copy_evaluations(run, folder)
        cards.write(folder / cards.FILE_NAME, program_cards.packed_card(run, out.name, config, record))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return f"{parsed.model.name or 'GAN'} at step {step}, {size / 1e6:.1f} MB\n{out}"


def _classifier(run: Path, config: dict[str, Any], dataset: Dataset) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Returns the step and variables of a classifier and its part of the record; completes its configuration."""
    opened = open_classifier_run(run)
    config["data"] |= {"mean": opened.mean.tolist(), "std": opened.std.tolist()}
    config["classes"] = opened.classes
    config["train"] = {**config["train"], "initial_weights": _source(config["train"])}
    rows = dataset.rows("train")
    squares = images.read_squares(
        [dataset.file(row) for row in rows.tolist()], opened.config.data.image_size, opened.config.data.resize
    )
    descriptors = np.concatenate([field_statistics.describe(square[None]) for square in squares])
    return opened.step, opened.variables, {"fields": field_statistics.fit(descriptors).to_json()}


def _gan(run: Path, config: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Returns the step and the averaged generator of a GAN, and its part of the record."""
    opened = open_gan_run(run)
    config["classes"] = opened.classes if opened.label is None else (opened.label,)
    variables = dict(opened.synthesizer.variables)
    state = {"ema_params": variables.pop("params"), "generator": variables}
    return opened.step, state, {"split_sha256": opened.split_sha256}


def _source(train: Mapping[str, Any]) -> str:
    """Returns where a run's weights began, without the path of another run."""
    source = train.get("initial_weights", "random")
    return source if source in ("random", "imagenet") else Path(source).name


def _facts(dataset: Dataset) -> dict[str, Any]:
    """Returns the numbers of images of each class and part and of groups, and digests of the training images."""
    counts = {}
    for part in ("train", "val", "test"):
        labels = dataset.labels[dataset.rows(part)]
        counts[part] = {name: int((labels == label).sum()) for label, name in enumerate(dataset.classes)}
    rows = dataset.manifest.rows
    return {
        "images": counts,
        "groups": len({row.group for row in rows if row.group}),
        "fingerprint": dataset.manifest.fingerprint,
        "split_sha256": dataset.split_sha256,
        "training_images": sorted(packed_runs.digest(rows[row].sha256) for row in dataset.rows("train").tolist()),
    }


def _environment(run: Path) -> dict[str, Any]:
    """Returns when and with which revision and versions a run was trained."""
    path = run / workdir.ENVIRONMENT
    environment = files.read_object(path) if path.is_file() else {}
    return {name: environment.get(name) for name in ("started", "git_hash", "python", "versions")}


def _copy_evaluations(run: Path, folder: Path) -> None:
    """Copies the scores on validation and test images, the adjustment, and logits and labels of validation images."""
    for part in ("val", "test"):
        path = run / "eval" / part / "metrics.json"
        if path.is_file():
            files.write_json(folder / "eval" / part / path.name, files.read_json(path))
    adjustment = validation.folder(run) / validation.FILE_NAME
    if adjustment.is_file():
        files.write_json(validation.folder(folder) / validation.FILE_NAME, files.read_json(adjustment))
    predictions = validation.folder(run) / "predictions.npz"
    if predictions.is_file():
        arrays = files.read_arrays(predictions, ("logits", "label"))
        np.savez(validation.folder(folder) / predictions.name, **arrays)  # type: ignore[arg-type]
