"""Data report of a prepared dataset: counts, groups, duplicates, leaks, warnings, and a contact sheet."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from dim_jax.cli.command_line import printable
from dim_jax.data import data_warnings, images, splits
from dim_jax.data.manifest import Manifest
from dim_jax.data.splits import Split

MOST_SHOWN = 5  # lines of one kind in the text; the JSON lists all


def build(
    manifest: Manifest, split: Split, units: np.ndarray, exact: np.ndarray, near: np.ndarray, facts: dict[str, Any]
) -> dict[str, Any]:
    """Returns the data report, the object in data_report.json.

    Args:
      manifest, split: the prepared data.
      units: unit of each row (splits.units_of), shape (N,).
      exact, near: pairs of rows that are exact copies and near-duplicates, shape (P, 2) each.
      facts: entries known to the preparation only: "options", "licence", "converted", "doubtful", "unreadable",
        "ignored", "notes", "warnings" and "seconds".
    """
    labels, classes = manifest.labels, manifest.classes
    counts = _per_class(labels, classes)
    same_picture = _clusters(np.concatenate([exact, near]), len(manifest))
    report = {
        "version": 1,
        **facts,
        "classes": list(classes),
        "images": len(manifest),
        "counts": counts,
        "imbalance_ratio": _imbalance(counts),
        "groups": _groups(manifest, units),
        "sizes": _sizes(manifest),
        "duplicates": {
            "exact": [[manifest.rows[row].path for row in rows] for rows in _clusters(exact, len(manifest))],
            "near": [[manifest.rows[row].path for row in rows] for rows in _clusters(near, len(manifest))],
            "conflicting": [
                {manifest.rows[row].path: manifest.rows[row].label for row in rows}
                for rows in same_picture
                if len({manifest.rows[row].label for row in rows}) > 1
            ],
        },
        "method": split.method,
        "folds": [_fold(manifest, split, number, units, same_picture) for number in range(len(split.folds))],
    }
    paths = [row.path for row in manifest.rows]
    report["warnings"] = facts["warnings"] + data_warnings.of_report(report, paths)
    return report


def _per_class(labels: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    return dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))


def _imbalance(counts: dict[str, int]) -> float | None:
    """Returns the size of the largest class over that of the smallest; None if a class has no images."""
    return round(max(counts.values()) / min(counts.values()), 2) if min(counts.values()) else None


def _clusters(pairs: np.ndarray, count: int) -> list[list[int]]:
    """Returns the connected components of two or more rows."""
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    members = defaultdict(list)
    component = connected_components(graph, directed=False)[1]
    for row in np.unique(pairs).tolist():
        members[component[row]].append(row)
    return sorted(members.values())


def _groups(manifest: Manifest, units: np.ndarray) -> dict[str, Any]:
    labels_of: dict[str, Counter] = defaultdict(Counter)
    for row in manifest.rows:
        if row.group:
            labels_of[row.group][row.label] += 1
    sizes = {group: sum(labels.values()) for group, labels in labels_of.items()}
    return {
        "number": len(labels_of),
        "largest": max(sizes.items(), key=lambda item: item[1], default=("", 0)),
        "images_without": sum(not row.group for row in manifest.rows),
        "per_class": {name: sum(name in labels for labels in labels_of.values()) for name in manifest.classes},
        "units": int(units.max()) + 1,
        "spanning_classes": {group: dict(labels) for group, labels in sorted(labels_of.items()) if len(labels) > 1},
    }


def _sizes(manifest: Manifest) -> dict[str, Any]:
    histogram = Counter((row.width, row.height) for row in manifest.rows)
    return {
        "histogram": {f"{width}x{height}": number for (width, height), number in histogram.most_common()},
        "smallest_side": min(min(size) for size in histogram),
        "largest_side": max(max(size) for size in histogram),
    }


def _fold(
    manifest: Manifest, split: Split, number: int, units: np.ndarray, same_picture: list[list[int]]
) -> dict[str, Any]:
    fold, labels = split.folds[number], manifest.labels
    rows = {name: split.rows(number, name) for name in splits.NAMES}
    counts = {name: _per_class(labels[rows[name]], manifest.classes) for name in splits.NAMES}
    parts: dict[str, set[str]] = defaultdict(set)
    for row, part in zip(manifest.rows, fold.assignment, strict=True):
        if row.group:
            parts[row.group].add(part)
    return {
        "counts": counts,
        "imbalance_ratio": {name: _imbalance(counts[name]) for name in splits.NAMES},
        "units": {
            name: {
                label: len(set(units[rows[name]][labels[rows[name]] == index].tolist()))
                for index, label in enumerate(manifest.classes)
            }
            for name in splits.NAMES
        },
        "leaks": {
            "groups": sorted(group for group, names in parts.items() if len(names) > 1),
            "same_picture": [
                {manifest.rows[row].path: fold.assignment[row] for row in cluster}
                for cluster in same_picture
                if len({fold.assignment[row] for row in cluster}) > 1
            ],
        },
        "mean": list(fold.mean),
        "std": list(fold.std),
    }


def text(report: dict[str, Any]) -> str:
    """Returns the report as text for people."""
    groups, sizes, duplicates = report["groups"], report["sizes"], report["duplicates"]
    lines = [
        f"{report['images']} images of {len(report['classes'])} classes from {report['options']['source']}",
        "options: " + ", ".join(f"{key}={value}" for key, value in report["options"].items() if value is not None),
        "",
        *_table([["class", "images", "share", "groups"]] + [
            [name, count, f"{count / report['images']:.1%}", groups["per_class"][name] or "-"]
            for name, count in report["counts"].items()
        ]),
        f"imbalance {report['imbalance_ratio']:g} to 1; {groups['number']} groups, {len(groups['spanning_classes'])} "
        f"of them in several classes; {groups['units']} units (groups joined with near-duplicates)",
        f"sizes {sizes['smallest_side']} to {sizes['largest_side']} px: "
        + ", ".join(f"{size} ({count})" for size, count in list(sizes["histogram"].items())[:MOST_SHOWN])
        + (f" and {len(sizes['histogram']) - MOST_SHOWN} more" if len(sizes["histogram"]) > MOST_SHOWN else ""),
    ]  # fmt: skip
    for number, fold in enumerate(report["folds"]):
        title = f"fold {number} of {len(report['folds'])}" if len(report["folds"]) > 1 else "split"
        rows = [[f"{title} ({report['method']})", *splits.NAMES]]
        for label, total in report["counts"].items():
            cells = [(fold["counts"][name][label], fold["units"][name][label]) for name in splits.NAMES]
            rows.append([label] + [f"{count} ({count / total:.0%}, {units} units)" for count, units in cells])
        rows.append(["all"] + [sum(fold["counts"][name].values()) for name in splits.NAMES])
        lines += ["", *_table(rows)]
        lines.append("training mean " + _channels(fold["mean"]) + ", std " + _channels(fold["std"]))
    lines.append("")
    lines += _section("same file twice", [", ".join(paths) for paths in duplicates["exact"]])
    lines += _section("near-duplicates", [", ".join(paths) for paths in duplicates["near"]])
    lines += _section("converted", [f"{item['path']} ({item['reason']})" for item in report["converted"]])
    lines += _section("doubtful", [f"{item['path']} ({item['doubt']})" for item in report["doubtful"]])
    lines += _section("unreadable", [f"{item['path']} ({item['reason']})" for item in report["unreadable"]])
    lines += _section("ignored files", report["ignored"])
    lines += [f"note: {note}" for note in report["notes"]]
    lines += [f"WARNING: {warning}" for warning in report["warnings"]]
    return "\n".join(map(printable, lines)) + "\n"


def _channels(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _section(title: str, items: Sequence[str]) -> list[str]:
    lines = [f"{title}: {len(items) or 'none'}"] + [f"  {item}" for item in items[:MOST_SHOWN]]
    return lines + ([f"  and {len(items) - MOST_SHOWN} more in data_report.json"] if len(items) > MOST_SHOWN else [])


def _table(rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def contact_sheet(manifest: Manifest, split: Split, per_class: int = 8, size: int = 128) -> Image.Image:
    """Returns a sheet of training images of the first fold, one row per class, from as many groups as possible.

    Args:
      manifest, split: the prepared data.
      per_class: number of images in a row.
      size: side of an image in px.
    """
    gap, title = 6, 22
    height = title + size + gap
    sheet = Image.new("RGB", (gap + per_class * (size + gap), gap + len(manifest.classes) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    train = split.rows(0, "train")
    for number, name in enumerate(manifest.classes):
        rows = train[manifest.labels[train] == number].tolist()
        top = gap + number * height
        total = int((manifest.labels == number).sum())
        draw.text((gap, top), f"{printable(name)}: {len(rows)} of {total} images train", fill="black", font=font)
        for column, row in enumerate(_by_group_turn(manifest, rows)[:per_class]):
            picture = images.read_square(manifest.file(row), size, "crop")
            sheet.paste(Image.fromarray(picture), (gap + column * (size + gap), top + title))
    return sheet


def _by_group_turn(manifest: Manifest, rows: Sequence[int]) -> list[int]:
    """Orders rows so that the first image of each group comes before the second of any."""
    turns: Counter = Counter()
    keyed = []
    for row in rows:
        group = manifest.rows[row].group or str(row)
        keyed.append((turns[group], row))
        turns[group] += 1
    return [row for _, row in sorted(keyed)]
