"""Report section of a GAN or a diffusion model: generated images, learning curves, metrics and warning signs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dim_jax.cli.command_line import shown
from dim_jax.reporting import curves, panels, run_view, sheets, stage_times, wording
from dim_jax.reporting.panels import Group
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.reporting.tables import Table
from dim_jax.runs.metrics_file import is_number

GROUPS = (
    Group(
        "Losses",
        "The two networks compete, so neither loss has to fall.",
        {("train", "generator_loss"): "generator", ("train", "discriminator_loss"): "discriminator, all terms"},
    ),
    Group(
        "Hinge losses of the discriminator",
        "About 0.9: it cannot distinguish real from generated images; 0: all logits are beyond the margin.",
        {("train", "hinge_real"): "real images", ("train", "hinge_fake"): "generated images"},
    ),
    Group(
        "Logits of the discriminator",
        "Means; an image with a logit above 0 is classified as real.",
        {("train", "logit_real"): "real images", ("train", "logit_fake"): "generated images"},
    ),
    Group(
        "Reconstruction",
        "Distance between real images and their reconstructions by the discriminator; lower is better.",
        {
            ("train", "reconstruction_whole"): "whole, from the large branch",
            ("train", "reconstruction_small"): "whole, from the small branch",
            ("train", "reconstruction_part"): "a quarter",
        },
    ),
    Group(
        "Gradient norms",
        "",
        {("train", "generator_gradient_norm"): "generator", ("train", "discriminator_gradient_norm"): "discriminator"},
    ),
    Group(
        "Diversity and augmentation",
        "Diversity: 1 = as diverse as real images, 0 = all images equal.",
        {
            ("samples", "diversity"): "diversity",
            ("train", "augment_probability"): "augmentation probability",
            ("train", "logit_real_sign"): "mean sign of real logits",
        },
    ),
)
DIFFUSION_GROUPS = (
    Group(
        "Loss of the denoiser",
        "About 1 at the start; the mean over all noise levels, of which the lowest cannot be learned.",
        {("train", "loss"): "squared error, weighted"},
    ),
    Group("Gradient norm", "", {("train", "gradient_norm"): "denoiser"}),
    Group(
        "Copies of training images",
        "C_T, lowest of the audited classes: below -3, generated images are closer to training images than validation "
        "images are.",
        {("samples", "c_t"): "C_T"},
    ),
)
ALL_GROUPS = (*DIFFUSION_GROUPS, *GROUPS)
HEADLINE = (
    ("samples", "diversity"),
    ("train", "hinge_real"),
    ("train", "hinge_fake"),
    ("train", "logit_real_sign"),
    ("train", "augment_probability"),
)
DIFFUSION_HEADLINE = (("samples", "diversity"), ("samples", "c_t"), ("train", "loss"))
NOUNS = {"gan": "GAN", "diffusion": "Diffusion model"}
LOW_DIVERSITY, HIGH_SIGN, LOW_HINGE, LOW_C_T = 0.3, 0.9, 0.05, -3.0
PERCEPTUAL = {
    "lite0": "EfficientNet-Lite0",
    "lpips_vgg16": "LPIPS (VGG-16)",
    "pixels": "pixels, no network",
    "none": "none",
}


def view(position: int, run: RunRecords) -> dict[str, Any]:
    """Template data of the section on a generator's run; `position` (from 1) makes the ids of its figures unique."""
    curve_panels = panels.grouped_panels([run], ALL_GROUPS, f"c{position}-")
    return {
        "template": "gan_run.html",
        "id": f"run-{position}",
        "name": run.name,
        "folder": shown(run.folder),
        "facts": _facts(run),
        "verdict": _verdict(run),
        "notes": notes(run) + run.problems,
        "sheets": sheets.view(run),
        "reconstructs": run.generator == "gan",
        "curves": curve_panels,
        "curves_csv": panels.curve_table(curve_panels, by_epoch=False),
        "metrics": _metric_table(run),
        "data": _data(run),
        "stages": stage_times.view(run, f"s{position}-"),
        "times": run_view.timings(run),
        "config": run_view.config_groups(run.config),
        "environment": list(wording.setting_texts(run.environment).items()),
    }


def subject(run: RunRecords) -> str:
    """Classes that a generator is trained to generate, in words."""
    if run.setting(run.generator, "conditional") is True:
        return "conditional, all classes" + (f" ({len(run.manifest.classes)})" if run.manifest else "")
    label = run.setting(run.generator, "label")
    return f"class “{label}”" if label else ""


def steps_done(run: RunRecords) -> int:
    """Last logged step of the training; 0 if none was logged."""
    return max((step for split, _, step, _, _ in run.curves if split == "train"), default=0)


def late(run: RunRecords, split: str, metric: str) -> float:
    """Mean of the last tenth of the logged values of a metric (at least one value); NaN if there are none."""
    values = _values(run, split, metric)
    return float(np.mean(values[-math.ceil(len(values) / 10) :])) if values else math.nan


def headline(runs: Sequence[RunRecords]) -> list[tuple[str, str]]:
    """(split, metric) of the most telling metrics of some runs, whatever their kinds."""
    kinds = {"gan": HEADLINE, "diffusion": DIFFUSION_HEADLINE}
    return list(dict.fromkeys(metric for run in runs for metric in kinds.get(run.generator, ())))


def summary(run: RunRecords, metrics: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Number of steps and latest values of (split, metric): last sheet for `samples`, `late` for training."""
    values: dict[str, float] = {"Steps": steps_done(run)}
    for split, metric in metrics:
        latest = _last if split == "samples" else late
        values[wording.label(metric)] = latest(run, split, metric)
    return values


def notes(run: RunRecords) -> list[str]:
    """Sentences on what is unfinished, and on signs that training failed."""
    sentences = []
    done, planned = steps_done(run), run.setting("train", "num_train_steps")
    if not run.curves:
        sentences.append("Nothing has been logged yet, so there are no learning curves.")
    elif is_number(planned) and done < planned:
        sentences.append(f"Training is not finished: step {done} of {planned} is the last one logged.")
    stopped = [int(record["step"]) for record in curves.read_lines(run.folder)[0] if record.get("split") == "diverged"]
    if stopped and max(stopped) > done:
        sentences.append(f"Training stopped at step {max(stopped)}: a loss was no longer a finite number.")
    diversity, sign = _last(run, "samples", "diversity"), late(run, "train", "logit_real_sign")
    if diversity < LOW_DIVERSITY:
        sentences.append(
            f"Low diversity: generated images differ {diversity:.2f} times as much among themselves as real ones. "
            "The generator makes nearly the same image from every seed (mode collapse), or training has just begun."
        )
    if _last(run, "samples", "c_t") < LOW_C_T:
        passed = max([0.0, *_values(run, "samples", "audited_step")])
        sentences.append(
            f"The newest images copy training images (C_T {_last(run, 'samples', 'c_t'):.1f}, below {LOW_C_T:g}): "
            + (f"generate uses step {passed:.0f}." if passed else "no checkpoint passes this audit.")
        )
    if sign > HIGH_SIGN:
        sentences.append(
            f"The discriminator classifies nearly all real images as real (mean sign of their logits {sign:.2f}): it "
            "may have memorised the training images, and then its gradients no longer improve the generator. "
            "--config.augment.adaptive_target=0.6 counteracts this."
        )
    if all(late(run, "train", name) < LOW_HINGE for name in ("hinge_real", "hinge_fake")):
        sentences.append(
            "Both hinge losses are near 0: the discriminator separates real and generated images perfectly, so its "
            "gradients hardly improve the generator."
        )
    return sentences


def _values(run: RunRecords, split: str, metric: str) -> list[float]:
    return [value for name, key, *_, value in run.curves if (name, key) == (split, metric) and math.isfinite(value)]


def _last(run: RunRecords, split: str, metric: str) -> float:
    return (_values(run, split, metric) or [math.nan])[-1]


def _facts(run: RunRecords) -> list[str]:
    model = {name: run.setting("model", name) for name in ("width", "gate", "up")}
    size, perceptual = run.setting("data", "image_size"), run.setting("gan", "perceptual")
    facts = [NOUNS[run.generator], subject(run)]
    facts += [f"{size} px"] if size else []
    facts += [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in model.items() if value
    ]
    facts += [f"reconstruction by {PERCEPTUAL.get(str(perceptual), perceptual)}"] if perceptual else []
    planned = run.setting("train", "num_train_steps")
    facts += [f"{planned} steps"] if planned else []
    return [fact for fact in facts if fact] + run_view.origin(run)


def _verdict(run: RunRecords) -> dict[str, Any]:
    """Returns the headline: progress of the training and latest metrics."""
    done, planned = steps_done(run), run.setting("train", "num_train_steps")
    tiles = [(name, wording.number(value)) for name, value in summary(run, headline([run])).items()]
    sentences = [f"{done} of {planned} steps are done." if planned else f"{done} steps are done."]
    diversity = _last(run, "samples", "diversity")
    if math.isfinite(diversity):
        sentences.append(
            f"Generated images of the last sheet differ {diversity:.2f} times as much among themselves as real ones."
        )
    if done:
        sentences.append("The other numbers are means over the last tenth of the logged values.")
    sentences.append(
        "Generated images are synthetic: they are not findings, and they may reproduce training images. No checkpoint "
        "was selected by a score: the images come from the moving average of the generator at the step given with them."
    )
    return {"split": None, "tiles": tiles if run.curves else [], "sentences": sentences}


def _metric_table(run: RunRecords) -> dict[str, Any] | None:
    """Returns first, late, smallest and largest value of all logged metrics, or None if nothing was logged."""
    logged = {(split, metric) for split, metric, *_ in run.curves if split in ("train", "samples")}
    grouped = [key for group in ALL_GROUPS for key in group.metrics]
    ordered = [key for key in grouped if key in logged]
    ordered += sorted(key for key in logged - set(grouped) if key[1] not in panels.TIMES)
    rows = []
    for split, metric in ordered:
        values = _values(run, split, metric)
        cells = (values[0], late(run, split, metric), min(values), max(values)) if values else (None,) * 4
        rows.append((split, metric, *cells))
    if not rows:
        return None
    return {
        "rows": [(wording.label(metric), [_short(value) for value in values]) for _, metric, *values in rows],
        "csv": Table(
            "gan_metrics",
            "metrics over the run",
            ("split", "metric", "first", "mean of the last tenth", "smallest", "largest"),
            rows,
        ),
    }


def _short(value: float | None) -> str:
    return wording.MISSING if value is None else f"{value:.4g}"


def _data(run: RunRecords) -> dict[str, Any] | None:
    """Returns the data section without the fold's normalisation: generators do not use it and map pixels to [-1, 1]."""
    data = run_view.data_summary(run)
    if data is None:
        return None
    facts = [(name, value) for name, value in data["facts"] if not name.startswith("Normalisation")]
    label, classes = run.setting(run.generator, "label"), run.manifest.classes
    rows = run.rows_of("train")
    if run.setting(run.generator, "conditional") is not True and label in classes:
        rows = rows[run.manifest.labels[rows] == classes.index(label)]
    if run.fold is not None and subject(run):
        facts.insert(0, ("Trained on", f"{len(rows)} training images, {subject(run)}"))
    return data | {"facts": facts}
