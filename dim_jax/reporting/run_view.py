"""What the report shows of one run: plain lists and strings, ready for the template."""

import contextlib
import datetime
import math
import statistics
from typing import Any

import numpy as np

from dim_jax.reporting import class_distances, embedding, examples, panels, predictions, results, stage_times, wording
from dim_jax.reporting.predictions import SavedPredictions
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table
from dim_jax.runs.metrics_file import is_number

VERDICT = ("macro_f1", "g_mean", "balanced_accuracy", "mcc", "macro_auroc", "accuracy")


def view(position: int, run: RunRecords) -> dict[str, Any]:
    """Returns what the template shows of the run at `position` (from 1)."""
    evaluated = next(iter(run.evaluations), None)
    predicted = (
        predictions.read(run, evaluated) if evaluated else "There are no predictions before a split is evaluated."
    )
    curves = panels.curve_panels([run], f"c{position}-")
    return {
        "template": "run.html",
        "id": f"run-{position}",
        "name": run.name,
        "folder": str(run.folder),
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
    """Returns the parts made of single predictions, each with a note in its place where there are no predictions."""
    if isinstance(predicted, str):
        nothing = {"note": predicted}
        return {"predicted_split": "", "examples": nothing, "embedding": nothing, "distances": nothing}
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
    """Returns the seed of a run and when it was started, as far as they are known."""
    seed = run.setting("seed")
    facts = [f"seed {seed}"] if seed is not None else []
    started = run.environment.get("started")
    if isinstance(started, str):
        with contextlib.suppress(ValueError):  # what is no time is shown as it stands
            started = datetime.datetime.fromisoformat(started).strftime("%Y-%m-%d %H:%M")
        facts.append(f"started {started}")
    return facts


def _progress_notes(run: RunRecords) -> list[str]:
    notes = []
    if not run.curves:
        notes.append("Nothing has been logged yet, so there are no learning curves.")
    reached = max((epoch for _, _, _, epoch, _ in run.curves if math.isfinite(epoch)), default=None)
    planned = run.setting("train", "num_epochs")
    # The last line is logged up to one logging interval before the end.
    if reached is not None and is_number(planned) and reached < 0.95 * planned:
        notes.append(f"Training is not finished: epoch {reached:.3g} of {planned:g} is the last one logged.")
    if "test" not in run.evaluations:
        notes.append(
            "The test split has not been evaluated yet; "
            f"python -m dim_jax.evaluate --workdir={run.folder} --split=test does it."
        )
    return notes


def verdict(run: RunRecords) -> dict[str, Any]:
    """Returns the headline: metrics of the test split, of another one when it is not tested, or none."""
    split = next(iter(run.evaluations), None)
    if split is None:
        return {"split": None, "tiles": [], "sentences": ["No split has been evaluated yet."]}
    content = run.evaluations[split]
    tiles = [(wording.label(metric), wording.number(content.get(metric))) for metric in VERDICT]
    step = content.get("checkpoint_step")
    sentences = [
        f"On {wording.number(content.get('num_images'))} {wording.split_name(split)} images"
        + (f", with the checkpoint of step {step}." if step is not None else ".")
    ]
    if split != "test":
        sentences.append("This split chose the checkpoint, so these numbers flatter; only the test split judges.")
    rows = [row for row in wording.dicts(content.get("per_class")) if row.get("support")]
    total = sum(row["support"] for row in rows)
    if total:
        largest = max(rows, key=lambda row: row["support"])
        share = largest["support"] / total
        sentences.append(f"Always answering “{largest.get('class')}” would give an accuracy of {share:.3f}.")
    recalls = [row for row in rows if is_number(row.get("recall"))]
    if recalls:
        worst = min(recalls, key=lambda row: row["recall"])
        sentences.append(
            f"Weakest class: “{worst.get('class')}”, recall {wording.number(float(worst['recall']))} "
            f"on {worst['support']} images."
        )
    return {"split": split, "tiles": tiles, "sentences": sentences}


def data_summary(run: RunRecords) -> dict[str, Any] | None:
    """Returns counts per class and split, facts and warnings about the data, or None without a manifest."""
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
    ratio = f"{basis.max() / basis.min():.1f} : 1" if basis.min() else "undefined: a class has no image"
    facts = [("Images", str(len(manifest))), (f"Imbalance ratio ({'training' if splits else 'all'} images)", ratio)]
    groups = [row.group for row in manifest.rows]
    known = {group for group in groups if group}
    facts.append(("Groups (patients or cases)", str(len(known)) if known else "not known"))
    warnings = list(run.data_warnings)
    if run.fold is not None:
        held = {split: {groups[row] for row in run.rows_of(split)} - {""} for split in splits}
        if known:
            facts.append(
                ("Groups per split", ", ".join(f"{wording.split_name(name)} {len(held[name])}" for name in splits))
            )
        shared = sum(sum(group in members for members in held.values()) > 1 for group in known)
        if shared:
            warnings.append(f"{shared} group(s) have images in more than one split: results on them are too good.")
        if run.split_method.startswith("image") or not known:
            warnings.append("Groups are not known: images of one patient may be on both sides of the split.")
        for split in splits:
            absent = [name for at, name in enumerate(manifest.classes) if not counts[split][at]]
            if absent:
                warnings.append(f"No {wording.split_name(split)} image of: {', '.join(absent)}.")
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
    unique = list(dict.fromkeys(warnings))
    counted = [
        (name, *(int(counts[split][at]) for split in splits), int(totals[at]))
        for at, name in enumerate(manifest.classes)
    ]
    return {
        "splits": [wording.split_name(split) for split in splits],
        "rows": rows,
        "totals": [int(counts[split].sum()) for split in splits] + [len(manifest)],
        "facts": facts,
        "warnings": unique,
        "csv": Table("images_per_class", "images per class and split", ("class", *splits, "all"), counted),
    }


def _best_sentence(run: RunRecords) -> str:
    step = panels.best_step(run)
    if step is None:
        return ""
    epoch = panels.epoch_of(run, step)
    return f"Best step {step}" + (f" (epoch {epoch:.3g})" if math.isfinite(epoch) else "")


def timings(run: RunRecords) -> list[tuple[str, str]]:
    """Returns how fast the run was, in words and numbers."""
    per_hundred, per_image = wording.TIMES
    trained = [content[per_hundred] for content in run.evaluations.values() if is_number(content.get(per_hundred))]
    # The training was one, so its time is shown once, however many splits were evaluated after it.
    times = [(wording.label(per_hundred), f"{trained[0]:.4g}")] if trained else []
    for split, content in run.evaluations.items():
        if is_number(content.get(per_image)):
            times.append(
                (f"{wording.label(per_image)} ({wording.split_name(split)} split)", f"{content[per_image]:.4g}")
            )
    for key, words in (
        ("seconds_per_step", "Training, s per step (median)"),
        ("images_per_second", "Training, images per s (median)"),
        ("data_wait_share", "Share of the time waiting for data (median)"),
    ):
        values = [value for split, name, _, _, value in run.curves if (split, name) == ("train", key)]
        values = [value for value in values if math.isfinite(value)]
        if values:
            times.append((words, f"{statistics.median(values):.3g}"))
    return times


def config_groups(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the configuration as groups of fields: those of the top level first, then one group per section."""
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
