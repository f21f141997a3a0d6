"""Report section of a classifier run, as lists and strings for the template."""

import contextlib
import datetime
import math
import statistics
from typing import Any

import numpy as np

from dim_jax.cli.command_line import shown
from dim_jax.reporting import class_distances, embedding, examples, panels, predictions, results, stage_times, wording
from dim_jax.reporting.predictions import SavedPredictions
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table
from dim_jax.runs.metrics_file import is_number

VERDICT = ("macro_f1", "g_mean", "balanced_accuracy", "mcc", "macro_auroc", "accuracy")


def view(position: int, run: RunRecords) -> dict[str, Any]:
    """Template data of the section on a classifier run; `position` (from 1) makes the ids of its figures unique."""
    evaluated = next(iter(run.evaluations), None)
    predicted = (
        predictions.read(run, evaluated) if evaluated else "There are no predictions: no split is evaluated yet."
    )
    curves = panels.curve_panels([run], f"c{position}-")
    return {
        "template": "run.html",
        "id": f"run-{position}",
        "name": run.name,
        "folder": shown(run.folder),
        "facts": _facts(run),
        "verdict": verdict(run),
        "notes": _progress_notes(run) + run.problems,
        "data": data_summary(run),
        "curves": curves,
        "curves_csv": panels.curve_table(curves, panels.is_by_epoch([run])),
        "best": _best_sentence(run),
        "metrics": results.metric_table(run),
        "evaluations": [results.view(run, split, f"r{position}-{at}-") for at, split in enumerate(run.evaluations)],
        **_of_images(run, predicted, position),
        "stages": stage_times.view(run, f"s{position}-"),
        "times": timings(run),
        "config": config_groups(run.config),
        "environment": list(wording.setting_texts(run.environment).items()),
    }


def _of_images(run: RunRecords, predicted: SavedPredictions | str, position: int) -> dict[str, Any]:
    """Returns the parts made from predictions of single images, or a note in the place of each."""
    if isinstance(predicted, str):
        note = {"note": predicted}
        return {"predicted_split": "", "examples": note, "embedding": note, "distances": note}
    return {
        "predicted_split": wording.split_name(predicted.split),
        "examples": {"note": "", **examples.view(run, predicted)},
        "embedding": embedding.view(predicted, f"e{position}-"),
        "distances": class_distances.view(predicted, f"d{position}-"),
    }


def _facts(run: RunRecords) -> list[str]:
    loss = [str(value) for value in (run.setting("loss", "name"), run.setting("loss", "variant")) if value]
    facts = [run.setting("trainer"), run.setting("model", "name"), " ".join(loss)]
    facts += [f"{count} classes" for count in [len(run.manifest.classes)] if count] if run.manifest else []
    return [str(fact) for fact in facts if fact] + origin(run)


def origin(run: RunRecords) -> list[str]:
    """Seed and start time of a run, in words, as far as they are known."""
    seed = run.setting("seed")
    facts = [f"seed {seed}"] if seed is not None else []
    started = run.environment.get("started")
    if isinstance(started, str):
        with contextlib.suppress(ValueError):  # text that is not a time is shown unchanged
            started = datetime.datetime.fromisoformat(started).strftime("%Y-%m-%d %H:%M")
        facts.append(f"started {started}")
    return facts


def _progress_notes(run: RunRecords) -> list[str]:
    notes = []
    if run.setting("trainer") == "ensemble":
        members = run.setting("members")
        notes.append(
            f"The mean of the probabilities of {len(members) if isinstance(members, list) else 'several'} runs. It has "
            "no learning curves, features or Grad-CAM of its own; the pages of its members show theirs."
        )
    elif not run.curves:
        notes.append("Nothing has been logged yet, so there are no learning curves.")
    reached = max((epoch for _, _, _, epoch, _ in run.curves if math.isfinite(epoch)), default=None)
    planned = run.setting("train", "num_epochs")
    # The last line can be up to one logging interval before the end.
    if reached is not None and is_number(planned) and reached < 0.95 * planned:
        notes.append(f"Training is not finished: epoch {reached:.3g} of {planned:g} is the last one logged.")
    if "test" not in run.evaluations:
        notes.append(
            "The test split has not been evaluated yet; to evaluate it, run "
            f"python -m dim_jax.evaluate --workdir={shown(run.folder)} --split=test"
        )
    return notes


def verdict(run: RunRecords) -> dict[str, Any]:
    """Headline of a run: metrics of the test split, or else of another evaluated split, with sentences on them."""
    split = next(iter(run.evaluations), None)
    if split is None:
        return {"split": None, "tiles": [], "sentences": ["No split has been evaluated yet."]}
    evaluation = run.evaluations[split]
    tiles = [(wording.label(metric), wording.number(evaluation.get(metric))) for metric in VERDICT]
    step = evaluation.get("checkpoint_step")
    sentences = [
        f"Results on {wording.number(evaluation.get('num_images'))} {wording.split_name(split)} images"
        + (f", with the checkpoint of step {step}." if step is not None else ".")
    ]
    if split != "test":
        sentences.append(
            "These numbers are optimistic, because this split was used for training or for choosing the checkpoint; "
            "only the test split gives an unbiased estimate."
        )
    rows = [row for row in wording.dicts(evaluation.get("per_class")) if row.get("support")]
    total = sum(row["support"] for row in rows)
    if total:
        largest = max(rows, key=lambda row: row["support"])
        share = largest["support"] / total
        sentences.append(f"Always predicting “{largest.get('class')}” would have an accuracy of {share:.3f}.")
    recalls = [row for row in rows if is_number(row.get("recall"))]
    if recalls:
        worst = min(recalls, key=lambda row: row["recall"])
        sentences.append(
            f"Class with the lowest recall: “{worst.get('class')}”, {wording.number(float(worst['recall']))} "
            f"on {worst['support']} images."
        )
    return {"split": split, "tiles": tiles, "sentences": sentences}


def data_summary(run: RunRecords) -> dict[str, Any] | None:
    """Template data of the data section: counts per class and split, facts and warnings; None without a manifest."""
    manifest = run.manifest
    if manifest is None:
        return None
    splits = [split for split in ("train", "val", "test") if run.fold is not None]
    counts = {
        split: np.bincount(manifest.labels[run.rows_of(split)], minlength=len(manifest.classes)) for split in splits
    }
    totals = np.bincount(manifest.labels, minlength=len(manifest.classes))
    rows = [
        {
            "class": name,
            "counts": [int(counts[split][at]) for split in splits],
            "total": int(totals[at]),
            "share": float(totals[at] / totals.max()),
        }
        for at, name in enumerate(manifest.classes)
    ]
    basis = counts.get("train", totals)
    ratio = f"{basis.max() / basis.min():.1f} : 1" if basis.min() else "undefined: a class has no images"
    facts = [("Images", str(len(manifest))), (f"Imbalance ratio ({'training' if splits else 'all'} images)", ratio)]
    groups = [row.group for row in manifest.rows]
    named = {group for group in groups if group}
    facts.append(("Groups (patients or cases)", str(len(named)) if named else "unknown"))
    warnings = list(run.data_warnings)
    if run.fold is not None:
        groups_of = {split: {groups[row] for row in run.rows_of(split)} - {""} for split in splits}
        if named:
            facts.append(
                ("Groups per split", ", ".join(f"{wording.split_name(name)} {len(groups_of[name])}" for name in splits))
            )
        num_shared = sum(sum(group in members for members in groups_of.values()) > 1 for group in named)
        if num_shared:
            warnings.append(
                f"{num_shared} group(s) have images in more than one split, which makes the results optimistic."
            )
        if run.split_method.startswith("image") or not named:
            warnings.append("Groups are unknown: images of one patient may be in more than one split.")
        for split in splits:
            absent = [name for at, name in enumerate(manifest.classes) if not counts[split][at]]
            if absent:
                warnings.append(f"No {wording.split_name(split)} images of: {', '.join(absent)}.")
        facts.append(("Split", run.split_method))
        mean, std = run.setting("data", "mean") or run.fold.mean, run.setting("data", "std") or run.fold.std
        for name, values in (("mean", mean), ("standard deviation", std)):
            facts.append((f"Normalisation, {name} (RGB)", ", ".join(wording.number(float(value)) for value in values)))
    size, generated = run.setting("data", "image_size"), run.setting("data", "generated")
    facts += [("Image size", f"{size} px")] if size else []
    if run.generated:
        parts = ", ".join(f"{number} {name}" for name, number in run.generated.items())
        facts.append(("Generated training images", f"{sum(run.generated.values())}: {parts}"))
    facts += [("Generated images listed in", str(generated))] if generated else []
    facts.append(("Images read from", str(manifest.root)))
    csv_rows = [
        (name, *(int(counts[split][at]) for split in splits), int(totals[at]))
        for at, name in enumerate(manifest.classes)
    ]
    return {
        "splits": [wording.split_name(split) for split in splits],
        "rows": rows,
        "totals": [int(counts[split].sum()) for split in splits] + [len(manifest)],
        "facts": facts,
        "warnings": list(dict.fromkeys(warnings)),
        "csv": Table("images_per_class", "images per class and split", ("class", *splits, "all"), csv_rows),
    }


def _best_sentence(run: RunRecords) -> str:
    step = panels.best_step(run)
    if step is None:
        return ""
    epoch = panels.epoch_of(run, step)
    return f"Best checkpoint: step {step}" + (f" (epoch {epoch:.3g})" if math.isfinite(epoch) else "")


def timings(run: RunRecords) -> list[tuple[str, str]]:
    """Speed of training and prediction, as pairs of a name and a number."""
    per_hundred, per_image = wording.TIMES
    evaluations = run.evaluations.values()
    training_times = [item[per_hundred] for item in evaluations if is_number(item.get(per_hundred))]
    # All evaluations of a run have the same training time, so it is shown once.
    times = [(wording.label(per_hundred), f"{training_times[0]:.4g}")] if training_times else []
    for split, evaluation in run.evaluations.items():
        if is_number(evaluation.get(per_image)):
            times.append(
                (f"{wording.label(per_image)} ({wording.split_name(split)} split)", f"{evaluation[per_image]:.4g}")
            )
    for key, name in (
        ("seconds_per_step", "Training, s per step (median)"),
        ("images_per_second", "Training, images per s (median)"),
        ("data_wait_share", "Share of time spent waiting for data (median)"),
    ):
        values = [value for split, metric, _, _, value in run.curves if (split, metric) == ("train", key)]
        values = [value for value in values if math.isfinite(value)]
        if values:
            times.append((name, f"{statistics.median(values):.3g}"))
    return times


def config_groups(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Configuration as groups of fields: the top-level fields first, then one group per section."""
    single = {key: value for key, value in config.items() if not (isinstance(value, dict) and value)}
    groups = (
        [{"title": "run", "rows": [(key, key, text) for key, text in wording.setting_texts(single).items()]}]
        if single
        else []
    )
    for key, value in config.items():
        if key not in single:
            rows = [(name, f"{key}.{name}", text) for name, text in wording.setting_texts(value).items()]
            groups.append({"title": key, "rows": rows})
    return groups
