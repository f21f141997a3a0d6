"""Classifies new images with a trained or imported run: predictions.csv, predictions.json and Grad-CAM overlays."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dim_jax.cli import command_line
from dim_jax.data import images
from dim_jax.data.image_writer import safe_name
from dim_jax.data.images import SUFFIXES, png_bytes, read_square
from dim_jax.data.sources import files_below
from dim_jax.evaluation.calibration import fit_abstention, fit_temperature, probabilities
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.evaluation.predictor import Predictor
from dim_jax.reporting import saliency
from dim_jax.reporting.tables import cell
from dim_jax.runs import files
from dim_jax.training import compilation, parallel

if TYPE_CHECKING:
    from dim_jax.evaluation.calibration import Abstention
    from dim_jax.evaluation.classifier_run import ClassifierRun
    from dim_jax.evaluation.predictor import Predictions

NOTICE = "Research software, not a medical device: not for diagnosing anyone."
ANSWERED, ABSTAINED, UNREADABLE = "answered", "abstained", "unreadable"


@dataclass
class FolderImages:
    """Image files as predictor.Predictor takes them: images and dataset at once, with no labels.

    Attributes:
      paths: the files; a row is a place in this list.
      image_size, resize: how they are made square (data.images.resize).
      mean, std: what they are normalised by.
      reasons: why files could not be read, by row, as far as they have been asked for.
    """

    paths: Sequence[Path]
    image_size: int
    resize: str
    mean: np.ndarray
    std: np.ndarray
    reasons: dict[int, str] = field(default_factory=dict)
    pixels: None = None

    @property
    def labels(self) -> np.ndarray:
        """Zeros."""
        return np.zeros(len(self.paths), np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self.image_size, self.image_size, 3

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and std."""
        return self.mean, self.std

    def batches(self, row_batches: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Yields `image`, `mask` and `index`; what cannot be read has mask 0, as padding has."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for rows in row_batches:
                found = list(pool.map(self._read, rows.tolist()))
                empty = np.zeros((self.image_size, self.image_size, 3), np.uint8)
                yield {
                    "image": np.stack([empty if each is None else each for each in found]),
                    "mask": np.array([each is not None for each in found], np.float32),
                    "index": rows.astype(np.int32),
                }

    def _read(self, row: int) -> np.ndarray | None:
        if row < 0:
            return None
        try:
            return images.read_square(self.paths[row], self.image_size, self.resize)
        except (OSError, ValueError) as error:
            self.reasons[row] = " ".join(str(error).split()).removeprefix(f"{self.paths[row]}: ")
            return None


def find_images(given: Sequence[str | Path]) -> tuple[list[Path], int]:
    """Lists image files, sorted within each folder, each once; hidden files and folders are passed over.

    Args:
      given: folders, searched to any depth for files with an image's suffix; and files, which are taken as they are.

    Returns:
      The files, and how many others the folders hold.

    Raises:
      FileNotFoundError: one of `given` does not exist.
      ValueError: there are no images.
    """
    found: dict[Path, None] = {}
    others = 0
    for path in map(Path, given):
        if path.is_dir():
            below = sorted(files_below(path))
            images = [each for each in below if each.suffix.lower() in SUFFIXES]
            others += len(below) - len(images)
            found |= dict.fromkeys(images)
        elif path.is_file():
            found[path] = None
        else:
            raise FileNotFoundError(f"{path}: no such file or folder; give images, or folders of images")
    if not found:
        known = " ".join(sorted(SUFFIXES))
        raise ValueError(f"there are no images in {', '.join(map(str, given))}; known are {known}")
    return list(found), others


def predict_images(
    workdir: str | Path,
    given: Sequence[str | Path],
    out: str | Path,
    *,
    batch_size: int | None = None,
    overlays: int = 16,
    calibrate: bool = False,
    coverage: float | None = None,
) -> dict[str, Any]:
    """Classifies images and writes `out`/.

    Args:
      workdir: run directory of a classifier; its best checkpoint is used.
      given: as in `find_images`.
      out: folder of the results.
      batch_size: of all devices together; None takes that of the run's evaluation.
      overlays: how many Grad-CAM overlays to write, from the first image on; -1: all.
      calibrate: divide logits by the temperature that suits the validation images best.
      coverage: withhold answers that are unsure, so that this share of the validation images would get one; None: none.

    Returns:
      The content of predictions.json.

    Raises:
      FileNotFoundError: there is no run, no image, or no evaluation on validation where one is needed.
      ValueError: an option makes no sense, no image can be read, or something is broken; nothing is written then.
    """
    import jax

    for folder in given:
        if Path(folder).is_dir() and Path(out).resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError(f"--out={out} lies within {folder}, where the overlays would pass for images; move it out")
    paths, others = find_images(given)
    run = open_classifier_run(workdir)
    if run.config["data"]["backend"] == "features":
        raise ValueError(f"{workdir} takes frozen features, not images; give the run of a network that sees images")
    batch_size = run.config["train"]["eval_batch_size"] if batch_size is None else batch_size
    if batch_size < 1 or overlays < -1:
        raise ValueError(f"--batch-size={batch_size} must be at least 1 and --overlays={overlays} at least -1")
    temperature, abstention = _fitted(workdir, run, calibrate, coverage)
    compilation.configure_compilation()
    devices = jax.device_count()
    batch_size = min(batch_size, len(paths))
    data = run.config["data"]
    images = FolderImages(paths, data["image_size"], data["resize"], run.mean, run.std)
    predictor = Predictor(run.model, images, images, -(-batch_size // devices) * devices)
    variables = predictor.check_variables(run.variables, workdir)
    found = predictor(parallel.replicate(variables), np.arange(len(paths)))
    if not len(found.index):
        raise ValueError(f"none of the {len(paths)} files can be read; the first is {paths[0]} ({images.reasons[0]})")
    if not np.isfinite(found.logits).all():
        raise ValueError(f"{workdir}: the logits are not all finite; its training has diverged")
    probability = probabilities(found.logits, temperature)
    number = len(found.index) if overlays < 0 else overlays
    drawn = _draw_overlays(Path(out), images, found, 0 if found.grad_cam is None else number)
    threshold = abstention.threshold if abstention else 0.0
    lines: dict[int, dict[str, Any]] = {
        row: {"path": _text(paths[row]), "status": UNREADABLE, "reason": reason}
        for row, reason in images.reasons.items()
    }
    for place, row in enumerate(found.index.tolist()):
        confidence = float(probability[place].max())
        lines[row] = {
            "path": _text(paths[row]),
            "status": ANSWERED if confidence >= threshold else ABSTAINED,
            "predicted": run.classes[int(probability[place].argmax())],
            "confidence": confidence,
            "probabilities": dict(zip(run.classes, probability[place].tolist(), strict=True)),
            "overlay": drawn.get(row, ""),
        }
    content = {
        "notice": NOTICE,
        "workdir": str(workdir),
        "checkpoint_step": run.step,
        "classes": run.classes,
        "preprocessing": {
            "image_size": data["image_size"], "resize": data["resize"], "mean": run.mean, "std": run.std,
        },
        "temperature": temperature,
        "abstention": vars(abstention) if abstention else None,
        "files_passed_over": others,
        "images": [lines[row] for row in range(len(paths))],
    }  # fmt: skip
    files.write_text(Path(out, "predictions.csv"), _csv(content["images"], run.classes))
    files.write_json(Path(out, "predictions.json"), content)
    return content


def _fitted(
    workdir: str | Path, run: "ClassifierRun", calibrate: bool, coverage: float | None
) -> tuple[float, "Abstention | None"]:
    """Returns the temperature and the rule of abstention that the validation images give."""
    if not calibrate and coverage is None:
        return 1.0, None
    folder = Path(workdir, "eval", "val")
    file, again = folder / "predictions.npz", f"run python -m dim_jax.evaluate --workdir={workdir} --split=val"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; --calibrate and --coverage need it, so {again}")
    step = files.read_object(folder / "metrics.json").get("checkpoint_step")
    if step != run.step:
        raise ValueError(f"{folder} is of step {step}, the best checkpoint of step {run.step}; {again}")
    logits, labels = _validated(file, len(run.classes), again)
    temperature = fit_temperature(logits, labels) if calibrate else 1.0
    rule = None if coverage is None else fit_abstention(probabilities(logits, temperature), labels, coverage)
    return temperature, rule


def _validated(file: Path, num_classes: int, again: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits (N, C) and labels (N,) of an evaluation."""
    try:
        found = files.read_arrays(file, ("logits", "label"))
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from None
    logits, labels = found.get("logits", np.zeros(0)), found.get("label", np.zeros(0))
    fits = logits.dtype.kind == "f" and logits.shape == (len(labels), num_classes) and np.isfinite(logits).all()
    if not fits or not len(labels) or not np.isin(labels, np.arange(num_classes)).all():
        raise ValueError(f"{file} holds no predictions of {num_classes} classes; {again}")
    return logits, labels


def _draw_overlays(out: Path, images: FolderImages, found: "Predictions", number: int) -> dict[int, str]:
    """Writes the maps of the first images over what the network saw; returns their paths below `out` by row."""
    drawn = {}
    for place, row in enumerate(found.index[:number].tolist()):
        name = f"overlays/{row + 1:05d}_{safe_name(images.paths[row].stem)}.png"
        square = read_square(images.paths[row], images.image_size, images.resize)
        files.write_bytes(out / name, png_bytes(saliency.overlay(square, found.grad_cam[place])))
        drawn[row] = name
    for path in (out / "overlays").glob("[0-9]*_*.png"):
        if f"overlays/{path.name}" not in drawn.values():
            path.unlink()  # of an earlier call
    return drawn


def _csv(lines: Sequence[dict[str, Any]], classes: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["path", "status", "predicted", "confidence"]
    writer.writerow([*columns, *(cell(f"probability {name}") for name in classes), "overlay", "reason"])
    for line in lines:
        shares = line.get("probabilities", {})
        numbers = [f"{line['confidence']:.6f}"] if shares else [""]
        numbers += [f"{shares[name]:.6f}" if shares else "" for name in classes]
        named = [cell(line.get(name, "")) for name in ("path", "status", "predicted", "overlay", "reason")]
        writer.writerow([*named[:3], *numbers, *named[3:]])
    return buffer.getvalue()


def _text(path: Path) -> str:
    """Returns a path as valid UTF-8, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def summary(content: dict[str, Any]) -> str:
    """Returns the content of predictions.json as a short text: how many of each class, and what was withheld."""
    lines = []
    answered = [line for line in content["images"] if line["status"] == ANSWERED]
    for name in content["classes"]:
        lines.append(
            f"  {command_line.printable(name):<24} {sum(line['predicted'] == name for line in answered):5d} images"
        )
    statuses = [line["status"] for line in content["images"]]
    head = f"{len(statuses)} files, step {content['checkpoint_step']}: "
    head += ", ".join(f"{statuses.count(status)} {status}" for status in (ANSWERED, ABSTAINED, UNREADABLE))
    if content["files_passed_over"]:
        head += f" ({content['files_passed_over']} files without an image's suffix passed over)"
    if content["temperature"] != 1.0:
        head += f"\ntemperature {content['temperature']:.3f}, fitted on validation images"
    rule = content["abstention"]
    if rule:
        head += (
            f"\nanswers from a confidence of {rule['threshold']:.4f} on: on validation images {rule['coverage']:.1%} "
            f"answered, {rule['error']:.1%} of the answers wrong (of all images {rule['error_of_all']:.1%}); the "
            "checkpoint and this threshold were chosen on them, so expect more on new ones"
        )
    return "\n".join([head, *lines, NOTICE])
