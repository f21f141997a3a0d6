"""Invented H&E fields of view in five classes and EBHI's imbalance: data to try the system on without any patient's.

Not for medical conclusions: the classes are points on one invented scale of grade, and neighbours overlap on purpose.
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

IMAGES_PER_PROCESS = 48  # Fewer are drawn sooner than another process starts.

# Absorption of the two dyes in red, green and blue (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291-299).
HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)

GRADE_SPREAD_OF_CASES = 0.45
GRADE_SPREAD_OF_FIELDS = 0.15

# Salts that keep the random streams of a case, of its grade, of a field and of the camera apart.
_PLAN, _CASE, _GRADE, _FIELD, _SENSOR = range(5)


@dataclass(frozen=True)
class PhantomImage:
    """One image of the plan: its class, its case (the patient, the unit of a split) and its number within the case."""

    label: str
    case: str
    field: int

    @property
    def path(self) -> str:
        """Where `write` puts it, relative to the folder, with forward slashes."""
        return f"{self.label}/{self.case}_{self.field:02d}.png"


@dataclass(frozen=True)
class Appearance:
    """What all fields of one case share: stains, section and microscope.

    Attributes:
      stains: (2, 3) absorption vectors of haematoxylin and eosin, unit length.
      amounts: (2,) strength of each stain, times the section's thickness.
      light: (3,) brightness of empty glass, 0..255.
      focus: standard deviation of the blur, as a part of the image's side.
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
    """Lists the images of a set, class by class and case by case.

    Args:
      scale: size of the set relative to EBHI's 1,741 images; every class keeps at least 9 images of 5 cases.
      seed: decides how images fall into cases and which cases span two neighbouring classes.

    Returns:
      The images; `len(plan(1.0)) == sum(COUNTS)`.

    Raises:
      ValueError: `scale` is not a positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale={scale} of the phantom set must be a positive number, such as 1.0 or 0.1")
    rng = _generator(seed, _PLAN)
    sizes = [_case_sizes(rng, max(FEWEST_IMAGES, round(count * scale))) for count in COUNTS]
    names: list[list[int]] = []
    first = 1
    for members in sizes:
        names.append(list(range(first, first + len(members))))
        first += len(members)
    for lower in range(len(CLASSES) - 1):
        shared = round(0.06 * min(len(names[lower]), len(names[lower + 1])))
        if lower == 1:  # the two most alike; even the smallest set has one such case
            shared = max(shared, 1)
        # A case of the lower class that takes over one of the upper class: the last ones and the first ones, so that
        # no case spans three classes.
        for index in range(shared):
            names[lower + 1][index] = names[lower][-1 - index]
    images, taken = [], dict.fromkeys(range(first), 0)
    for label, cases, members in zip(CLASSES, names, sizes, strict=True):
        for case, count in zip(cases, members, strict=True):
            images += [PhantomImage(label, f"case{case:04d}", taken[case] + 1 + index) for index in range(count)]
            taken[case] += count
    return images


def draw(image: PhantomImage, size: int = 299, seed: int = 0) -> np.ndarray:
    """Draws one field of view.

    Dye is laid down as amounts cH and cE along the absorption vectors H and E, and light passes it by Beer and
    Lambert's law: RGB = light * exp(-(cH H + cE E)), plus the noise of a sensor.

    Args:
      image: what to draw; any case name and field number will do, planned or not.
      size: side of the picture, pixels. The same field shows the same tissue at every size.
      seed: decides every case and field anew.

    Returns:
      (size, size, 3) uint8 RGB.

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
    picture = np.stack([plane.resize((size, size), Image.Resampling.BICUBIC) for plane in planes], -1)
    grey, colour = (rng.standard_normal((size, size, depth), np.float32) for depth in (1, 3))
    picture = picture + 1.2 * grey + 0.8 * colour
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def field_tissue(image: PhantomImage, resolution: int = 320, seed: int = 0) -> phantom_tissue.Tissue:
    """Returns the dye and structure maps under `draw`, before optics. See `phantom_tissue.Tissue`."""
    appearance = case_appearance(image.case, seed)
    rng = _generator(seed, _FIELD, image.case, image.label, image.field)
    grade = case_grade(image.label, image.case, seed) + rng.normal(0, GRADE_SPREAD_OF_FIELDS)
    return phantom_tissue.compose(
        rng, grade, resolution, appearance.magnification, appearance.inflammation, appearance.retraction
    )


def case_grade(label: str, case: str, seed: int = 0) -> float:
    """Returns the latent grade of a case's tissue of one class: normal, centred on the class's place in CLASSES."""
    if label not in CLASSES:
        raise ValueError(f"label {label!r} is not a phantom class; choose one of {', '.join(CLASSES)}")
    return CLASSES.index(label) + GRADE_SPREAD_OF_CASES * float(_generator(seed, _GRADE, case, label).standard_normal())


def case_appearance(case: str, seed: int = 0) -> Appearance:
    """Returns what all fields of one case share, drawn from the case's name and the seed alone."""
    rng = _generator(seed, _CASE, case)
    stains = np.array([HAEMATOXYLIN, EOSIN]) + rng.normal(0, [[0.05, 0.03, 0.04], [0.05, 0.02, 0.04]])
    stains = np.maximum(stains, 0.01)
    thickness = np.exp(rng.normal(0, 0.14))
    # Lamps and cameras differ more than stains do: most glass is white, some grey or straw-coloured.
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
) -> list[tuple[str, str, str]]:
    """Draws a whole set into class folders, `folder/<label>/<case>_<field>.png`.

    Args:
      folder: made if missing; files of the same names are replaced.
      size: side of the images, pixels.
      scale: see `plan`.
      seed: see `plan` and `draw`.
      progress: called as progress(images done, images in all).

    Returns:
      (path relative to `folder`, label, case) of every image, in the order of `plan`.
    """
    folder = Path(folder)
    images = plan(scale, seed)
    jobs = [(folder / image.path, image, size, seed) for image in images]
    done = 0
    workers = min(os.cpu_count() or 1, len(jobs) // IMAGES_PER_PROCESS)
    if workers > 1:
        # Spawned, not forked: a fork of a process in which JAX or TensorFlow runs threads can hang.
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                for done, _ in enumerate(pool.map(_write_one, jobs, chunksize=8), start=1):
                    if progress:
                        progress(done, len(jobs))
        except BrokenProcessPool:
            pass  # a caller that cannot be spawned (a script on standard input, say): go on in this process
    for index in range(done, len(jobs)):
        _write_one(jobs[index])
        if progress:
            progress(index + 1, len(jobs))
    return [(image.path, image.label, image.case) for image in images]


def contact_sheet(columns: int = 6, size: int = 224, scale: float = 1.0, seed: int = 0) -> Image.Image:
    """Returns a labelled sheet: one row per class, one column per case, `size` pixels a picture."""
    images = plan(scale, seed)
    gap, strip = 4, 20
    sheet = Image.new("RGB", (columns * (size + gap) + gap, len(CLASSES) * (size + strip + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, label in enumerate(CLASSES):
        cases = list({image.case: image for image in reversed(images) if image.label == label}.values())[::-1]
        chosen = [cases[index % len(cases)] for index in np.linspace(0, len(cases) - 1, columns).round().astype(int)]
        top = row * (size + strip + gap)
        pen.text((gap, top + 4), label, fill="black", font_size=13)
        for column, image in enumerate(chosen):
            sheet.paste(Image.fromarray(draw(image, size, seed)), (gap + column * (size + gap), top + strip))
    return sheet


def _case_sizes(rng: np.random.Generator, count: int) -> list[int]:
    """Shares `count` images among cases of 1 to MOST_PER_CASE, about five on average in a large set."""
    sizes = np.ones(max(FEWEST_CASES, round(count / 5)), int)
    appetite = rng.gamma(1.2, size=len(sizes)) + 0.05
    while (left := count - int(sizes.sum())) > 0:
        open_ = appetite * (sizes < MOST_PER_CASE)
        sizes = np.minimum(sizes + rng.multinomial(left, open_ / open_.sum()), MOST_PER_CASE)
    return sizes.tolist()


def _generator(seed: int, salt: int, *names: str | int) -> np.random.Generator:
    """Returns a generator that depends on the arguments alone; text enters by its CRC-32, never by Python's hash."""
    words = [zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, salt, *words])))


def _illumination(rng: np.random.Generator, side: int) -> np.ndarray:
    """Returns uneven light over the field, about 0.93..1."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    tilt = rng.normal(0, 0.02, 2)
    return np.minimum(1 - 0.06 * (x * x + y * y) + tilt[0] * x + tilt[1] * y - 0.015, 1).astype(np.float32)


def _write_one(job: tuple[Path, PhantomImage, int, int]) -> None:
    path, image, size, seed = job
    content = io.BytesIO()
    Image.fromarray(draw(image, size, seed)).save(content, "PNG")
    files.write_bytes(path, content.getvalue())


def main(arguments: Sequence[str]) -> None:
    parser = command_line.parser(
        "data.phantom",
        "Draws invented H&E images: a whole set into class folders, or a sheet of examples.",
        "  python -m dim_jax.data.phantom --write=/data/phantom --size=96 --scale=0.1\n"
        "  python -m dim_jax.data.phantom --contact-sheet=phantom.jpg",
    )
    parser.add_argument("--write", metavar="FOLDER", type=Path, help="draw a set into FOLDER, a folder per class")
    parser.add_argument("--contact-sheet", metavar="FILE", type=Path, help="draw one row of cases per class into FILE")
    parser.add_argument("--size", type=int, help="side of an image in pixels (299; 224 on a contact sheet)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the set, of EBHI's 1,741 images (1.0)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another set (0)")
    options = parser.parse_args(arguments)
    if options.write is None and options.contact_sheet is None:
        raise ValueError("nothing to do: give --write=FOLDER or --contact-sheet=FILE")
    if options.contact_sheet is not None:
        content = io.BytesIO()
        kind = "PNG" if options.contact_sheet.suffix.lower() == ".png" else "JPEG"
        sheet = contact_sheet(size=options.size or 224, scale=options.scale, seed=options.seed)
        sheet.save(content, kind, **({"quality": 74} if kind == "JPEG" else {}))
        command_line.say(files.write_bytes(options.contact_sheet, content.getvalue()))
    if options.write is not None:
        rows = write(options.write, options.size or 299, options.scale, options.seed)
        command_line.say(f"{len(rows)} images of {len({case for _, _, case in rows})} cases in {options.write}")


if __name__ == "__main__":
    raise SystemExit(command_line.run(main))
