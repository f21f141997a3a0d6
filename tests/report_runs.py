"""Fabricated run directories of classifiers, and a parser of report pages."""

import base64
import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from dim_jax.runs import files

CLASSES = ("normal", "polyp", "adenocarcinoma")
COUNTS = (6, 15, 39)
HOSTILE = ("<script>alert(1)</script>", "$x_{", 'a"onload="b\x00\x1b\u202e&amp;')


def make_data(folder: Path, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> manifests.Manifest:
    """Writes a manifest, a split and small noise images: one tenth validation, three tenths test."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, (name, count) in enumerate(zip(classes, COUNTS, strict=True)):
        for at in range(count):
            path = f"class{number}/{at:03}.png"
            (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(folder / "images" / path)
            rows.append(manifests.Row(path, name, f"case{number}-{at}", f"{seed}-{number}-{at}", 12, 12))
    manifest = manifests.Manifest(folder / "images", classes, tuple(rows))
    assignment = tuple(
        "val" if at % 10 == 0 else "test" if at % 10 in (1, 2, 3) else "train" for at in range(len(rows))
    )
    fold = splits.Fold(assignment, (0.65, 0.48, 0.7), (0.17, 0.21, 0.14))
    manifests.save(manifest, folder)
    splits.save(splits.Split("group", 7, (fold,)), manifest, folder)
    return manifest


def make_run(
    folder: Path,
    classes: tuple[str, ...] = CLASSES,
    evaluated: tuple[str, ...] = ("val", "test"),
    loss: str = "fafl",
    seed: int = 0,
) -> Path:
    """Fabricates the run directory of a classifier with random predictions."""
    manifest = make_data(folder, classes)
    rng = np.random.default_rng(seed)
    config = {
        "trainer": "classifier",
        "seed": seed,
        "data": {"path": "data", "image_size": 12, "fold": 0},
        "model": {"name": "lrf_cnn", "widths": [4, 8]},
        "loss": {"name": loss, "variant": "corrected"},
        "train": {"num_epochs": 5, "best_metric": "macro_f1"},
    }
    files.write_json(folder / "config.json", config)
    files.write_json(
        folder / "environment.json",
        {"started": "2025-01-02T03:04:05", "python": "3.11", "versions": {"jax": "0.10.2"}, "devices": ["cpu:0"]},
    )
    files.write_json(folder / "data_report.json", {"warnings": ["2 near-duplicate pairs."]})
    lines = []
    for step in range(10, 101, 10):
        train = {"loss": 2 / step, "accuracy": step / 120, "learning_rate": 1e-3, "seconds_per_step": 0.5}
        lines.append({"step": step, "epoch": step / 20, "split": "train", **train})
        if step % 20 == 0:
            score = float(rng.uniform(0.3, 0.8))
            lines.append({"step": step, "epoch": step / 20, "split": "val", "loss": 3 / step, "macro_f1": score})
    files.write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    split = splits.load(folder, manifest)
    for name in evaluated:
        evaluate(folder, name, split.rows(0, name), manifest, rng)
    return folder


def evaluate(
    folder: Path, name: str, index: np.ndarray, manifest: manifests.Manifest, rng: np.random.Generator
) -> None:
    """Writes eval/<name>/ with random logits of the rows `index`; the last class has no AUROC."""
    label, number = manifest.labels[index], len(manifest.classes)
    logits = rng.normal(size=(len(index), number)).astype(np.float32) + 2 * np.eye(number, dtype=np.float32)[label]
    confusion = np.zeros((number, number), int)
    np.add.at(confusion, (label, logits.argmax(1)), 1)
    per_class = [
        {
            "class": manifest.classes[at],
            "support": int(confusion[at].sum()),
            "predicted": int(confusion[:, at].sum()),
            "precision": float(rng.random()),
            "recall": float(confusion[at, at] / max(1, confusion[at].sum())),
            "f1": float(rng.random()),
            "auroc": None if at == number - 1 else float(rng.random()),
        }
        for at in range(number)
    ]
    scores = {key: float(rng.random()) for key in ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "macro_auroc")}
    metrics = {
        "split": name,
        "checkpoint_step": 80,
        "num_images": len(index),
        "classes": list(manifest.classes),
        **scores,
        "g_mean": None,
        "expected_calibration_error": 0.0625,
        "loss": 0.5,
        "confusion_matrix": confusion,
        "per_class": per_class,
        "absent_classes": [],
        "reliability": [
            {"lower": 0.0, "upper": 0.5, "count": 0, "confidence": None, "accuracy": None},
            {"lower": 0.5, "upper": 1.0, "count": len(index), "confidence": 0.8, "accuracy": 0.7},
        ],
        "training_seconds_per_100_images": 1.875,
        "test_seconds_per_image": 0.00625,
    }
    files.write_json(folder / "eval" / name / "metrics.json", metrics)
    features = np.zeros((len(index), 2), np.float32)
    np.savez(folder / "eval" / name / "predictions.npz", index=index, label=label, logits=logits, features=features)


class Page(HTMLParser):
    """The elements, texts and tables of a page; a table is the list of its rows of cell texts, by caption."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self._in: list[str] = []
        self.feed(html)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._in.append(tag)
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._in:
            return
        self.texts.append(data)
        if self.tables and ("td" in self._in or "th" in self._in):
            self.tables[-1][1][-1][-1] += " ".join(data.split())
        elif "caption" in self._in and "small" not in self._in:
            self.tables[-1] = (self.tables[-1][0] + data.strip(), self.tables[-1][1])

    def table(self, caption: str) -> list[list[str]]:
        """Returns the first table with this caption."""
        return next(rows for title, rows in self.tables if title == caption)

    def attributes(self, name: str) -> list[str]:
        """Returns all values of an attribute."""
        return [attributes[name] for _, attributes in self.elements if name in attributes]


def complete(run: Path, seed: int = 0) -> Path:
    """Adds features, Grad-CAM maps, their sanity check and times of stages to a run of `make_run`."""
    rng = np.random.default_rng(seed)
    config = files.read_json(run / "config.json")
    config["data"]["resize"] = "squash"
    files.write_json(run / "config.json", config)
    for path in run.glob("eval/*/predictions.npz"):
        arrays = dict(np.load(path))
        number = len(arrays["index"])
        arrays["features"] = rng.normal(size=(number, 8)).astype(np.float32) + 3 * np.eye(8)[arrays["label"]]
        arrays["logits"][::4] = np.roll(arrays["logits"][::4], 1, axis=1)  # sure to hold wrong predictions
        arrays["grad_cam"] = rng.random((number, 4, 4)).astype(np.float16)
        arrays["grad_cam"] /= arrays["grad_cam"].max((1, 2), keepdims=True)
        np.savez(path, **arrays)
        metrics = files.read_json(path.with_name("metrics.json"))
        check = {"images": 21, "rank_correlation": 0.125}
        files.write_json(path.with_name("metrics.json"), metrics | {"evaluation_seconds": 7.5, "grad_cam_check": check})
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for at, line in enumerate(lines):
        line["seconds"] = 4.0 if line["split"] == "train" else 2.0
        if line["split"] == "train":
            line |= {"seconds": 30.0, "seconds_per_step": None} if at == 0 else {"data_wait_share": 0.25}
            line["checkpoint_seconds"] = 0.75 if 0 < at < 4 else 0.0
    files.write_text(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    files.write_json(run / "data_report.json", {"warnings": [], "seconds": 12.0})
    return run


def links(html: str) -> dict[str, list[list[str]]]:
    """The tables behind the links of a page: file name to rows of cells."""
    tables_by_name = {}
    for tag, attributes in Page(html).elements:
        if tag == "a" and "download" in attributes:
            text = base64.b64decode(attributes["href"].partition("base64,")[2]).decode("utf-8-sig")
            tables_by_name[attributes["download"]] = list(csv.reader(io.StringIO(text)))
    return tables_by_name
