"""The images of a source, listed and not read yet, and their classes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dim_jax.data import spellings

# What names of classes contain, from the least to the most severe.
SEVERITY = (
    r"^normal|healthy", r"hyperplas", r"polyp", r"serrated|adenoma\b|adenoma$", r"low.?grade|^lg", r"high.?grade|^hg",
    r"carcinoma|cancer|malignan|^tumou?r",
)  # fmt: skip
SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


@dataclass(frozen=True)
class ListedImage:
    """An image as its source lists it, before it is read.

    Attributes:
      path: POSIX path relative to the root of the source.
      label: class name.
      group: patient or case; "" if unknown.
      split: "train", "val" or "test"; "" if the source has no split.
      where: position in the source, for error messages.
    """

    path: str
    label: str
    group: str = ""
    split: str = ""
    where: str = ""


@dataclass(frozen=True)
class Listing:
    """The images of a source.

    Attributes:
      root: folder that the paths of the images are relative to.
      images: the images, sorted by path.
      classes: class names in label order; () before `class_order`.
      has_split: whether the source assigns each image to a split.
      ignored: files that are not images of a class.
      notes: choices made while listing, for the report.
      warnings: what in the source may be wrong, for the report.
    """

    root: Path
    images: list[ListedImage]
    classes: tuple[str, ...] = ()
    has_split: bool = False
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def named(names: Sequence[str], most: int = 3) -> str:
    """Returns the first names of a list as text, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def with_checked_labels(listing: Listing) -> Listing:
    """Returns the listing with the names of classes in Unicode's composed form, in which keyboards write them, and with
    warnings of classes whose names look alike or may mean that the label is missing."""
    missing = [name for name in listing.classes if _may_be_missing(name)]
    warnings = [
        f"the class {name!r} has {sum(item.label == name for item in listing.images)} images; leave them out with "
        f"--exclude={name} if it means that their label is not known"
        for name in missing
    ]
    # Numbers with both signs are common labels.
    alike = spellings.lookalikes(name for name in listing.classes if not spellings.is_negative(name))
    if alike:
        warnings.append(f"classes look alike and are taken as different: {named(alike)}")
    images = [
        item if item.label == (label := spellings.composed(item.label)) else replace(item, label=label)
        for item in listing.images
    ]
    classes = tuple(map(spellings.composed, listing.classes))
    return replace(listing, images=images, classes=classes, warnings=[*listing.warnings, *warnings])


def _may_be_missing(name: str) -> bool:
    # Of the numbers, 0 and -1 are common labels.
    return spellings.is_missing_word(name) or (spellings.may_be_missing(name) and spellings.key(name, True) != "0")


def without_classes(listing: Listing, exclude: Sequence[str], classes: Sequence[str] | None) -> Listing:
    """Returns the listing without the images of some classes, with a note of it.

    Args:
      listing: images of all classes.
      exclude: names of the classes to leave out.
      classes: see `class_order`; None keeps the order of `listing`.

    Raises:
      ValueError: a class in `exclude` does not exist, or as `class_order`.
    """
    exclude = _as_labels(exclude, listing.classes)
    absent = [name for name in exclude if name not in listing.classes]
    if absent:
        raise ValueError(f"--exclude={absent[0]} is not a class; the classes are {', '.join(listing.classes)}")
    images = [item for item in listing.images if item.label not in exclude]
    note = f"{len(listing.images) - len(images)} images of {', '.join(exclude)} are left out because of --exclude"
    order = classes or [name for name in listing.classes if name not in exclude]
    return replace(listing, classes=class_order(images, order), images=images, notes=[*listing.notes, note])


def without_images(listing: Listing, paths: Sequence[str], name: str) -> Listing:
    """Returns the listing without the images at some paths, with a note of it.

    Args:
      listing: all images.
      paths: paths as in the listing; backslashes are taken for slashes where no file has them, and another Unicode form
        or other capitals for those of the file, if it is the only one.
      name: where the paths are listed, for messages.

    Raises:
      ValueError: a path is not in the listing, or a class is left without images.
    """
    listed = {item.path for item in listing.images}
    spelled: dict[str, list[str]] = {}
    for path in listed:
        spelled.setdefault(spellings.plain(path), []).append(path)

    def find(path: str) -> str:
        # Tables for spreadsheets begin text that looks like a formula with an apostrophe.
        forms = (path, path.replace("\\", "/"), path.removeprefix("'"))
        similar = spelled.get(spellings.plain(forms[1].removeprefix("'")), [])
        return next((form for form in forms if form in listed), similar[0] if len(similar) == 1 else path)

    excluded = set(map(find, paths))
    unknown = sorted(excluded - listed)
    if unknown:
        raise ValueError(
            f"{len(unknown)} paths of {name} are not among the images, such as {unknown[0]!r}; write them relative to "
            "the same folder as those of the source"
        )
    images = [item for item in listing.images if item.path not in excluded]
    note = f"{len(excluded)} images are left out because of {name}"
    return replace(listing, classes=class_order(images, listing.classes), images=images, notes=[*listing.notes, note])


def class_order(listed: Sequence[ListedImage], names: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the class names in label order, as the labels of the images spell them.

    Args:
      listed: the images.
      names: class names in label order; None: by severity where the names of all classes tell it, or else sorted.

    Raises:
      ValueError: a name is repeated or empty, the label of an image is not in `names`, a class has no images, two
        labels differ in spelling only, or there are fewer than two classes.
    """
    labels = sorted({item.label for item in listed})
    spelled: dict[str, str] = {}
    for name in labels:
        other = spelled.setdefault(spellings.key(name, whole_numbers=True), name)
        if other != name:
            raise ValueError(
                f"the labels {other!a} and {name!a} differ in spelling only (capitals, spaces, leading zeros, 1.0 "
                "for 1, or how accents are written); spell them alike, or rename one if they are two classes"
            )
    names = _by_severity(labels) if names is None else _as_labels(names, labels)
    if len(set(names)) != len(names) or not all(names):
        raise ValueError(f"--classes={','.join(names)} has an empty or repeated name; give each class once")
    for item in listed:
        if item.label not in names:
            raise ValueError(f"unknown label {item.label!r} at {item.where}; --classes names {', '.join(names)}")
    empty = [name for name in names if name not in labels]
    if empty:
        raise ValueError(f"class {empty[0]!r} has no images; the images have the labels {', '.join(labels)}")
    if len(names) < 2:
        raise ValueError(f"there is only one class, {names[0]!r}; a classifier needs at least two")
    return tuple(names)


def _by_severity(labels: Sequence[str]) -> Sequence[str]:
    """Returns the labels from the least to the most severe, or as they are if some do not tell it or are equal."""
    ranks = [next((rank for rank, form in enumerate(SEVERITY) if re.search(form, label.casefold())), None)
             for label in labels]  # fmt: skip
    if None in ranks or len(set(ranks)) < len(ranks):
        return labels
    return [label for _, label in sorted(zip(ranks, labels, strict=True))]


def _as_labels(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Returns names of classes as the labels spell them; a name that is no label stays as it is."""
    spelled = {spellings.key(label, whole_numbers=True): label for label in labels}
    return [name if name in labels else spelled.get(spellings.key(name, whole_numbers=True), name) for name in names]
