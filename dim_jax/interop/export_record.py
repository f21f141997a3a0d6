"""Record of an export: what weights do not contain, such as classes and preprocessing.

It is inside the file, where PyTorch ignores it (in the metadata of a .safetensors, as an entry of its own in the ZIP
archive of a .pth), and in a JSON beside it for people and other programs.
"""

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from dim_jax.data.dataset import Dataset
from dim_jax.evaluation.classifier_run import ClassifierRun
from dim_jax.runs import fields, files
from dim_jax.runs.schema import GENERATOR, MAX_FOLDS, NETWORK, GanConfig, Share
from dim_jax.weights import safetensor_files, torch_files

KEY = "dim_jax"
FORMAT = 1
NEXT = "next_sha256"  # digest of a file that is being written
# Fields of the networks that names and shapes of the weights do not determine.
UNSEEN = {"classifier": ("branches", "drop_connect", "dtype"), "gan": ("tanh", "dtype")}


@dataclass(frozen=True)
class ExportRecord:
    """What an export knows about itself.

    Attributes:
      trainer: of the run that was exported.
      classes: names of the outputs, in order; of a GAN, the class that it generates.
      image_size: side of the images in px.
      resize: how images are made square (data.images.resize).
      mean, std: per-channel statistics for images in [0, 1]; empty for a GAN.
      network: options of the network that its weights do not determine.
      fold: of the data that the run was trained on.
      split_sha256: Dataset.split_sha256 of its split; "" if unknown.
      augment: augmentation that takes part in predictions (config.augment.test_time_views), if any.
      statistics: `config.gan.statistics` of a GAN; "" for a classifier.
    """

    trainer: Literal["classifier", "gan"]
    classes: tuple[str, ...]
    image_size: Annotated[int, Interval(ge=16, le=4096)]
    resize: Literal["squash", "crop", "pad"]
    mean: tuple[Share, ...] = ()
    std: tuple[Share, ...] = ()
    network: dict[str, Any] = field(default_factory=dict)
    fold: Annotated[int, Interval(ge=0, le=MAX_FOLDS - 1)] = 0
    split_sha256: str = ""
    augment: dict[str, bool] = field(default_factory=dict)
    statistics: Literal["", "recalibrated", "batch"] = ""


def of_classifier(run: ClassifierRun) -> ExportRecord:
    """Returns the record of a classifier's run; its images are not needed."""
    data, augment = run.config.data, run.config.augment
    views = bool(getattr(augment, "test_time_views", False))
    return ExportRecord(
        trainer="classifier",
        classes=run.classes,
        image_size=data.image_size,
        resize=data.resize,
        mean=tuple(map(float, run.mean)),
        std=tuple(map(float, run.std)),
        network={name: run.config.model.options[name] for name in UNSEEN["classifier"]},
        fold=data.fold,
        split_sha256=_split(run.workdir, data.fold) if data.path else "",
        augment={"test_time_views": True, "flip": augment.flip, "rotate": augment.rotate} if views else {},
    )


def of_gan(workdir: str | Path, config: GanConfig) -> ExportRecord:
    """Returns the record of the run of a GAN for one class; its images are not needed."""
    data = config.data
    return ExportRecord(
        trainer="gan",
        classes=(config.gan.label,),
        image_size=data.image_size,
        resize=data.resize,
        network={name: config.model.options[name] for name in UNSEEN["gan"]},
        fold=data.fold,
        split_sha256=_split(workdir, data.fold) if data.path else "",
        statistics=config.gan.statistics,
    )


def _split(workdir: str | Path, fold: int) -> str:
    manifest = manifests.load(workdir)
    return Dataset(manifest, splits.load(workdir, manifest), fold).split_sha256


def to_text(record: ExportRecord) -> str:
    """Returns the record as JSON."""
    return json.dumps({"format": FORMAT, **files.to_json(vars(record))}, ensure_ascii=False)


def read(path: str | Path) -> ExportRecord | None:
    """Reads the record in a .pth or .safetensors file; None if it has none, or is no such file.

    Raises:
      ValueError: the record is damaged or of a later version, or the file has none and an export was there before.
    """
    is_safetensors = Path(path).suffix == ".safetensors"
    text = safetensor_files.metadata(path, KEY) if is_safetensors else torch_files.entry(path, f"{KEY}.json")
    if text is None:
        if files.is_file(Path(path)) and own_files(path):
            raise ValueError(
                f"{path} has no record of its classes and preprocessing, and is not the file that {beside(path)} is "
                "of; move the latter away, and give --classes, --image-size, --resize, --mean and --std, as in it if "
                "only the weights were saved again"
            )
        return None
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        record = fields.parse(ExportRecord, values, "record")
        known = NETWORK.of("lrf_cnn") if record.trainer == "classifier" else GENERATOR.of("")
        for name, value in record.network.items():
            if name not in UNSEEN[record.trainer]:
                raise ValueError(f"record.network.{name} is not one of {', '.join(UNSEEN[record.trainer])}")
            fields.convert(known[name].annotation, value, f"record.network.{name}")
        number = len(set(record.classes))
        if number != len(record.classes) or (number < 2 if record.trainer == "classifier" else number != 1):
            raise ValueError(f"record.classes={record.classes} are not the outputs of a {record.trainer}")
        if record.trainer == "classifier" and not (len(record.mean) == len(record.std) == 3 and min(record.std) > 0):
            raise ValueError("record.mean and record.std are not three numbers each, std above 0")
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: the record of its classes is damaged ({reason}); export it again") from None
    return record


def complete(config: dict[str, Any], record: ExportRecord, overrides: Collection[str]) -> None:
    """Sets the fields of a configuration that an export records, in place, unless they are overridden.

    Args:
      config: configuration to continue training with.
      record: of the file that it continues.
      overrides: names of overrides, such as "--config.data.image_size".
    """
    values = {f"data.{name}": getattr(record, name) for name in ("image_size", "resize", "mean", "std")}
    values |= {"gan.statistics": record.statistics} if record.trainer == "gan" else {}
    values |= {f"model.{name}": value for name, value in record.network.items()}
    for name, value in values.items():
        group, _, key = name.partition(".")
        if f"--config.{name}" not in overrides and value != ():
            config[group][key] = value


def beside(path: str | Path) -> Path:
    """Returns the path of the JSON beside an export."""
    return Path(path).with_name(f"{Path(path).name}.json")


@contextlib.contextmanager
def listed(path: str | Path, sha256: str, record: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, which writes or replaces an export, the JSON beside it lists the new file besides the old one.

    So `own_files` knows an export whose writer was killed at any moment. At the end the JSON is that of the new file.

    Args:
      path: the export.
      sha256: digest of the new file.
      record: further entries of the JSON.
    """
    try:
        before = files.read_object(beside(path))
    except (OSError, ValueError):
        before = {}
    files.write_json(beside(path), {"file": Path(path).name, "sha256": None, **before, NEXT: sha256})
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if before:
                files.write_json(beside(path), before)
            else:
                beside(path).unlink()
        raise
    files.write_json(beside(path), {**record, "file": Path(path).name, "sha256": sha256})


def own_files(path: str | Path) -> set[Path]:
    """Returns those of an export and its JSON that an earlier export wrote, unchanged since."""
    try:
        entries = files.read_object(beside(path))
    except (OSError, ValueError):
        return set()
    if entries.get("file") != Path(path).name or "sha256" not in entries:
        return set()
    is_unchanged = Path(path).is_file() and _digest(path) in (entries["sha256"], entries.get(NEXT))
    return {beside(path), Path(path)} if is_unchanged else {beside(path)}


def _digest(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
