"""Phantom dataset: synthetic H&E fields of view in five classes with the class imbalance of EBHI.

Not for medical conclusions: the classes are points on a synthetic scale of grade, and neighbouring classes overlap on
purpose.
"""

import io
import math
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from dim_jax.cli import command_line
from dim_jax.data import phantom_tissue
from dim_jax.runs import files

CLASSES = ("normal", "polyp", "low_grade_in", "high_grade_in", "adenocarcinoma")
COUNTS = (60, 242, 563, 126, 750)

FEWEST_IMAGES = 9
FEWEST_CASES = 5
MOST_PER_CASE = 12

IMAGES_PER_PROCESS = 48  # fewer are rendered in less time than a process takes to start

# Absorption of the two dyes in red, green and blue (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291-299).
HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)

GRADE_SPREAD_OF_CASES = 0.45
GRADE_SPREAD_OF_FIELDS = 0.15

# Salts of the independent random streams of the plan, a case, its grade, a field and the camera.
_PLAN, _CASE, _GRADE, _FIELD, _SENSOR = range(5)


@dataclass(frozen=True)
class PhantomImage:
    """One image of the plan.

    Attributes:
      label: class name.
      case: case (patient), the unit of a split.
      field: number of the field of view within the case, from 1.
    """

    label: str
    case: str
    field: int

    @property
    def path(self) -> str:
        """POSIX path relative to the folder of `write`."""
        return f"{self.label}/{self.case}_{self.field:02d}.png"


@dataclass(frozen=True)
class Appearance:
    """Properties shared by all fields of one case: stains, section and microscope.

    Attributes:
      stains: unit absorption vectors of haematoxylin and eosin, shape (2, 3).
      amounts: strength of each stain times the thickness of the section, shape (2,).
      light: RGB brightness of empty glass in 0..255, shape (3,).
      focus: standard deviation of the blur, as a fraction of the image side.
      magnification, inflammation, retraction: see `phantom_tissue.compose`.
    """

    stains: np.ndarray
    amounts: np.ndarray
    light: np.ndarray
    focus: float
    magnification: float
    inflammation: float
    retraction: float


def plan(scale: float = 1.0, seed: int = 0) -> list[PhantomImage]:
    """Lists the images of a phantom dataset, class by class and case by case.

    Args:
      scale: number of images relative to EBHI's 1,741; every class has at least 9 images of 5 cases.
      seed: random seed of the cases of images and of the cases that span two neighbouring classes.

    Returns:
      The images; `len(plan(1.0)) == sum(COUNTS)`.

    Raises:
      ValueError: `scale` is not a positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale={scale} of the phantom set must be a positive number, such as 1.0 or 0.1")
    rng = _generator(seed, _PLAN)
    case_sizes = [_case_sizes(rng, max(FEWEST_IMAGES, round(count * scale))) for count in COUNTS]
    case_numbers: list[list[int]] = []
    first = 1
    for sizes in case_sizes:
        case_numbers.append(list(range(first, first + len(sizes))))
        first += len(sizes)
    for lower in range(len(CLASSES) - 1):
        num_shared = round(0.06 * min(len(case_numbers[lower]), len(case_numbers[lower + 1])))
        if lower == 1:  # the two most similar classes share a case even in the smallest set
            num_shared = max(num_shared, 1)
        # The last cases of the lower class replace the first of the upper one, so that no case spans three classes.
        for index in range(num_shared):
            case_numbers[lower + 1][index] = case_numbers[lower][-1 - index]
    images, num_fields = [], dict.fromkeys(range(first), 0)
    for label, cases, sizes in zip(CLASSES, case_numbers, case_sizes, strict=True):
        for case, count in zip(cases, sizes, strict=True):
            images += [PhantomImage(label, f"case{case:04d}", num_fields[case] + 1 + index) for index in range(count)]
            num_fields[case] += count
    return images


def draw(image: PhantomImage, size: int = 299, seed: int = 0) -> np.ndarray:
    """Renders one field of view.

    With amounts of dye cH and cE and absorption vectors H and E, the Beer-Lambert law gives
    RGB = light * exp(-(cH H + cE E)), to which sensor noise is added.

    Args:
      image: the image; its case and field need not be in a plan.
      size: side of the image in px, at least 8. A field shows the same tissue at every size.
      seed: random seed of all cases and fields.

    Returns:
      RGB, uint8 of shape (size, size, 3).

    Raises:
      ValueError: the label is not one of CLASSES, or `size` is below 8.
    """
    if size < 8:
        raise ValueError(f"size={size} of a phantom image must be at least 8 pixels")
    appearance = case_appearance(image.case, seed)
    tissue = field_tissue(image, 320 if size > 128 else phantom_tissue.GRID, seed)
    rng = _generator(seed, _SENSOR, image.case, image.label, image.field)
    blur = appearance.focus * len(tissue.eosin) * np.exp(rng.normal(0, 0.15))
    dyes = [ndimage.gaussian_filter(dye, blur, truncate=3.0) for dye in (tissue.haematoxylin, tissue.eosin)]
    absorbed = (appearance.stains * appearance.amounts[:, None]).astype(np.float32)
    density = dyes[0][..., None] * absorbed[0] + dyes[1][..., None] * absorbed[1]
    picture = np.exp(-density) * (appearance.light.astype(np.float32) * _illumination(rng, len(density))[..., None])
    planes = (Image.fromarray(np.ascontiguousarray(picture[..., channel])) for channel in range(3))
    picture = np.stack([np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC)) for plane in planes], -1)
    grey, colour = (rng.standard_normal((size, size, depth), np.float32) for depth in (1, 3))
    picture = picture + 1.2 * grey + 0.8 * colour
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def field_tissue(image: PhantomImage, resolution: int = 320, seed: int = 0) -> phantom_tissue.Tissue:
    """Returns the maps of dyes and structures that `draw` renders.

    Args:
      image: the image; its case and field need not be in a plan.
      resolution: side of the maps in px.
      seed: random seed of all cases and fields.
    """
    appearance = case_appearance(image.case, seed)
    rng = _generator(seed, _FIELD, image.case, image.label, image.field)
    grade = case_grade(image.label, image.case, seed) + rng.normal(0, GRADE_SPREAD_OF_FIELDS)
    return phantom_tissue.compose(
        rng, grade, resolution, appearance.magnification, appearance.inflammation, appearance.retraction
    )


def case_grade(label: str, case: str, seed: int = 0) -> float:
    """Returns the latent grade of a case in one class, drawn from a normal distribution around the class index.

    Raises:
      ValueError: `label` is not in CLASSES.
    """
    if label not in CLASSES:
        raise ValueError(f"label {label!r} is not a phantom class; choose one of {', '.join(CLASSES)}")
    return CLASSES.index(label) + GRADE_SPREAD_OF_CASES * float(_generator(seed, _GRADE, case, label).standard_normal())


def case_appearance(case: str, seed: int = 0) -> Appearance:
    """Returns the appearance of a case, a function of its name and the seed."""
    rng = _generator(seed, _CASE, case)
    stains = np.array([HAEMATOXYLIN, EOSIN]) + rng.normal(0, [[0.05, 0.03, 0.04], [0.05, 0.02, 0.04]])
    stains = np.maximum(stains, 0.01)
    thickness = np.exp(rng.normal(0, 0.14))
    # Lamps and cameras vary more than stains do: most glass is white, some grey or straw-coloured.
    light = rng.uniform([228, 230, 240], [250, 250, 255]) - (rng.random() < 0.3) * rng.exponential([12, 6, 24])
    return Appearance(
        stains=stains / np.linalg.norm(stains, axis=1, keepdims=True),
        amounts=thickness * np.exp(rng.normal(0, [0.15, 0.20])) * np.array([1.40, 1.0]),
        light=np.maximum(light, 190),
        focus=rng.uniform(0.0008, 0.0028),
        magnification=float(np.exp(np.clip(rng.normal(0, 0.13), -0.3, 0.3))),
        inflammation=float(np.exp(rng.normal(0, 0.45))),
        retraction=max(0.0, rng.normal(0.4, 0.8)),
    )


def write(
    folder: str | Path,
    size: int = 299,
    scale: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    only: str = "",
) -> list[tuple[str, str, str]]:
    """Renders a phantom dataset into class folders, `folder/<label>/<case>_<field>.png`.

    Args:
      folder: output folder, created if missing; files of the same names are replaced.
      size: side of the images in px.
      scale: see `plan`.
      seed: see `plan` and `draw`.
      progress: called as progress(images done, images in all).
      only: the class to render; "" for all.

    Returns:
      (path relative to `folder`, label, case) of each image, in the order of `plan`.
    """
    folder = Path(folder)
    images = [image for image in plan(scale, seed) if only in ("", image.label)]
    jobs = [(folder / image.path, image, size, seed) for image in images]
    done = 0
    workers = min(os.cpu_count() or 1, len(jobs) // IMAGES_PER_PROCESS)
    if workers > 1:
        # Spawned, not forked: forking a process with threads of JAX or TensorFlow can hang.
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for done, _ in enumerate(pool.map(_write_one, jobs, chunksize=8), start=1):
                    if progress:
                        progress(done, len(jobs))
        except BrokenProcessPool:
            pass  # the caller cannot be spawned (such as a script on standard input): continue in this process
    for index in range(done, len(jobs)):
        _write_one(jobs[index])
        if progress:
            progress(index + 1, len(jobs))
    return [(image.path, image.label, image.case) for image in images]


def contact_sheet(columns: int = 6, size: int = 224, scale: float = 1.0, seed: int = 0) -> Image.Image:
    """Returns a labelled sheet with one row per class and one case per column.

    Args:
      columns: number of cases in a row.
      size: side of an image in px.
      scale, seed: see `plan`.
    """
    images = plan(scale, seed)
    gap, strip = 4, 20
    sheet = Image.new("RGB", (columns * (size + gap) + gap, len(CLASSES) * (size + strip + gap)), "white")
    drawing = ImageDraw.Draw(sheet)
    for row, label in enumerate(CLASSES):
        cases = list({image.case: image for image in reversed(images) if image.label == label}.values())[::-1]
        selected = [cases[index % len(cases)] for index in np.linspace(0, len(cases) - 1, columns).round().astype(int)]
        top = row * (size + strip + gap)
        drawing.text((gap, top + 4), label, fill="black", font_size=13)
        for column, image in enumerate(selected):
            sheet.paste(Image.fromarray(draw(image, size, seed)), (gap + column * (size + gap), top + strip))
    return sheet


def _case_sizes(rng: np.random.Generator, count: int) -> list[int]:
    """Divides `count` images among cases of 1 to MOST_PER_CASE images, about five on average in a large set."""
    sizes = np.ones(max(FEWEST_CASES, round(count / 5)), int)
    weights = rng.gamma(1.2, size=len(sizes)) + 0.05
    while (remaining := count - int(sizes.sum())) > 0:
        open_weights = weights * (sizes < MOST_PER_CASE)
        sizes = np.minimum(sizes + rng.multinomial(remaining, open_weights / open_weights.sum()), MOST_PER_CASE)
    return sizes.tolist()


def _generator(seed: int, salt: int, *names: str | int) -> np.random.Generator:
    """Returns a generator seeded by the arguments; text by its CRC-32, because Python's hash is randomised."""
    words = [zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, salt, *words])))


def _illumination(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns the relative illumination of a field, about 0.93..1, float32 of shape (side, side)."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    tilt = rng.normal(0, 0.02, 2)
    return np.minimum(1 - 0.06 * (x * x + y * y) + tilt[0] * x + tilt[1] * y - 0.015, 1).astype(np.float32)


def _write_one(job: tuple[Path, PhantomImage, int, int]) -> None:
    path, image, size, seed = job
    buffer = io.BytesIO()
    Image.fromarray(draw(image, size, seed)).save(buffer, "PNG")
    files.write_bytes(path, buffer.getvalue())


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser(
        "data.phantom",
        "Renders synthetic H&E images: a whole dataset into class folders, or a sheet of examples.",
        "  python -m dim_jax.data.phantom --write=/data/phantom --size=96 --scale=0.1\n"
        "  python -m dim_jax.data.phantom --contact-sheet=phantom.jpg",
    )
    parser.add_argument(
        "--write", metavar="FOLDER", type=Path, help="write a dataset into FOLDER, one folder per class"
    )
    parser.add_argument(
        "--contact-sheet", metavar="FILE", type=Path, help="write a sheet with one row of cases per class"
    )
    parser.add_argument("--size", type=int, help="side of an image in pixels (299; 224 on a contact sheet)")
    parser.add_argument("--scale", type=float, default=1.0, help="number of images relative to EBHI's 1,741 (1.0)")
    parser.add_argument("--only", choices=CLASSES, default="", help="with --write: the class to render (all)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (0)")
    options = parser.parse_args(arguments)
    if options.write is None and options.contact_sheet is None:
        raise ValueError("nothing to do: give --write=FOLDER or --contact-sheet=FILE")
    if options.contact_sheet is not None:
        buffer = io.BytesIO()
        kind = "PNG" if options.contact_sheet.suffix.lower() == ".png" else "JPEG"
        sheet = contact_sheet(size=options.size or 224, scale=options.scale, seed=options.seed)
        sheet.save(buffer, kind, **({"quality": 74} if kind == "JPEG" else {}))
        command_line.say(files.write_bytes(options.contact_sheet, buffer.getvalue()))
    if options.write is not None:
        rows = write(options.write, options.size or 299, options.scale, options.seed, only=options.only)
        command_line.say(f"{len(rows)} images of {len({case for _, _, case in rows})} cases in {options.write}")


if __name__ == "__main__":
    raise SystemExit(command_line.run(main))
