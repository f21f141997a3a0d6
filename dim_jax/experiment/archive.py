"""Archives of the predictions of an experiment's runs on validation and test images, small enough to be shared.

These files alone are enough to continue an experiment and to recompute all of its statistics.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data.dataset import Dataset
from dim_jax.runs import fields, files
from dim_jax.runs.configuration import EARLIER_LOSS_OPTIONS
from dim_jax.runs.fields import Added
from dim_jax.runs.schema import LOSS, NETWORK, ClassifierConfig
from dim_jax.runs.workdir import MAY_DIFFER, flatten_config

REVISION = 3  # of the configuration, when the first predictions were archived
SPLITS, KINDS = ("val", "test"), ("rows", "logits")
# Paths do not identify a run; the added images are identified by a digest of their own.
PLACES = frozenset({"data.path", "data.generated", "data.generated_count"})


@dataclass(frozen=True)
class Archived:
    """The predictions of one run.

    Attributes:
      rows: rows of the manifest by split, int32 (N,), ascending.
      logits: by split, float32 (N, C).
      facts: JSON-ready: the step of the checkpoint, how many images were added, seconds.
    """

    rows: Mapping[str, np.ndarray]
    logits: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


def fingerprint(config: ClassifierConfig, amount: float, start: str = "") -> str:
    """Returns the SHA-256 of a run's configuration, without paths and speed options, and its number of added images.

    Args:
      config: configuration of the run.
      amount: how many images it adds, as a count or a share; see `Arm.amount`.
      start: fingerprint of the run whose weights it starts from, which takes the place of that run's path; "": none.
    """
    left_out = PLACES | MAY_DIFFER
    identity = {name: value for name, value in _canonical(config).items() if name not in left_out}
    if start:
        identity["train.initial_weights"] = start
    text = json.dumps([sorted(identity.items()), amount], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(config: ClassifierConfig) -> dict[str, Any]:
    """Returns a configuration by dotted names, in the form it had when the first predictions were archived.

    The fingerprints of earlier archives must not change. Up to revision 4 a configuration held the options of all
    losses, and of a model's options width, dtype and those that were set. Fields added later are included only where
    they differ from the behaviour of earlier runs.
    """
    values = flatten_config(files.to_json(fields.to_dict(config)))
    loss, model = LOSS.of(config.loss.name), NETWORK.of(config.model.name)
    before = {f"model.{name}": files.to_json(option.default) for name, option in model.items()}
    before = {name: value for name, value in before.items() if name not in ("model.width", "model.dtype")}
    before |= {f"loss.{name}": option.default for name, option in loss.items() if name not in EARLIER_LOSS_OPTIONS}
    for group, annotation in fields.field_types(ClassifierConfig).items():
        of_group = fields.plain(annotation)
        for name, annotation in fields.field_types(of_group).items() if dataclasses.is_dataclass(of_group) else ():
            added = fields.metadata(annotation, Added)
            if added is not None and added.since > REVISION:
                before[f"{group}.{name}"] = files.to_json(added.before)
    values = {name: value for name, value in values.items() if name not in before or value != before[name]}
    return {f"loss.{name}": value for name, value in EARLIER_LOSS_OPTIONS.items()} | values


def write(
    path: Path,
    run: Path,
    config: ClassifierConfig,
    amount: float,
    dataset: Dataset,
    start: str = "",
    requested: int | None = None,
) -> None:
    """Writes the predictions of the finished run directory `run` to the file `path`.

    Args:
      config, amount, start: as for `fingerprint`.
      dataset: the run's dataset, with the images it added.
      requested: how many images it adds where enough were selected; None for as many as it added.
    """
    arrays: dict[str, np.ndarray] = {}
    for split in SPLITS:
        with np.load(run / "eval" / split / "predictions.npz", allow_pickle=False) as predictions:
            order = np.argsort(predictions["index"])
            arrays[f"{split}_rows"], arrays[f"{split}_logits"] = (
                predictions["index"][order],
                predictions["logits"][order],
            )
    metrics = files.read_json(run / "eval" / "test" / "metrics.json")
    seconds = ("training_seconds_per_100_images", "test_seconds_per_image")
    digest = hashlib.sha256()
    for image, label in dataset.generated:
        digest.update(image.read_bytes() + bytes([label]))
    facts = {
        "checkpoint_step": metrics["checkpoint_step"],
        "added": len(dataset.generated),
        "requested": len(dataset.generated) if requested is None else requested,
        "added_sha256": digest.hexdigest() if dataset.generated else None,
        **{name: metrics.get(name) for name in seconds},
    }
    identity = {"fingerprint": fingerprint(config, amount, start), "split_sha256": dataset.split_sha256, "facts": facts}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, identity=np.array(json.dumps(identity)), **arrays)
    files.write_bytes(path, buffer.getvalue())


def read(path: Path, config: ClassifierConfig, amount: float, dataset: Dataset, start: str = "") -> Archived | None:
    """Returns the predictions in `path`, or None if there is no such file yet.

    Args:
      path: the file.
      config, amount, start: as for `fingerprint`.
      dataset: the dataset with the split of the run's fold.

    Raises:
      ValueError: the file is broken, of another configuration, or of another split.
    """
    if not path.is_file():
        return None
    try:
        arrays = files.read_arrays(path, ("identity", *(f"{split}_{what}" for split in SPLITS for what in KINDS)))
        rows, logits = ({split: arrays[f"{split}_{what}"] for split in SPLITS} for what in KINDS)
        identity = json.loads(str(arrays["identity"]))
        if not isinstance(identity, dict) or not isinstance(identity.get("facts"), dict):
            raise ValueError("no facts of the run in it")
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is broken ({error}); remove it to make the run again") from None
    if identity.get("fingerprint") != fingerprint(config, amount, start):
        raise ValueError(
            f"{path} holds the predictions of another configuration; use another --workdir, or remove the file to "
            "make the run again"
        )
    if identity.get("split_sha256") != dataset.split_sha256:
        raise ValueError(f"{path} holds predictions on another split; use another --workdir")
    for split in SPLITS:
        expected = dataset.rows(split)
        fits = logits[split].shape == (len(expected), len(dataset.classes)) and logits[split].dtype.kind == "f"
        if not fits or not np.isfinite(logits[split]).all() or not np.array_equal(rows[split], expected):
            raise ValueError(f"{path} does not hold one prediction per {split} image; remove it to make the run again")
    return Archived(rows, logits, identity["facts"])
