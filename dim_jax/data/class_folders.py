"""Folders of images as a source: one folder per class, also with folders of a split or of masks, or nested."""

import itertools
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from dim_jax.data import derived_images, folder_walk, other_files
from dim_jax.data.images import SUFFIXES
from dim_jax.data.listing import SPLIT_NAMES, ListedImage, Listing, named
from dim_jax.data.spellings import plain

PART_NAMES = SPLIT_NAMES | {"training": "train", "dev": "val", "testing": "test"}
IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "picture", "pictures"})
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
    walked = folder_walk.walk(root)
    names = sorted(path.relative_to(root).as_posix() for path in walked.files)
    for name in names:
        if not _is_utf8(name):
            raise ValueError(f"{name!r} below {root}: the name is not valid UTF-8; rename it")
    # A file that a second path leads to is read with both, to compare their classes.
    firsts = {path.relative_to(root).as_posix(): first.relative_to(root).as_posix()
              for path, first in walked.repeats.items()}  # fmt: skip
    second_names = firsts.keys() - set(names)
    folders = {
        name: parents
        for name in (*names, *sorted(second_names))
        if (parents := tuple(name.split("/")[:-1])) and os.path.splitext(name)[1].lower() in SUFFIXES
    }
    with_images = {parents[:length] for parents in folders.values() for length in range(1, len(parents) + 1)}
    if class_folder is None:
        _check_top(root, folders.values())
    warnings, notes = [], []
    derived, named_alike = derived_images.find(folders)
    warnings += derived_images.texts(
        {name: kind for name, kind in derived.items() if name not in second_names},
        "files taken for {kind} of the images beside them are left out",
        "rename them if they are images",
    )
    folders = {name: parents for name, parents in folders.items() if name not in derived}
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
    depth = class_folder or 1
    place = depth - 1 if depth > 0 else depth
    for second, first in firsts.items():
        if second in folders and first in folders:
            _check_link(root, *((name, parts.get(name, ""), folders[name][place:][:1]) for name in (second, first)))
    folders = {name: parents for name, parents in folders.items() if name not in second_names}
    if class_folder is None and (choices := _nested_classes(folders.values())):
        if not has_group_regex:
            raise ValueError(f"{choices}; if the inner folders are patients, add a --group-regex that finds them")
        warnings.append(choices)
    listed = []
    for name, parents in folders.items():
        if len(parents) < abs(depth):
            raise ValueError(f"--class-folder={depth}: {name} below {root} is in {len(parents)} folder(s); move it")
        listed.append(ListedImage(name, parents[place], split=parts.get(name, ""), where=name))
    ignored = [name for name in names if name not in folders]
    pictures = other_files.warnings(
        [root / name for name in ignored if os.path.splitext(name)[1].lower() not in SUFFIXES], root
    )
    if level is None or parts:
        subfolders = sorted(path.relative_to(root).parts for path in walked.folders)
        _check_no_empty_class(root, subfolders, with_images, depth, level, pictures)
    warnings += pictures
    warnings += derived_images.texts(
        {name: kind for name, kind in named_alike.items() if name in folders},
        "files named like {kind}, without images beside them, are taken for images",
        "move them elsewhere if they are none",
    )
    loose = [name for name in ignored if "/" not in name and os.path.splitext(name)[1].lower() in SUFFIXES]
    if loose:
        warnings.append(f"{len(loose)} images are in no class folder and left out: {named(loose)}")
    tables = [name for name in ignored if "/" not in name and name.lower().endswith(TABLE_SUFFIXES)]
    if tables:
        warnings.append(f"{named(tables)} not read; if it lists labels, groups or a split, give it as --manifest")
    if magnified := derived_images.magnifications(folders):
        warnings.append(magnified)
    if walked.system:
        notes.append(f"folders of the system are left out: {named(_relative(walked.system, root))}")
    return Listing(root, listed, has_split=bool(parts), ignored=ignored, notes=notes, warnings=warnings)


def _relative(paths: Collection[Path], root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in paths)


def _check_top(root: Path, folders: Collection[Folders]) -> None:
    """Raises ValueError if a folder in `root` is named as one of derived images, or as those of another folder."""
    tops = sorted({parents[0] for parents in folders})
    for name in tops:
        # A word in the name is not enough here: with_mask and without_mask may be classes.
        kind = derived_images.kind_of_folder(name, is_exact=True)
        kind = kind or next((kind for kind, image in derived_images.originals(name) if image in tops), "")
        if kind:
            pictures = [name for name in tops if plain(name) in IMAGE_FOLDERS]
            remedy = f"give --source={root / pictures[0]}" if pictures else "move it elsewhere"
            raise ValueError(
                f"the folder {name} in {root} looks like a folder of {kind}, not like a class; {remedy}, or prepare "
                "with --class-folder=1 if it is a class"
            )


def _check_link(root: Path, second: tuple[str, str, Folders], first: tuple[str, str, Folders]) -> None:
    """Raises ValueError if the two paths to one file, each with its part of the split and its class, contradict."""
    for one, other, kind in ((second[2], first[2], "classes"), ((second[1],), (first[1],), "parts of the split")):
        if one != other:
            raise ValueError(
                f"{second[0]} and {first[0]} below {root} are one file, by a link, and would be in two {kind} "
                f"({', '.join((*one, *other))}); remove one of them"
            )


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


def _check_no_empty_class(
    root: Path,
    folders: Sequence[Folders],
    with_images: Collection[Folders],
    depth: int,
    level: int | None,
    pictures: Sequence[str],
) -> None:
    """Raises ValueError if there are no folders, or one of a class, or of its part of a split, has no images.

    Args:
      root: folder of the images.
      folders: all folders below it.
      with_images: those with images in or below them.
      depth: number of the folder that names the class; nothing is checked if it is negative.
      level: level of the folders of a split, see `_split_level`.
      pictures: what is known of pictures among other files.
    """
    if not folders:
        raise ValueError(f"{root} has no class folders; expected {root.name}/<class>/<image>, or give --manifest")
    for folder in folders:
        inner = folder
        if level is not None and len(folder) > level:
            if not _part(folder[level]):
                continue
            inner = folder[:level] + folder[level + 1 :]
        if len(inner) == depth and folder not in with_images and not derived_images.kind_of_folder(folder[-1]):
            text = f"class {inner[-1]!r} has no images in {root.joinpath(*folder)}; add some or remove the folder"
            raise ValueError("; ".join((text, *pictures)))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
