"""Cards of runs and ensembles, from what their directories record."""

import contextlib
from pathlib import Path
from typing import Any

from dim_jax.data import dataset, splits
from dim_jax.data import manifest as manifests
from dim_jax.reporting import cards, run_directory, wording
from dim_jax.reporting.interval_scores import SCORES, scored_entries, with_class_names
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.runs import files
from dim_jax.runs.metrics_file import is_number

ENSEMBLE = "ensemble"
NOUNS = {"gan": "GAN", "diffusion": "Diffusion model"}  # kinds of generators
FEW_IMAGES = 10
CALIBRATION = ("expected_calibration_error", "cross_entropy")
RECORDS = (
    "config.json", "environment.json", manifests.FILE_NAME, splits.FILE_NAME, dataset.GENERATED_FILE,
    dataset.REPORT_FILE, "metrics.jsonl",
)  # fmt: skip


def write_run_card(folder: str | Path) -> Path:
    """Writes card.md and card.json into the directory of a run or an ensemble, as far as it is finished.

    Args:
      folder: run directory.

    Returns:
      The path of the card.
    """
    folder = Path(folder)
    path = folder / cards.FILE_NAME
    cards.write(path, run_card(run_directory.read(folder.name, folder.resolve())))
    return path


def run_card(run: RunRecords) -> dict[str, Any]:
    """Facts of the card of a run of a classifier or a generator, or of an ensemble (cards.render)."""
    kind = run.generator or (ENSEMBLE if run.setting("trainer") == ENSEMBLE else "classifier")
    name = run.folder.name
    sections = {"Data and licence": data_section(run), "Model": _model(run)}
    if kind in NOUNS:
        sections["Samples"] = _samples(run)
        audit = _audit(run)
    else:
        sections |= {"Scores": score_section(run), "Calibration": _calibration(run)}
        audit = "Not applicable: a classifier generates no images."
    sections["Memorisation audit"] = cards.section(notes=[audit])
    return {
        "kind": kind,
        "name": name,
        "summary": _summary(run, kind),
        "metadata": _metadata(run, kind, name),
        "sections": sections,
        "limits": limits(run, kind),
        "commands": _commands(run),
        "versions": versions(run),
        "sha256": _digests(run),
    }


def data_section(run: RunRecords) -> dict[str, Any]:
    """Section on the images of a run: source, licence, split, and images per class and part."""
    manifest = run.manifest
    if manifest is None:
        return cards.section(licence_facts(run), notes=["The images are not recorded."])
    groups = {row.group for row in manifest.rows} - {""}
    rows = []
    for label, name in enumerate(manifest.classes):
        row: dict[str, Any] = {"class": name}
        for split in splits.NAMES:
            row[wording.split_name(split)] = int((manifest.labels[run.rows_of(split)] == label).sum())
        rows.append(row | {"generated": run.generated.get(name, 0)})
    facts = {
        "source": Path(str(run.setting("data", "path") or manifest.root)).name,
        **licence_facts(run),
        "images": len(manifest),
        "cases": len(groups) or "not known",
        "split": run.split_method or None,
        "image size in px": run.setting("data", "image_size"),
        "made square by": run.setting("data", "resize"),
    }
    return cards.section(facts, {"Images per class": rows}, [*run.data_notes, *run.data_warnings])


def licence_facts(run: RunRecords) -> dict[str, Any]:
    """What is recorded on the licence of the data of a run."""
    if not run.licence:
        return {"licence of the data": "not recorded"}
    text, digest = run.licence["text"], run.licence["sha256"][:12]
    return {"licence of the data": f"{text} ({run.licence['file']}, SHA-256 {digest})"}


def _model(run: RunRecords) -> dict[str, Any]:
    if run.setting("trainer") == ENSEMBLE:
        return cards.section({"members": run.setting("members"), "checkpoint steps": run.setting("checkpoint_steps")})
    groups = ("model", "loss", "gan", "diffusion", "augment", "optimizer", "train")
    settings = {"seed": run.setting("seed")}
    for group in groups:
        values = run.setting(group)
        settings |= wording.setting_texts(values, f"{group}.") if isinstance(values, dict) else {}
    return cards.section(settings)


def _samples(run: RunRecords) -> dict[str, Any]:
    """Last value of every curve of a generator that was measured on samples, and the number of steps."""
    last = {metric: value for split, metric, _, _, value in run.curves if split == "samples"}
    steps = max((step for _, _, step, _, _ in run.curves), default=None)
    return cards.section({"steps": steps, **last})


def _audit(run: RunRecords) -> str:
    values = [value for split, metric, _, _, value in run.curves if (split, metric) == ("samples", "c_t")]
    if not values:
        return "Not measured on a run: the card of a selection of its images has the audit."
    return (
        f"C_T of data copying of the last samples, beside validation images: {values[-1]:.1f}. Below -3 they copy "
        "training images; images are generated from the newest checkpoint that does not."
    )


def score_section(run: RunRecords) -> dict[str, Any]:
    """Section of scores with intervals: all classes, and each class, per image and by case."""
    rows, per_class, notes = [], [], []
    for split, evaluation in run.evaluations.items():
        entries = scored_entries(evaluation) or [("images", evaluation.get("num_images"), {"scores": evaluation})]
        for title, count, entry in entries:
            scores = {name: entry["scores"].get(name) for name in SCORES}
            rows.append({"split": wording.split_name(split), "scored": title, "number": count, **scores})
            if isinstance(entry.get("no_interval"), str):
                classes = [row.get("class", "") for row in wording.dicts(evaluation.get("per_class"))]
                reason = with_class_names(entry["no_interval"], classes)
                notes.append(f"No intervals of {wording.split_name(split)} {title}: {reason}.")
        per_class += _class_rows(split, evaluation)
    if not rows:
        return cards.section(notes=["No split has been evaluated."])
    units = {_unit(evaluation) for evaluation in run.evaluations.values()} - {""}
    notes += [f"The intervals are 95 % intervals of a bootstrap of whole {unit}s." for unit in sorted(units)]
    if "val" in run.evaluations:
        notes.append("Validation images chose the checkpoint and the adjustment, so their scores are optimistic.")
    return cards.section(tables={"All classes": rows, "Per class": per_class}, notes=notes)


def _unit(evaluation: dict[str, Any]) -> str:
    intervals = evaluation.get("intervals")
    return str(intervals.get("unit") or "") if isinstance(intervals, dict) else ""


def _class_rows(split: str, evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    entries = {title: entry["scores"] for title, _, entry in scored_entries(evaluation)}
    images, adjusted = entries.get("images", {}), entries.get("images, adjusted", {})
    by_case = entries.get("cases by the mean of their images", {})
    rows = []
    for label, row in enumerate(wording.dicts(evaluation.get("per_class"))):
        recall, f1 = f"recall_{label}", f"f1_{label}"
        rows.append({
            "split": wording.split_name(split),
            "class": row.get("class"),
            "images": row.get("support"),
            "recall": images.get(recall, row.get("recall")),
            "F1": images.get(f1, row.get("f1")),
            "precision": row.get("precision"),
            "AUROC": row.get("auroc"),
            "recall, adjusted": adjusted.get(recall),
            "recall by case": by_case.get(recall),
        })  # fmt: skip
    return rows


def _calibration(run: RunRecords) -> dict[str, Any]:
    rows = []
    for split, evaluation in run.evaluations.items():
        adjusted = evaluation.get("adjusted")
        for variant, values in (("plain", evaluation), ("adjusted", adjusted if isinstance(adjusted, dict) else None)):
            if values is None:
                continue
            adjustment = values.get("adjustment") if isinstance(values.get("adjustment"), dict) else {}
            rows.append({
                "split": wording.split_name(split),
                "variant": variant,
                **{name: values.get(name) for name in CALIBRATION},
                "temperature": adjustment.get("temperature"),
                "strength of the offsets": adjustment.get("tau"),
                "chosen by": adjustment.get("criterion") or "",
            })  # fmt: skip
    notes = [] if rows else ["No split has been evaluated."]
    return cards.section(tables={"Calibration error": rows}, notes=notes)


def limits(run: RunRecords, kind: str) -> list[str]:
    """What the records of a run do not show, one sentence each."""
    sentences = list(run.problems)
    if run.setting("data", "path") == "phantom":
        sentences.append("The images are synthetic tissue: the scores say nothing about real images.")
    manifest = run.manifest
    if manifest is not None and not any(row.group for row in manifest.rows):
        sentences.append("Cases are unknown: images of one patient may be in several parts of the split.")
    if run.split_method.startswith("random_image"):
        sentences.append("The split is by image: images of one patient are in several parts of it.")
    if kind in NOUNS:
        return [*sentences, "Generated images are not images of tissue, and may repeat training images."]
    test = run.evaluations.get("test")
    if test is None:
        sentences.append("The test images have not been evaluated.")
    else:
        rows = wording.dicts(test.get("per_class"))
        few = [f"{row.get('class')} ({row['support']})" for row in rows if _is_few(row.get("support"))]
        if few:
            sentences.append(f"Fewer than {FEW_IMAGES} test images: {', '.join(few)}.")
    if run.generated:
        sentences.append(f"Trained on {sum(run.generated.values())} generated images beside the real ones.")
    if kind == "classifier":
        sentences.append("One training run of one seed: the variation between training runs is not in the intervals.")
    return [
        *sentences,
        "Scores hold for images of this source; those of other laboratories or scanners were not tested.",
    ]


def _is_few(count: Any) -> bool:
    return is_number(count) and count < FEW_IMAGES


def _summary(run: RunRecords, kind: str) -> str:
    num_classes = len(run.manifest.classes) if run.manifest else None
    of_classes = f" of {num_classes} classes" if num_classes else ""
    if kind in NOUNS:
        label = run.setting(kind, "label")
        return f"{NOUNS[kind]} of histology images{f' of the class {label}' if label else of_classes}."
    steps = [evaluation.get("checkpoint_step") for evaluation in run.evaluations.values()]
    at = f", checkpoint of step {steps[0]}" if steps and steps[0] is not None else ""
    if kind == ENSEMBLE:
        members = run.setting("members")
        return f"Ensemble of {len(members) if isinstance(members, list) else 'several'} classifiers{of_classes}."
    network, loss = run.setting("model", "name"), run.setting("loss", "name")
    return f"Classifier of histology images{of_classes}: {network}, trained with {loss}{at}."


def _metadata(run: RunRecords, kind: str, name: str) -> dict[str, Any]:
    tags = [str(tag) for tag in (run.setting("model", "name"), run.setting("loss", "name")) if tag]
    if kind in NOUNS:
        task = "unconditional-image-generation"
        return cards.metadata(kind, name, run.licence, [kind, *tags], pipeline_tag=task)
    test = run.evaluations.get("test", {})
    scores = [score for score in (*SCORES, *CALIBRATION) if is_number(test.get(score))]
    data = Path(str(run.setting("data", "path") or "data")).name
    results = {
        "task": {"type": "image-classification"},
        "dataset": {"type": "imagefolder", "name": data, "split": "test"},
        "metrics": [{"type": score, "name": wording.label(score), "value": test[score]} for score in scores],
    }
    return cards.metadata(
        kind,
        name,
        run.licence,
        tags,
        pipeline_tag="image-classification",
        metrics=["accuracy", "f1"],
        **({"model-index": [{"name": name, "results": [results]}]} if scores else {}),
    )


def _commands(run: RunRecords) -> list[str]:
    command = run.environment.get("command")
    return [command] if isinstance(command, str) and command else []


def versions(run: RunRecords) -> dict[str, str]:
    """Versions, devices and commit of a run."""
    return wording.setting_texts({name: value for name, value in run.environment.items() if name != "command"})


def _digests(run: RunRecords) -> dict[str, str]:
    """SHA-256 of images and split as training logs them, of the records, and of the list of digests of checkpoints."""
    names = list(RECORDS)
    for split in run.evaluations:
        names += [f"eval/{split}/{name}" for name in ("metrics.json", "predictions.npz", "cases.json")]
    names += [
        path.relative_to(run.folder).as_posix()
        for part in ("best", "checkpoints")
        for path in sorted((run.folder / part).glob("*/sha256.json"))
    ]
    digests = {"images": run.manifest.fingerprint} if run.manifest else {}
    with contextlib.suppress(OSError, ValueError):
        digests["split"] = str(files.read_object(run.folder / dataset.GENERATED_FILE).get("split_sha256", ""))
    return digests | cards.sha256_of(run.folder, names)
