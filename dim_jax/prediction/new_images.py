"""Classification of new images with a trained or imported classifier."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dim_jax.cli.command_line import shown
from dim_jax.data import field_statistics
from dim_jax.data.field_statistics import FieldStatistics
from dim_jax.evaluation import validation
from dim_jax.evaluation.calibration import fit_abstention, fit_temperature, probabilities
from dim_jax.evaluation.cases import read_severity
from dim_jax.evaluation.ensembles import Classifier, mean_logits, open_classifier
from dim_jax.evaluation.frozen_classifier import classifier_of_images
from dim_jax.evaluation.predictor import Predictor, views_of
from dim_jax.prediction import case_answers, output_files
from dim_jax.prediction.folder_images import FolderImages, find_images
from dim_jax.training import compilation, packed_runs, parallel

if TYPE_CHECKING:
    from dim_jax.evaluation.calibration import Abstention
    from dim_jax.evaluation.classifier_run import ClassifierRun
    from dim_jax.evaluation.costs import Costs
    from dim_jax.evaluation.predictor import Predictions


def predict_images(
    workdir: str | Path,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    batch_size: int | None = None,
    overlays: int = 16,
    use_views: bool | None = None,
    adjust: bool = False,
    calibrate: bool = False,
    coverage: float | None = None,
    group_regex: str | None = None,
    severity: Sequence[str] = (),
) -> dict[str, Any]:
    """Classifies images and writes predictions.csv, predictions.json and overlays/ into `out`.

    Args:
      workdir: run directory of a classifier, whose best checkpoint is used, or directory of an ensemble.
      sources: image files and folders of images, as for `find_images`.
      out: the output folder.
      batch_size: global batch size, at least 1; None: `config.train.eval_batch_size` of the run.
      overlays: number of Grad-CAM overlays to write, beginning with the first image; -1: all. An ensemble has none.
      use_views: average over the flips and turns of training; None: config.augment.test_time_views.
      adjust: adjust the logits as chosen on the validation images (`evaluation.adjustment`), temperature included.
      calibrate: divide logits by a temperature fitted on the validation images.
      coverage: abstain on images of low confidence, with a threshold at which this share of the validation images gets
        an answer, in (0, 1]; None: no abstention.
      group_regex: finds the case in a path, as for `data.groups.from_paths`, to answer by case too; None for not.
      severity: class names from the least to the most severe, to answer for a case by its worst image too.

    Returns:
      The content of predictions.json.

    Raises:
      FileNotFoundError: there is no run, no image, or no evaluation on the validation split where one is needed.
      ValueError: an option is out of range, no image can be read, or a file is damaged; nothing is written.
    """
    for folder in sources:
        if Path(folder).is_dir() and Path(out).resolve().is_relative_to(Path(folder).resolve()):
            raise ValueError(f"--out={out} is inside {folder}: a second call would classify the overlays; move it out")
    out = Path(out)
    output_files.check_folder(out)
    found = find_images(sources)
    paths = found.paths
    classifier = open_image_classifier(workdir)
    if (batch_size is not None and batch_size < 1) or overlays < -1:
        raise ValueError(f"--batch-size={batch_size} must be at least 1 and --overlays={overlays} at least -1")
    cases = case_answers.cases_of_paths(paths, group_regex) if group_regex else None
    if severity and cases is None:
        raise ValueError("--severity is about cases; give --group-regex, which finds them in the paths")
    order = read_severity(severity, classifier.classes) if severity else None
    views = [views_of(run.config, run.workdir, use_views) for run in classifier.members]
    num_views = sum(map(len, views))
    adjustment, temperature, abstention = fit_on_validation(classifier, num_views, adjust, calibrate, coverage)
    images, of_members, logits = predict_files(classifier, paths, views, adjustment, temperature, batch_size)
    # Files are unreadable to all members or to none.
    index, grad_cam = of_members[0].index, of_members[0].grad_cam if len(of_members) == 1 else None
    num_overlays = 0 if grad_cam is None else len(index) if overlays < 0 else overlays
    overlay_names = output_files.overlay_names(images[0], index[:num_overlays].tolist())
    preprocessing = [preprocessing_of(run) for run in classifier.members]
    results = {
        "notice": output_files.NOTICE,
        "workdir": shown(workdir),
        "checkpoint_step": classifier.step,
        "classes": classifier.classes,
        "views": num_views,
        "members": [run.workdir for run in classifier.members] if classifier.is_ensemble else None,
        "preprocessing": preprocessing if classifier.is_ensemble else preprocessing[0],
        "adjustment": adjustment,
        "temperature": temperature,
        "abstention": vars(abstention) if abstention else None,
        "files_passed_over": len(found.others),
        "warnings": found.warnings,
        "usual_distance": images[0].usual.limit if images[0].usual else None,
        "images": _image_entries(
            images[0],
            index,
            probabilities(logits),
            classifier.classes,
            validation.costs_of(adjustment) if adjustment else None,
            abstention.threshold if abstention else 0.0,
            overlay_names,
        ),
    }
    results["cases"] = cases and case_answers.answer_cases(results, cases, order)
    output_files.write(out, results, images[0], overlay_names, grad_cam)
    return results


def open_image_classifier(workdir: str | Path) -> Classifier:
    """Opens a run or an ensemble as a classifier of images; see frozen_classifier.classifier_of_images.

    Raises:
      FileNotFoundError, ValueError: as for `open_classifier` and `classifier_of_images`.
    """
    classifier = open_classifier(workdir)
    return replace(classifier, members=tuple(map(classifier_of_images, classifier.members)))


def preprocessing_of(run: "ClassifierRun") -> dict[str, Any]:
    """Returns how a run's images are resized and normalised, as the records of predictions and exports have it."""
    data = run.config.data
    return {"image_size": data.image_size, "resize": data.resize, "mean": run.mean, "std": run.std}


def usual_fields(workdir: Path) -> FieldStatistics | None:
    """Returns the statistics of the images that a packed run was trained on; None for any other run."""
    return field_statistics.from_json(packed_runs.read_record(workdir).get("fields"))


def predict_files(
    classifier: Classifier,
    paths: Sequence[Path],
    views: Sequence[tuple[int, ...]],
    adjustment: dict[str, Any] | None,
    temperature: float,
    batch_size: int | None = None,
) -> tuple[list[FolderImages], list["Predictions"], np.ndarray]:
    """Runs the members of a classifier on image files.

    Args:
      classifier: the classifier, of images.
      paths: the files.
      views: of each member (augmentation.views).
      adjustment, temperature: as `fit_on_validation` returns them.
      batch_size: as for `predict_images`.

    Returns:
      Each member's view of the files, its predictions for those that can be read, and the logits of all members
      together, adjusted or divided by the temperature, float64 (N, C).

    Raises:
      ValueError: no image can be read, or the weights of a member do not fit its network or are not finite.
    """
    images = [
        FolderImages(
            paths, run.config.data.image_size, run.config.data.resize, run.mean, run.std, usual_fields(run.workdir)
        )
        for run in classifier.members
    ]
    predictions = [_predict(*member, batch_size) for member in zip(classifier.members, images, views, strict=True)]
    logits = np.asarray(mean_logits([member.logits for member in predictions]), np.float64)
    return images, predictions, validation.adjusted(logits, adjustment) if adjustment else logits / temperature


def _predict(
    run: "ClassifierRun", images: FolderImages, views: tuple[int, ...], batch_size: int | None
) -> "Predictions":
    """Returns predictions for the readable images; the global batch is rounded up to a multiple of the devices."""
    batch_size = run.config.train.eval_batch_size if batch_size is None else batch_size
    compilation.configure_compilation()
    num_images, num_devices = len(images.paths), jax.device_count()
    batch_size = -(-min(batch_size, num_images) // num_devices) * num_devices
    source: Any = images  # in place of both a dataset and a data backend
    predictor = Predictor(run.model, source, source, batch_size).with_views(views)
    variables = predictor.check_variables(run.variables, run.workdir)
    predictions = predictor(parallel.replicate(variables), np.arange(num_images))
    if not len(predictions.index):
        raise ValueError(
            f"none of the {num_images} files can be read; the first is {images.paths[0]} ({images.reasons[0]})"
        )
    if not np.isfinite(predictions.logits).all():
        raise ValueError(f"{run.workdir}: the logits are not all finite; its training has diverged")
    return predictions


def _image_entries(
    images: FolderImages,
    index: np.ndarray,
    probability: np.ndarray,
    classes: Sequence[str],
    costs: "Costs | None",
    threshold: float,
    overlay_names: dict[int, str],
) -> list[dict[str, Any]]:
    """Returns the entries of predictions.json, in the order of the files.

    Args:
      images: the images, with the reasons why some could not be read or are doubtful.
      index: rows of the N images that could be read, (N,).
      probability: (N, C).
      classes: names of the C classes.
      costs: the answer is that of least expected cost, which may be to abstain; None: the most probable class.
      threshold: smallest confidence of an answer.
      overlay_names: row -> path of its overlay.
    """
    entries: dict[int, dict[str, Any]] = {
        row: {"path": output_files.path_text(images.paths[row]), "status": output_files.UNREADABLE, "reason": reason}
        for row, reason in images.reasons.items()
    }
    num_classes = len(classes)
    for row, shares in zip(index.tolist(), probability, strict=True):
        expected = None if costs is None else costs.expected(shares)
        answer = int(shares.argmax() if expected is None else expected[:num_classes].argmin())
        confidence = float(shares[answer])
        is_answered = confidence >= threshold if expected is None else expected.argmin() < num_classes
        entries[row] = {
            "path": output_files.path_text(images.paths[row]),
            "status": output_files.ANSWERED if is_answered else output_files.ABSTAINED,
            "predicted": classes[answer],
            "confidence": confidence,
            "probabilities": dict(zip(classes, shares.tolist(), strict=True)),
            "overlay": overlay_names.get(row, ""),
            "doubt": images.doubts.get(row, ""),
        }
        if row in images.distances:
            entries[row]["distance"] = images.distances[row]
        if expected is not None:
            entries[row]["expected_cost"] = float(expected.min())
    return [entries[row] for row in range(len(images.paths))]


def fit_on_validation(
    classifier: Classifier,
    num_views: int,
    adjust: bool,
    calibrate: bool,
    coverage: float | None,
) -> tuple[dict[str, Any] | None, float, "Abstention | None"]:
    """Returns the stored adjustment, the temperature and the abstention rule, of validation images and this checkpoint.

    The temperature of an adjustment is part of it.
    """
    workdir, step, num_classes = classifier.workdir, classifier.step, len(classifier.classes)
    adjustment = validation.read_adjustment(workdir, step, num_classes, num_views) if adjust else None
    if adjust and adjustment is None:
        raise FileNotFoundError(
            f"{validation.folder(workdir)} has no adjustment of the checkpoint of step {step}; run python -m "
            f"dim_jax.evaluate --workdir={workdir} --split=val"
        )
    if coverage is not None and adjustment and adjustment["criterion"] == validation.COST:
        raise ValueError(
            f"--coverage={coverage}: the adjustment was chosen by costs, which decide on abstention by their column "
            "abstain; drop --coverage"
        )
    if coverage is None and (adjust or not calibrate):
        return adjustment, adjustment["temperature"] if adjustment else 1.0, None
    logits, labels = validation.read_predictions(
        workdir, step, num_classes, num_views, "--calibrate and --coverage need it"
    )
    if adjustment:
        logits, temperature = validation.adjusted(logits, adjustment), adjustment["temperature"]
    else:
        temperature = fit_temperature(logits, labels) if calibrate else 1.0
        logits = np.asarray(logits, np.float64) / temperature
    rule = None if coverage is None else fit_abstention(probabilities(logits), labels, coverage)
    return adjustment, temperature, rule
