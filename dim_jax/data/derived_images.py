"""Images made from other images: masks, overlays, thumbnails and changed copies, found by their names.

They are told by the name of their folder or by the end or the beginning of their own. Where the images that they are of
are there too, they are no images of the set; otherwise the names are only a hint.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dim_jax.data.listing import named
from dim_jax.data.spellings import plain


@dataclass(frozen=True)
class _Words:
    """Words for one kind, in small letters.

    Attributes:
      folders: whole names of folders.
      parts: words in the name of a folder, between spaces, `_`, `-` and dots.
      affixes: regular expression of what is added to the name of an image.
      hints: regular expression of those of them that tell without the image.
    """

    folders: frozenset[str]
    parts: frozenset[str]
    affixes: str
    hints: str


def _words(folders: str, parts: str, affixes: str, hints: str) -> _Words:
    names = frozenset(parts.split("|"))
    return _Words(frozenset(folders.split("|")) | names, names, affixes, hints)


KINDS = {
    "masks": _words(
        "label|labels|seg|gt|ground_truth|ground-truth|ground truth|groundtruth|contour|contours|outlines",
        "mask|masks|maske|masken|masque|masques|annotation|annotations|segmentation|segmentations",
        "masks?|masken?|masques?|seg|segmentations?|labels?|annotations?|gt|ground[ _-]?truth|contours?",
        "masks?|masken?|segmentations?|annotations?|ground[ _-]?truth",
    ),
    "overlays": _words(
        "heat_maps|heat-maps|cam|cams|grad_cam|grad-cam|attention_maps|blend|blended",
        "overlay|overlays|heatmap|heatmaps|gradcam|saliency",
        "overlays?|heat[ _-]?maps?|(?:grad[ _-]?)?cam|saliency|attention|blend(?:ed)?",
        "overlays?|heat[ _-]?maps?|grad[ _-]?cam|saliency",
    ),
    "thumbnails": _words(
        "icons|small",
        "thumb|thumbs|thumbnail|thumbnails|preview|previews",
        "thumbs?|thumbnails?|previews?|small|icon",
        "thumbs?|thumbnails?|previews?",
    ),
    "changed copies": _words(
        "aug|augs|flipped|mirrored|rotated|resized|downsampled|macenko|reinhard|vahadane",
        "augmented|augmentation|augmentations|synthetic|generated|normalized|normalised",
        "aug|augmented|augmentation|[hv]?flip(?:ped)?|mirror(?:ed)?|rot|rotated?|rotation|synthetic|generated|"
        "normali[sz]ed|resized|downsampled|macenko|reinhard|vahadane",
        "augmented|augmentation|synthetic|normali[sz]ed",
    ),
}
_GAP = r"(?:[ _.-]+|(?<=[a-z0-9)\]])(?=[A-Z]))"
_NUMBER = r"(?:[ _.-]*\(?[0-9]+\)?)?"
_AFFIXES = {
    kind: (
        re.compile(rf"^(?P<image>.+?){_GAP}(?i:{words.affixes}){_NUMBER}$"),
        re.compile(rf"^(?i:{words.affixes})[ _.-]+(?P<image>.+)$"),
    )
    for kind, words in KINDS.items()
}
_HINTS = {
    kind: re.compile(rf"(?:^|.{_GAP})(?i:{words.hints}){_NUMBER}$|^(?i:{words.hints})[ _.-]")
    for kind, words in KINDS.items()
}
# Of objectives, alone or with an eyepiece of 10x; tile_x2_y3 and 224x224 are none.
_LENSES = "1|1.25|2|2.5|4|5|10|20|25|40|50|60|63|100|200|250|400|500|600|630|1000".replace(".", r"\.")
_MAGNIFICATION = re.compile(rf"(?:^|[ _.-])({_LENSES}) ?x(?=[ _.-]|$)|^x ?({_LENSES})$", re.IGNORECASE)


def kind_of_folder(name: str, is_exact: bool = False) -> str:
    """Returns the key of `KINDS` that a folder's name means, or "".

    Args:
      name: name of the folder.
      is_exact: whether a word in the name is not enough.
    """
    text = plain(name)
    parts = set() if is_exact else set(re.split("[ _.-]+", text))
    return next((kind for kind, words in KINDS.items() if text in words.folders or parts & words.parts), "")


def originals(name: str) -> list[tuple[str, str]]:
    """Returns (kind, name of the image) for every image that a file or folder may be derived from by its name."""
    matches = [(kind, pattern.match(name)) for kind, patterns in _AFFIXES.items() for pattern in patterns]
    return [(kind, match["image"]) for kind, match in matches if match]


def find(folders: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Finds images derived from others.

    Args:
      folders: path of each image -> the names of its folders, the class first.

    Returns:
      Path -> kind of the images whose originals are there, and of those that are only named so.
    """
    kinds: dict[str, str] = {}
    owners: dict[str, Sequence[str]] = {}
    parents: set[Sequence[str]] = set()
    stems: dict[str, set[str]] = defaultdict(set)  # class -> names of its images, with and without suffix
    for path, own in folders.items():
        file = PurePosixPath(path)
        stems[own[0]] |= {file.name, file.stem}
    for path, own in folders.items():
        # The folder of a class itself is not one of derived images.
        inner = next((place for place in range(1, len(own)) if kind_of_folder(own[place])), None)
        if inner is not None:
            kinds[path], owners[path] = kind_of_folder(own[inner]), own[:inner]
            continue
        kind = next((kind for kind, image in originals(PurePosixPath(path).stem) if image in stems[own[0]]), "")
        if kind:
            kinds[path], owners[path] = kind, own
        else:
            parents |= {own[:length] for length in range(1, len(own) + 1)}
    beside = {path: kind for path, kind in kinds.items() if owners[path] in parents or owners[path] == folders[path]}
    alone = {path: kind for path, kind in kinds.items() if path not in beside}
    for path in folders.keys() - kinds.keys():
        stem = PurePosixPath(path).stem
        if hint := next((kind for kind, pattern in _HINTS.items() if pattern.search(stem)), ""):
            alone[path] = hint
    return beside, alone


def texts(kinds: Mapping[str, str], words: str, remedy: str) -> list[str]:
    """Returns a text for each kind of files, with their number and some names.

    Args:
      kinds: path -> kind.
      words: the beginning of the text, with {kind} for the kind.
      remedy: the end of the text.
    """
    by_kind = defaultdict(list)
    for path, kind in sorted(kinds.items()):
        by_kind[kind].append(path)
    return [f"{words.format(kind=kind)}: {len(paths)} ({named(paths)}); {remedy}" for kind, paths in by_kind.items()]


def magnifications(paths: Iterable[str]) -> str:
    """Returns a text on images of several magnifications, such as 40X and 100X in their paths; "" if there are none."""
    counts: Counter[str] = Counter()
    for path in paths:
        parts = os.path.splitext(path)[0].split("/")
        matches = [match for part in parts if (match := _MAGNIFICATION.search(part))]
        if matches:
            counts[matches[-1][1] or matches[-1][2]] += 1
    if len(counts) < 2:
        return ""
    shown = ", ".join(f"{number}x ({counts[number]})" for number in sorted(counts, key=float))
    return (
        f"the images are of several magnifications, by their paths: {shown}; give those of one tissue one group, or "
        "prepare one magnification alone, since a network can tell magnifications instead of classes"
    )
