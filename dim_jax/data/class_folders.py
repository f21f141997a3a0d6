"""Folders of images as a source: one folder per class, also with folders of a split or of masks, or nested."""

import itertools
import os
import re
from collections.abc import Collection
from pathlib import Path

from dim_jax.data.images import SUFFIXES
from dim_jax.data.listing import SPLIT_NAMES, ListedImage, Listing, named
from dim_jax.data.spellings import plain

PART_NAMES = SPLIT_NAMES | {"training": "train", "dev": "val", "testing": "test"}
IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "picture", "pictures"})
MASK_FOLDERS = frozenset({
    "mask", "masks", "label", "labels", "annotation", "annotations", "seg", "segmentation", "segmentations", "gt",
    "ground_truth", "ground-truth", "ground truth", "groundtruth",
})  # fmt: skip
MASK_WORDS = frozenset({"mask", "masks", "annotation", "annotations", "segmentation", "segmentations"})
# The end of a mask's name after its image's: benign (1)_mask.png, benign (1)_mask_1.png.
_MASK_SUFFIX = re.compile(r"[ _.-]+(?:mask|seg|segmentation|label|annotation)s?(?:[ _.-]*[0-9]+)?$", re.IGNORECASE)
TABLE_SUFFIXES = (".csv", ".tsv", ".xls", ".xlsx")

Folders = tuple[str, ...]  # names of the folders from the root to an image


def read(
    root: str | Path, split: str = "auto", class_folder: int | None = None, has_group_regex: bool = False
) -> Listing:
    """Lists `root/<class>/**/<image>`, or with folders named train, val and test above or below those of the classes.

    Hidden files and folders are skipped.

    Args:
      root: folder of the images.
      split: requested split method; the folders of a split are used for "auto" and "manifest", otherwise passed over.
      class_folder: number of the folder below `root` that names the class, from 1, or -1 for the innermost; folders of
        a split and inner ones called images do not count. None is 1, and refuses folders of which others may be the
        classes.
      has_group_regex: whether groups are read from the paths, which folders below the classes may be for.

    Returns:
      The listing without classes. Files that are not images, or that are masks of images, are in `ignored`.

    Raises:
      FileNotFoundError: `root` is not a folder.
      ValueError: there are no class folders, one holds no images, a file name is not valid UTF-8, or the folders may
        mean something else.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; --source is phantom or a folder with one folder per class")
    names = sorted(path.relative_to(root).as_posix() for path in files_below(root))
    for name in names:
        if not _is_utf8(name):
            raise ValueError(f"{name!r} below {root}: the name is not valid UTF-8; rename it")
    folders = {
        name: parents
        for name in names
        if (parents := tuple(name.split("/")[:-1])) and os.path.splitext(name)[1].lower() in SUFFIXES
    }
    if class_folder is None:
        _check_top(root, folders.values())
    warnings, notes = [], []
    masks = _masks(folders)
    if masks:
        folders = {name: parents for name, parents in folders.items() if name not in masks}
        warnings.append(
            f"{len(masks)} files are taken for masks of the images beside them and left out: {named(sorted(masks))}; "
            "rename them if they are images"
        )
    parts: dict[str, str] = {}
    level = _split_level(root, folders.values(), split)
    if level is not None:
        shown = ", ".join(sorted({parents[level] for parents in folders.values()}))
        if split in ("auto", "manifest"):
            notes.append(f"the split is that of the folders {shown}; --split=group draws another")
            parts = {name: _part(parents[level]) for name, parents in folders.items()}
        else:
            notes.append(f"the folders {shown} are not used as the split because of --split={split}")
        folders = {name: parents[:level] + parents[level + 1 :] for name, parents in folders.items()}
    folders = {
        name: parents[:1] + tuple(inner for inner in parents[1:] if plain(inner) not in IMAGE_FOLDERS)
        for name, parents in folders.items()
    }
    outside = [name for name, parents in folders.items() if not parents]
    if outside:
        raise ValueError(f"{named(outside)} below {root}: in the folder of a split but of no class; move it into one")
    if class_folder is None and (choices := _nested_classes(folders.values())):
        if not has_group_regex:
            raise ValueError(f"{choices}; if the inner folders are patients, add a --group-regex that finds them")
        warnings.append(choices)
    depth = class_folder or 1
    listed = []
    for name, parents in folders.items():
        if len(parents) < abs(depth):
            raise ValueError(f"--class-folder={depth}: {name} below {root} is in {len(parents)} folder(s); move it")
        label = parents[depth - 1 if depth > 0 else depth]
        listed.append(ListedImage(name, label, split=parts.get(name, ""), where=name))
    if level is None and depth == 1:
        _check_no_empty_class(root, {item.label for item in listed})
    ignored = [name for name in names if name not in folders]
    loose = [name for name in ignored if "/" not in name and os.path.splitext(name)[1].lower() in SUFFIXES]
    if loose:
        warnings.append(f"{len(loose)} images are in no class folder and left out: {named(loose)}")
    tables = [name for name in ignored if "/" not in name and name.lower().endswith(TABLE_SUFFIXES)]
    if tables:
        warnings.append(f"{named(tables)} not read; if it lists labels, groups or a split, give it as --manifest")
    return Listing(root, listed, has_split=bool(parts), ignored=ignored, notes=notes, warnings=warnings)


def _check_top(root: Path, folders: Collection[Folders]) -> None:
    """Raises ValueError if a folder in `root` is named as one of masks, or as the masks of another."""
    tops = sorted({parents[0] for parents in folders})
    # A word in the name is not enough here: with_mask and without_mask may be classes.
    masks = [name for name in tops if plain(name) in MASK_FOLDERS or _image_of(name) in tops]
    if masks:
        pictures = [name for name in tops if plain(name) in IMAGE_FOLDERS]
        remedy = f"give --source={root / pictures[0]}" if pictures else "move it elsewhere"
        raise ValueError(
            f"the folder {masks[0]} in {root} looks like a folder of masks, not like a class; {remedy}, or prepare "
            "with --class-folder=1 if it is a class"
        )


def _masks(folders: dict[str, Folders]) -> set[str]:
    """Returns the files in a folder of masks beside images or their folder, and those named as another file's mask."""
    stems = {os.path.splitext(name)[0] for name in folders}
    owners, parents = {}, set()
    for name, own in folders.items():
        # The folder of a class itself is not one of masks.
        inner = next((place for place in range(1, len(own)) if _is_for_masks(own[place])), None)
        if inner is not None:
            owners[name] = own[:inner]
        elif _image_of(os.path.splitext(name)[0]) in stems:
            owners[name] = own
        else:
            parents |= {own[:length] for length in range(1, len(own) + 1)}
    return {name for name, owner in owners.items() if owner in parents}


def _is_for_masks(folder: str) -> bool:
    name = plain(folder)
    return name in MASK_FOLDERS or not MASK_WORDS.isdisjoint(re.split("[ _.-]+", name))


def _image_of(name: str) -> str | None:
    """Returns the name of the image whose mask has this name; None if it is not named as a mask."""
    return _MASK_SUFFIX.sub("", name) if _MASK_SUFFIX.search(name) else None


def _part(folder: str) -> str:
    """Returns "train", "val" or "test" for a folder named as that part of a split, such as Training or test_set."""
    return PART_NAMES.get(re.sub(r"[ _-]*(?:set|data|images)?$", "", plain(folder)), "")


def _split_level(root: Path, folders: Collection[Folders], split: str) -> int | None:
    """Returns the level of the folders named train, val and test: 0 above the classes, 1 below them, None if none.

    Raises:
      ValueError: only some of the folders are named so, or a part is missing and `split` is no other method.
    """
    for level in (0, 1):
        names = sorted({parents[level] if len(parents) > level else "" for parents in folders})
        shown = ", ".join(name for name in names if _part(name))
        others = [name for name in names if not _part(name)]
        parts = {_part(name) for name in names} - {""}
        if len(parts) < 2 and (level or others or not parts):
            continue
        if others:
            raise ValueError(
                f"the folders {shown} in {root} look like a split, but there are images outside them "
                f"({named([name or 'in no such folder' for name in others])}); move these, or list all images in a "
                "table with a split column and give it as --manifest"
            )
        missing = [name for name in ("train", "val", "test") if name not in parts]
        if missing and split in ("auto", "manifest"):
            raise ValueError(
                f"the folders {shown} in {root} look like a split without {' and '.join(missing)}; add what is "
                "missing, or prepare with --split=group to pool all images and split them again"
            )
        return level
    return None


def _nested_classes(folders: Collection[Folders]) -> str:
    """Returns a text on which folders may be the classes if no image is directly in the first ones; else ""."""
    below: dict[str, set[Folders]] = {}
    for parents in folders:
        below.setdefault(parents[0], set()).add(parents[1:])
    # A folder that all images of a class are in says nothing about them.
    several = {top: _shared(inner) for top, inner in below.items() if len(inner) > 1}
    if not several or any(min(map(len, inner)) == several.get(top, 0) for top, inner in below.items()):
        return ""
    number = 2 + min(several.values())
    examples = sorted({
        "/".join((top, *parents[: number - 1])) for top, inner in below.items() for parents in inner
    })  # fmt: skip
    tops = named(sorted(below))
    return (
        f"the images are in folders below {tops}: {named(examples)}; prepare with --class-folder=1 if {tops} are the "
        f"classes, with --class-folder={number} if the inner folders are"
    )


def _shared(paths: Collection[Folders]) -> int:
    """Returns how many folders are common to the starts of all paths."""
    pairs = zip(min(paths), max(paths), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _check_no_empty_class(root: Path, labels: Collection[str]) -> None:
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} has no class folders; expected {root.name}/<class>/<image>, or give --manifest")
    empty = [folder for folder in folders if folder not in labels]
    if empty:
        raise ValueError(f"class {empty[0]!r} has no images in {root / empty[0]}; add some or remove the folder")


def files_below(root: Path, must_be_readable: bool = True) -> list[Path]:
    """Lists the visible files below `root`; links to folders are followed, each folder once.

    Args:
      root: the folder.
      must_be_readable: whether a folder that cannot be read is an error, as skipping it could lose images silently.

    Raises:
      OSError: a folder below `root` cannot be read.
    """
    paths, visited = [], set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse if must_be_readable else None):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(folder, name) for name in names if not name.startswith(".")]
    return paths


def _refuse(error: OSError) -> None:
    raise type(error)(
        f"{error.filename}: the folder cannot be read ({error.strerror}); correct its permissions or move it"
    )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
