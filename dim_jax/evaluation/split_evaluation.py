"""Evaluation of a checkpoint on a split: eval/<split>/predictions.npz, metrics.json and cases.json."""

import io
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dim_jax.cli import command_line
from dim_jax.data.backends import make_images
from dim_jax.data.dataset import Dataset, open_dataset, open_run_dataset
from dim_jax.data.frozen_features import BATCH
from dim_jax.evaluation import cases, validation
from dim_jax.evaluation.classifier_run import ClassifierRun, open_classifier_run
from dim_jax.evaluation.ensembles import Classifier, mean_logits, open_classifier
from dim_jax.evaluation.frozen_classifier import classifier_of_images
from dim_jax.evaluation.predictor import Predictions, Predictor, make_predictor, views_of
from dim_jax.evaluation.split_scores import score_split
from dim_jax.runs import files, metrics_file
from dim_jax.runs.schema import ClassifierConfig
from dim_jax.steps import grad_cam
from dim_jax.training import compilation, hosts, parallel

SPLITS = ("train", "val", "test")
CHECKED_MAPS = 64
STORED = ("index", "label", "logits", "features", "grad_cam")  # arrays of predictions.npz

log = logging.getLogger(__name__)


def evaluate_split(
    workdir: str | Path,
    split: str,
    checkpoint: str = "best",
    predictor: Predictor | None = None,
    choice: Mapping[str, Any] | None = None,
    use_views: bool | None = None,
    severity: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluates a run or an ensemble on every image of a split, once each, and writes eval/<split>/.

    The post-hoc adjustment is chosen when validation images are evaluated, and stored with their predictions. Other
    splits are scored with it beside the plain scores; they never choose it. For an ensemble the stored predictions of
    its members are averaged; members that lack them are evaluated first.

    Args:
      workdir: run directory, or directory of an ensemble.
      split: "train", "val" or "test".
      checkpoint: "best" on validation, or "newest".
      predictor: predictor of the same run, to avoid a compilation.
      choice: `criterion` and `offsets` of adjustment.fit_adjustment; for a split other than "val" the adjustment is
        then chosen again on the stored validation predictions. None: as before, or else its defaults.
      use_views: whether to average over the flips and turns of training; None for config.augment.test_time_views.
      severity: class names from the least to the most severe, to answer for a case by its worst image too.

    Returns:
      The content of metrics.json: split_scores.score_split, the step of the checkpoint, and timings. Its "adjusted" is
      None if no adjustment was chosen for this checkpoint.

    Raises:
      FileNotFoundError: there is no run or no checkpoint, or images are gone, or `choice` needs validation predictions.
      ValueError: the split is empty or unknown, or a file is broken.
    """
    started = time.perf_counter()
    compilation.configure_compilation()
    workdir = Path(workdir)
    if split not in SPLITS:
        raise ValueError(f"--split={split}: choose one of {', '.join(SPLITS)}")
    classifier, dataset = hosts.on_first_host(lambda: _open(workdir, checkpoint))
    if severity:
        cases.read_severity(severity, dataset.classes)
    rows = dataset.rows(split)
    if not len(rows):
        raise ValueError(f"{workdir}: its split has no {split} images")
    num_views = sum(len(views_of(member.config, member.workdir, use_views)) for member in classifier.members)
    grad_cam_check, config = None, None
    if classifier.is_ensemble:
        predictions = _average_members(classifier, split, rows, dataset, use_views)
    else:
        (run,) = classifier.members
        config = run.config
        predictor = predictor or hosts.on_all_hosts(lambda: make_predictor(run.config, dataset))
        predictor = predictor.with_views(views_of(run.config, workdir, use_views))
        variables = predictor.check_variables(run.variables, run.checkpoint_folder)
        predictions = predictor(parallel.replicate(variables), rows)
        if predictions.grad_cam is not None:
            grad_cam_check = _check_grad_cam(predictor, variables, predictions)

    def write() -> dict[str, Any]:
        adjustment = _adjustment(classifier, dataset, choice, num_views, predictions if split == "val" else None)
        scores, answers = score_split(predictions.index, predictions.logits, dataset, workdir, adjustment, severity)
        metrics = {
            "split": split,
            "checkpoint": checkpoint,
            "checkpoint_step": classifier.step,
            "views": num_views,
            **scores,
            "training_seconds_per_100_images": config and _training_seconds_per_100_images(workdir, config),
            "test_seconds_per_image": predictions.seconds_per_image,
            "evaluation_seconds": time.perf_counter() - started,
            "grad_cam_check": grad_cam_check,
        }
        _write(workdir, split, predictions, metrics, answers, adjustment)
        return metrics

    return hosts.on_first_host(write)


def add_grad_cam(workdir: str | Path, split: str) -> None:
    """Adds Grad-CAM maps to the predictions of a classifier of features; those of other networks have them already.

    The maps are those of the frozen network with the last layer of the run, see frozen_classifier.

    Args:
      workdir: run directory, of which `split` is evaluated.
      split: "val" or "test".

    Raises:
      FileNotFoundError: there is no run, no evaluation, or images are gone.
    """
    run, folder = open_classifier_run(workdir), Path(workdir) / "eval" / split
    arrays = files.read_arrays(folder / "predictions.npz", STORED)
    if run.config.data.backend != "features" or "grad_cam" in arrays:
        return
    frozen = classifier_of_images(run)
    dataset = replace(
        open_run_dataset(workdir, run.config), fixed_statistics=(frozen.mean.tolist(), frozen.std.tolist())
    )
    data = run.config.data
    pixels = make_images("resident", dataset, data.image_size, data.resize, data.cache_gib, parallel.device_bytes())
    predictor = Predictor(frozen.model, dataset, pixels, BATCH * jax.device_count())
    variables = predictor.check_variables(frozen.variables, run.checkpoint_folder)
    explained = predictor(parallel.replicate(variables), arrays["index"], arrays["logits"].argmax(-1))
    check = _check_grad_cam(predictor, variables, explained)
    stored = _compressed({**arrays, "grad_cam": explained.grad_cam})
    with files.turn(folder):
        files.write_bytes(folder / "predictions.npz", stored)
        files.write_json(
            folder / "metrics.json", files.read_object(folder / "metrics.json") | {"grad_cam_check": check}
        )


def _open(workdir: Path, checkpoint: str) -> tuple[Classifier, Dataset]:
    classifier = open_classifier(workdir, checkpoint)
    config = classifier.members[0].config
    if classifier.is_ensemble:
        return classifier, open_dataset(workdir, config.data.fold)
    return classifier, open_run_dataset(workdir, config)


def _average_members(
    ensemble: Classifier, split: str, rows: np.ndarray, dataset: Dataset, use_views: bool | None
) -> Predictions:
    """Returns the mean probabilities of the members of an ensemble, without features and maps."""
    logits, seconds = [], 0.0
    for member in ensemble.members:
        stored = hosts.on_first_host(partial(_stored, member, split, rows, use_views))
        if stored is None:
            log.info("evaluating %s on %s images", member.workdir, split)
            evaluate_split(member.workdir, split, use_views=use_views)
            compilation.clear_compiled_programs()
            stored = hosts.on_first_host(partial(_stored, member, split, rows, use_views))
        member_logits, member_seconds = stored
        logits.append(member_logits)
        seconds += member_seconds
    return Predictions(
        index=rows.astype(np.int32),
        label=dataset.labels[rows],
        logits=mean_logits(logits),
        features=None,
        grad_cam=None,
        seconds_per_image=seconds,
    )


def _stored(
    run: ClassifierRun, split: str, rows: np.ndarray, use_views: bool | None
) -> tuple[np.ndarray, float] | None:
    """Returns the stored logits (N, C) of a run's checkpoint for `rows` and the seconds per image, or None."""
    folder = run.workdir / "eval" / split
    try:
        metrics = files.read_object(folder / "metrics.json")
        arrays = files.read_arrays(folder / "predictions.npz", ("index", "logits"))
    except (FileNotFoundError, ValueError):
        return None
    num_views, logits = len(views_of(run.config, run.workdir, use_views)), arrays.get("logits")
    is_current = (metrics.get("checkpoint_step"), metrics.get("views", 1)) == (run.step, num_views)
    if not is_current or logits is None or not np.array_equal(arrays.get("index"), rows):
        return None
    if logits.shape != (len(rows), len(run.classes)) or logits.dtype.kind != "f" or not np.isfinite(logits).all():
        return None
    seconds = metrics.get("test_seconds_per_image")
    return logits, float(seconds) if metrics_file.is_number(seconds) else 0.0


def _adjustment(
    classifier: Classifier,
    dataset: Dataset,
    choice: Mapping[str, Any] | None,
    num_views: int,
    val: Predictions | None,
) -> dict[str, Any] | None:
    """Chooses the adjustment if there are new validation predictions or a `choice`, or else reads it."""
    workdir, step, num_classes = classifier.workdir, classifier.step, len(dataset.classes)
    if val is None and choice is None:
        return validation.read_adjustment(workdir, step, num_classes, num_views)
    logits, labels = (
        validation.read_predictions(workdir, step, num_classes, num_views, "the adjustment is chosen on it")
        if val is None
        else (val.logits, val.label)
    )
    class_counts = np.bincount(dataset.labels[dataset.rows("train")], minlength=num_classes)
    choice = validation.stored_choice(workdir) if choice is None else choice
    return validation.choose_adjustment(step, num_views, logits, labels, class_counts, **choice)


def _write(
    workdir: Path,
    split: str,
    predictions: Predictions,
    metrics: dict[str, Any],
    answers: list[dict[str, Any]] | None,
    adjustment: dict[str, Any] | None,
) -> None:
    folder = workdir / "eval" / split
    stored = _compressed({name: getattr(predictions, name) for name in STORED})
    with files.turn(folder):  # all files are of one evaluation
        files.write_bytes(folder / "predictions.npz", stored)
        if answers is not None:
            files.write_json(folder / "cases.json", {"checkpoint_step": metrics["checkpoint_step"], "cases": answers})
        if adjustment is not None:
            validation.write_adjustment(workdir, adjustment)
        files.write_json(folder / "metrics.json", metrics)


def _compressed(arrays: Mapping[str, Any]) -> bytes:
    """Returns the bytes of predictions.npz with these arrays, without those that are None."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: array for name, array in arrays.items() if array is not None})
    return buffer.getvalue()


def _check_grad_cam(predictor: Predictor, variables: dict[str, Any], predictions: Predictions) -> dict[str, Any]:
    """Compares the maps of some images with those after shuffling the weights of the last block."""
    sample = np.unique(np.linspace(0, len(predictions.index) - 1, CHECKED_MAPS).astype(int))
    params = grad_cam.shuffle_weights(variables["params"], predictor.model.last_block)
    shuffled = predictor(
        parallel.replicate({**variables, "params": params}),
        predictions.index[sample],
        predictions.logits[sample].argmax(-1),
    )
    correlation = grad_cam.rank_correlation(predictions.grad_cam[sample], shuffled.grad_cam)
    return {"images": len(sample), "rank_correlation": correlation}


def _training_seconds_per_100_images(workdir: Path, config: ClassifierConfig) -> float | None:
    """Returns the median over the logged dispatches; dispatches with a compilation log no `seconds_per_step`."""
    values = [record.get("seconds_per_step") for record in metrics_file.read(workdir)]
    seconds = [value for value in values if metrics_file.is_number(value) and value > 0]
    return 100 * float(np.median(seconds)) / config.train.global_batch_size if seconds else None


def summary(metrics: dict[str, Any]) -> str:
    """Formats metrics of evaluate_split as text, one line per class."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "g_mean", "mcc", "macro_auroc", "expected_calibration_error")

    def head(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {values[name]:.4f}" for name in names if values[name] is not None)

    lines = [f"{metrics['split']} ({metrics['num_images']} images, step {metrics['checkpoint_step']}): {head(metrics)}"]
    adjusted = metrics["adjusted"]
    if adjusted:
        optimistic = ", on the images that chose it" if metrics["split"] == "val" else ""
        lines.append(f"adjusted (tau {adjusted['adjustment']['tau']:g}{optimistic}): {head(adjusted)}")
    lines += [f"{title}: {text}" for title, text in _interval_lines(metrics)]
    if metrics["cost"]:
        plain, least = metrics["cost"]["plain"], metrics["cost"]["least_expected"]
        lines.append(
            f"mean cost {_interval(plain)} of the most probable class, {_interval(least)} of the answers of least "
            f"expected cost after adjustment, which abstain from {least['abstained']:.1%} of the images"
        )
    for number, entry in enumerate(metrics["per_class"]):
        recall = "not in this split" if entry["recall"] is None else f"recall {entry['recall']:.4f}"
        if adjusted and entry["recall"] is not None:
            recall += f", adjusted {adjusted['per_class'][number]['recall']:.4f}"
        lines.append(f"  {command_line.printable(entry['class']):<24} {entry['support']:5d} images  {recall}")
    return "\n".join(lines)


def _interval_lines(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields what was scored, per image and by case, and its scores with intervals in words."""
    intervals, by_case = metrics["intervals"], metrics["by_case"]
    for variant, suffix in (("plain", ""), ("adjusted", ", adjusted")):
        if intervals[variant]:
            yield (
                f"images{suffix}, intervals over {intervals['num_units']} {intervals['unit']}s",
                _in_words(intervals[variant]),
            )
        scored = by_case and by_case[variant]
        for rule, words in ((cases.MEAN, "mean of their images"), (cases.WORST, "worst image")):
            if scored and rule in scored:
                yield f"{scored['num_cases']} cases by the {words}{suffix}", _in_words(scored[rule])


def _in_words(scored: Mapping[str, Any]) -> str:
    parts = []
    for name in ("accuracy", "macro_f1", "g_mean", "mcc"):
        parts.append(f"{name} {_interval(scored['scores'][name])}")
    return ", ".join(parts)


def _interval(score: Mapping[str, Any]) -> str:
    interval = "" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})"
    return f"{score['value']:.3f}{interval}"
