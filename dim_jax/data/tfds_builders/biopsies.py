"""Enteroscope biopsies as their authors published them: images in class folders, in a folder or in a zip file.

EBHI-Seg names its files GT<case>-<block>-<magnification>-<number>, with XC, xc or DC before some cases. That the number
is a case is read from the names; the authors do not say so.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dim_jax.data.images import SUFFIXES

# Folder names by their letters alone -> our class names, which are those of the phantom.
FOLDERS = {
    "normal": "normal",
    "polyp": "polyp",
    "lowgradein": "low_grade_in",
    "lowgradeintraepithelialneoplasia": "low_grade_in",
    "highgradein": "high_grade_in",
    "highgradeintraepithelialneoplasia": "high_grade_in",
    "serratedadenoma": "serrated_adenoma",
    "adenocarcinoma": "adenocarcinoma",
}
PASSED_OVER = {"label", "labels", "mask", "masks", "macosx"}
FILE_NAME = re.compile(r"GT[A-Za-z]*(?P<case>\d+)-(\d+-(?P<magnification>40|100|200|400)-)?")
MAGNIFICATION = re.compile(r"(?:^|[^0-9])(40|100|200|400) *[xX×]?$")


@dataclass(frozen=True)
class Biopsy:
    """One published image.

    Attributes:
      root: the folder or the zip file it is in.
      path: its path within `root`.
      label: class name.
      case: as the file name tells it; "" when it does not.
      magnification: 40, 100, 200 or 400; 0 when neither a folder nor the file name tells.
    """

    root: Path
    path: str
    label: str
    case: str
    magnification: int

    @property
    def name(self) -> str:
        return _parts(self.path)[-1]


def find(folder: str | Path, set_names: Sequence[str], classes: Sequence[str]) -> list[Biopsy]:
    """Lists the images below `folder`, or else those in the zip files there; segmentation masks are left out.

    Args:
      folder: TFDS's folder of manual downloads. Several sets share it, so where something in it bears the name of this
        one, nothing else is looked at.
      set_names: names the set was published under.
      classes: the set's classes; other images are passed over.

    Raises:
      FileNotFoundError: there is no image of these classes.
    """
    folder = Path(folder)
    known = {_letters(name) for name in set_names}
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    own = [entry for entry in entries if _letters(entry.stem if entry.is_file() else entry.name) in known]
    files = []
    for entry in own or entries:
        files += sorted(path for path in entry.rglob("*") if path.is_file()) if entry.is_dir() else [entry]
    found = [parse(folder, path.relative_to(folder).as_posix()) for path in files]
    if not any(found):  # Only then, because people unpack a zip file beside it.
        archives = [path for path in files if path.suffix.lower() == ".zip" and zipfile.is_zipfile(path)]
        for archive in archives:
            with zipfile.ZipFile(archive) as content:
                found += [parse(archive, name) for name in sorted(content.namelist())]
    biopsies = [biopsy for biopsy in found if biopsy and biopsy.label in classes]
    if not biopsies:
        seen = ", ".join(entry.name for entry in entries[:5]) or "nothing"
        raise FileNotFoundError(
            f"{folder} holds {seen}, but no class folders of images like 'Low-grade IN' and no whole zip file of them; "
            "put the folder there as it was published, unpacked"
        )
    return biopsies


def parse(root: Path, path: str) -> Biopsy | None:
    """Tells what a published path means; None when it is no image in a class folder, or a mask."""
    *folders, name = _parts(path)
    letters = [_letters(part) for part in folders]
    label = next((FOLDERS[part] for part in reversed(letters) if part in FOLDERS), None)
    is_hidden = any(part.startswith(".") for part in (*folders, name))
    if not label or is_hidden or PASSED_OVER & set(letters) or Path(name).suffix.lower() not in SUFFIXES:
        return None
    meaning = FILE_NAME.match(name)
    told = [match[1] for part in reversed(folders) if (match := MAGNIFICATION.search(part))]
    if meaning and meaning["magnification"]:
        told.append(meaning["magnification"])
    return Biopsy(root, path, label, meaning["case"] if meaning else "", int(told[0]) if told else 0)


def check_classes(found: Sequence[Biopsy], classes: Sequence[str], where: str) -> None:
    """Makes sure that every class is there: half a download must not pass for the set.

    Raises:
      FileNotFoundError: a class has no images.
    """
    missing = [name for name in classes if name not in {biopsy.label for biopsy in found}]
    if missing:
        raise FileNotFoundError(f"{where}: no images of {', '.join(missing)}; download and unpack the whole set")


def examples(found: Sequence[Biopsy]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a key and an example for TFDS per image; its bytes are those of the file."""
    with ExitStack() as stack:
        archives: dict[Path, zipfile.ZipFile] = {}
        for biopsy in found:
            if biopsy.root.is_dir():
                content = (biopsy.root / biopsy.path).read_bytes()
            else:
                if biopsy.root not in archives:
                    archives[biopsy.root] = stack.enter_context(zipfile.ZipFile(biopsy.root))
                content = archives[biopsy.root].read(biopsy.path)
            example = {"image": content, "label": biopsy.label, "group": biopsy.case, "filename": biopsy.name}
            yield f"{biopsy.root.name}/{biopsy.path}", example


def describe(builder: Any, classes: Sequence[str], description: str, homepage: str, citation: str) -> Any:
    """Returns the tfds.core.DatasetInfo of a set of biopsies, whose examples are as `examples` gives them."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=list(classes)),
        "group": tfds.features.Text(),
        "filename": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=("image", "label"),
        homepage=homepage,
        citation=citation,
    )


def _parts(path: str) -> list[str]:
    return re.split(r"[/\\]", path)  # archives made on Windows may hold backslashes


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalpha())
