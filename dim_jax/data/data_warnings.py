"""Warnings of a data report: unreadable and doubtful images, groups that are hardly patients, absent classes, leaks."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from dim_jax.data import group_proposals, splits

# With fewer images, a group for each is no sign of a mistake.
FEWEST_OF_OWN_GROUP, SHARE_OF_OWN_GROUP = 10, 0.95


def of_report(report: dict[str, Any], paths: Sequence[str]) -> list[str]:
    """Returns a text for everything in the report that may be wrong with the data or their split.

    Args:
      report: contents of data_report.json, without its warnings.
      paths: paths of all images, by which expressions for --group-regex are proposed.
    """
    warnings = []
    if report["unreadable"]:
        names = ", ".join(f"{item['path']} ({item['reason']})" for item in report["unreadable"][:3])
        warnings.append(
            f"{len(report['unreadable'])} unreadable images are left out: {names}{_more(report['unreadable'], 3)}"
        )
    for doubt, doubtful in _by_doubt(report["doubtful"]).items():
        number = "1 image is" if len(doubtful) == 1 else f"{len(doubtful)} images are"
        warnings.append(f"{number} doubtful ({doubt}): {', '.join(doubtful[:3])}{_more(doubtful, 3)}")
    if report["method"] == "random_image":
        warnings.append("the random image split ignores patients and near-duplicates: its test results are too good")
    elif report["method"] != "manifest" and not report["groups"]["number"]:
        warnings.append(
            "no patient or case is known, so images of one patient may be on both sides of the split and test results "
            "too good; give --group-regex or a group column"
        )
        proposals = group_proposals.propose(paths)
        if proposals:
            warnings.append("the names suggest patients or cases; check them: " + ", or ".join(map(str, proposals)))
    elif report["groups"]["images_without"] and report["method"] != "manifest":
        warnings.append(f"{report['groups']['images_without']} images have no group; each counts as a group of its own")
    warnings += _group_warnings(report["groups"], report["images"])
    for conflict in report["duplicates"]["conflicting"]:
        warnings.append(
            "one picture has two labels: " + ", ".join(f"{path} ({label})" for path, label in conflict.items())
        )
    for number, fold in enumerate(report["folds"]):
        prefix = f"fold {number}: " if len(report["folds"]) > 1 else ""
        for name, counts in fold["counts"].items():
            for label, count in counts.items():
                if not count:
                    warnings.append(f"{prefix}class {label!r} has no images in {name}: {_absence(report, fold, label)}")
        leaks = fold["leaks"]
        if leaks["groups"]:
            names = ", ".join(leaks["groups"][:3])
            warnings.append(
                f"{prefix}{len(leaks['groups'])} groups are in more than one split: {names}{_more(leaks['groups'], 3)}"
            )
        if leaks["same_picture"]:
            example = ", ".join(f"{path} ({name})" for path, name in leaks["same_picture"][0].items())
            warnings.append(
                f"{prefix}{len(leaks['same_picture'])} pictures are in more than one split, for one: {example}"
            )
    return warnings


def _absence(report: dict[str, Any], fold: dict[str, Any], label: str) -> str:
    """Returns why a class has no images in a part of a split."""
    images = report["counts"][label]
    if report["method"] == "manifest":
        return f"the given split has all of its {images} images elsewhere; correct it, or draw one with --split=group"
    if report["method"] == "random_image":
        return f"it has only {images} image(s) in all"
    units = sum(fold["units"][part][label] for part in splits.NAMES)
    return f"it has only {units} unit(s) in all, each of which stays in one part"


def _group_warnings(groups: dict[str, Any], images: int) -> list[str]:
    """Warns of groups that are hardly patients: one with most of the images, or one for almost every image."""
    warnings = []
    largest, size = groups["largest"]
    with_group = images - groups["images_without"]
    if size > images / 2:
        warnings.append(f"the group {largest!r} has {size} of the {images} images; check whether it is one patient")
    if with_group >= FEWEST_OF_OWN_GROUP and groups["number"] >= SHARE_OF_OWN_GROUP * with_group:
        warnings.append(
            f"there are {groups['number']} groups for {with_group} images, so hardly any two images are kept together; "
            "check whether the group is the patient or case, not the image"
        )
    return warnings


def _by_doubt(doubtful: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    paths = defaultdict(list)
    for item in doubtful:
        paths[item["doubt"].partition(" (")[0]].append(item["path"])  # without the numbers of each image
    return paths


def _more(items: Sequence, shown: int) -> str:
    return f" and {len(items) - shown} more" if len(items) > shown else ""
