"""Published enteroscope biopsies (EBHI, EBHI-Seg): images in class folders, unpacked or in a zip file.

EBHI-Seg names its files GT<case>-<block>-<magnification>-<number>, with XC, xc or DC before some cases. That the first
number is the case is inferred from the names; the authors do not document it.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dim_jax.data.images import SUFFIXES

# Letters of a folder name -> class name; the class names are those of the phantom.
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
SKIPPED_FOLDERS = {"label", "labels", "mask", "masks", "macosx"}
FILE_NAME = re.compile(r"GT[A-Za-z]*(?P<case>\d+)-(\d+-(?P<magnification>40|100|200|400)-)?")
MAGNIFICATION = re.compile(r"(?:^|[^0-9])(40|100|200|400) *[xX×]?$")


@dataclass(frozen=True)
class Biopsy:
    """One published image.

    Attributes:
      root: the folder or zip file that has the image.
      path: path within `root`.
      label: class name.
      case: case number in the file name; "" if unknown.
      magnification: 40, 100, 200 or 400, from a folder or the file name; 0 if unknown.
    """

    root: Path
    path: str
    label: str
    case: str
    magnification: int

    @property
    def name(self) -> str:
        """File name without folders."""
        return _parts(self.path)[-1]


def find(folder: str | Path, set_names: Sequence[str], classes: Sequence[str]) -> list[Biopsy]:
    """Lists the images below `folder`, or else those in its zip files, without segmentation masks.

    Args:
      folder: TFDS's folder of manual downloads. Datasets share it, so entries with a name of this dataset, if any, are
        the only ones searched.
      set_names: names that the dataset was published under.
      classes: classes of the dataset; images of other classes are skipped.

    Raises:
      FileNotFoundError: there are no images of these classes.
    """
    folder = Path(folder)
    known_names = {_letters(name) for name in set_names}
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    own = [entry for entry in entries if _letters(entry.stem if entry.is_file() else entry.name) in known_names]
    files = []
    for entry in own or entries:
        files += sorted(path for path in entry.rglob("*") if path.is_file()) if entry.is_dir() else [entry]
    parsed = [parse(folder, path.relative_to(folder).as_posix()) for path in files]
    if not any(parsed):  # a zip file is often unpacked beside itself
        archive_paths = [path for path in files if path.suffix.lower() == ".zip" and zipfile.is_zipfile(path)]
        for path in archive_paths:
            with zipfile.ZipFile(path) as archive:
                parsed += [parse(path, name) for name in sorted(archive.namelist())]
    biopsies = [biopsy for biopsy in parsed if biopsy and biopsy.label in classes]
    if not biopsies:
        listed = ", ".join(entry.name for entry in entries[:5]) or "nothing"
        raise FileNotFoundError(
            f"{folder} has {listed}, but no class folders of images like 'Low-grade IN' and no whole zip file of them; "
            "put the folder there as it was published, unpacked"
        )
    return biopsies


def parse(root: Path, path: str) -> Biopsy | None:
    """Returns the biopsy at a published path; None for a mask, or if it is not an image in a class folder.

    Args:
      root: the folder or zip file.
      path: path within `root`.
    """
    *folders, name = _parts(path)
    letters = [_letters(part) for part in folders]
    label = next((FOLDERS[part] for part in reversed(letters) if part in FOLDERS), None)
    is_hidden = any(part.startswith(".") for part in (*folders, name))
    if not label or is_hidden or SKIPPED_FOLDERS & set(letters) or Path(name).suffix.lower() not in SUFFIXES:
        return None
    fields = FILE_NAME.match(name)
    magnifications = [match[1] for part in reversed(folders) if (match := MAGNIFICATION.search(part))]
    if fields and fields["magnification"]:
        magnifications.append(fields["magnification"])
    magnification = int(magnifications[0]) if magnifications else 0
    return Biopsy(root, path, label, fields["case"] if fields else "", magnification)


def check_classes(biopsies: Sequence[Biopsy], classes: Sequence[str], where: str) -> None:
    """Checks that every class has images, to refuse incomplete downloads.

    Args:
      biopsies: the images.
      classes: classes of the dataset.
      where: folder of the images, for the error message.

    Raises:
      FileNotFoundError: a class has no images.
    """
    missing = [name for name in classes if name not in {biopsy.label for biopsy in biopsies}]
    if missing:
        raise FileNotFoundError(f"{where}: no images of {', '.join(missing)}; download and unpack the whole dataset")


def examples(biopsies: Sequence[Biopsy]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a key and a TFDS example per image, with the bytes of its file."""
    with ExitStack() as stack:
        archives: dict[Path, zipfile.ZipFile] = {}
        for biopsy in biopsies:
            if biopsy.root.is_dir():
                encoded = (biopsy.root / biopsy.path).read_bytes()
            else:
                if biopsy.root not in archives:
                    archives[biopsy.root] = stack.enter_context(zipfile.ZipFile(biopsy.root))
                encoded = archives[biopsy.root].read(biopsy.path)
            example = {"image": encoded, "label": biopsy.label, "group": biopsy.case, "filename": biopsy.name}
            yield f"{biopsy.root.name}/{biopsy.path}", example


def describe(builder: Any, classes: Sequence[str], description: str, homepage: str, citation: str) -> Any:
    """Returns the tfds.core.DatasetInfo of a dataset whose examples are those of `examples`."""
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
    return re.split(r"[/\\]", path)  # archives made on Windows may have backslashes


def _letters(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalpha())
