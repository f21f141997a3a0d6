"""Precision and recall of the search for near-duplicates on a folder of images."""

import csv
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import records
from PIL import Image

from dim_jax.cli import command_line
from dim_jax.data import images, near_duplicates
from dim_jax.data.folder_walk import walk

SUMMARY = """\
Searches a folder of images for near-duplicates as `prepare` does. Precision: the pairs that it joins are compared with
a list of pairs judged by eye; those that the list lacks are named. Recall: copies of some of the images are turned and
changed, and each is searched for beside its original and beside another image."""
EXAMPLES = """\
  python benchmarks/near_duplicates.py slides
  python benchmarks/near_duplicates.py slides --judged=pairs.csv --copies=200 --json=near_duplicates.json
"""
JUDGED = Path(__file__).parents[1] / "tests" / "golden" / "near_duplicate_pairs.csv"
SAME = "same"

Change = Callable[[np.ndarray], np.ndarray]


def cropped(left: float, top: float, right: float, bottom: float) -> Change:
    """Returns a change that cuts shares of the width and height off the four sides."""

    def change(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        rows = slice(round(height * top), height - round(height * bottom))
        return pixels[rows, round(width * left) : width - round(width * right)]

    return change


def compressed(quality: int) -> Change:
    """Returns a change that saves as JPEG."""

    def change(pixels: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer).convert("RGB"))

    return change


def brightened(factor: float) -> Change:
    """Returns a change that multiplies all levels."""
    return lambda pixels: (pixels * factor).clip(0, 255).astype(np.uint8)


def restained(red: float, green: float, blue: float) -> Change:
    """Returns a change that multiplies the optical densities of the channels."""

    def change(pixels: np.ndarray) -> np.ndarray:
        density = -np.log((pixels + 1.0) / 256) * (red, green, blue)
        return (256 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)

    return change


def resized(factor: float) -> Change:
    """Returns a change of the size."""

    def change(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        return np.asarray(Image.fromarray(pixels).resize((round(width * factor), round(height * factor))))

    return change


def combined(*changes: Change) -> Change:
    """Returns a change that makes several after each other."""

    def change(pixels: np.ndarray) -> np.ndarray:
        for item in changes:
            pixels = item(pixels)
        return pixels

    return change


CHANGES: dict[str, Change] = {
    "turned or mirrored alone": lambda pixels: pixels,
    "crop of 5 %, half on each side": cropped(0.025, 0.025, 0.025, 0.025),
    "crop of 5 % on one side": cropped(0.05, 0, 0, 0),
    "crop of 5 % on two sides": cropped(0.05, 0.05, 0, 0),
    "crop of 5 % on every side": cropped(0.05, 0.05, 0.05, 0.05),
    "JPEG of quality 50": compressed(50),
    "brightness + 20 %": brightened(1.2),
    "brightness - 20 %": brightened(0.8),
    "another stain": restained(1.25, 0.8, 1.1),
    "half the size": resized(0.5),
    "all of these": combined(
        cropped(0.025, 0.025, 0.025, 0.025), restained(1.1, 0.9, 1), brightened(0.9), compressed(50)
    ),
}


def joined(pictures: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Returns the near-duplicates among pictures, uint8 of shape (H, W, 3) each."""
    signatures = [near_duplicates.signature(picture) for picture in pictures]
    digests = [str(number) for number in range(len(pictures))]
    return [tuple(pair) for pair in near_duplicates.near_pairs(signatures, digests, pictures.__getitem__).tolist()]


def precision(names: Sequence[str], pairs: Sequence[tuple[int, int]], judged: dict[frozenset, str]) -> dict[str, Any]:
    """Returns counts of the joined pairs by the judgement of their tissue, and the names of those without one.

    Args:
      names: names of the images.
      pairs: joined pairs of rows.
      judged: "same" or "other" by pair of names.
    """
    verdicts = [judged.get(frozenset((names[first], names[second]))) for first, second in pairs]
    unknown = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict is None]
    # A pair is found if its images are connected, by whichever pairs.
    component = list(range(len(names)))
    for first, second in pairs:
        old, new = component[first], component[second]
        component = [new if item == old else item for item in component]
    row_of = {name: row for row, name in enumerate(names)}
    known = [(pair, verdict) for pair, verdict in judged.items() if pair <= row_of.keys()]
    connected = {pair for pair, _ in known if len({component[row_of[name]] for name in pair}) == 1}
    return {
        "joined": len(pairs),
        "right": verdicts.count(SAME),
        "wrong": sum(verdict not in (SAME, None) for verdict in verdicts),
        "not_judged": [[names[row] for row in pair] for pair in unknown],
        "judged_same": sum(verdict == SAME for _, verdict in known),
        "judged_same_and_joined": sum(verdict == SAME and pair in connected for pair, verdict in known),
        "judged_other": sum(verdict != SAME for _, verdict in known),
        "judged_other_and_joined": sum(verdict != SAME and pair in connected for pair, verdict in known),
    }


def recall(pictures: Sequence[np.ndarray], count: int, seed: int) -> dict[str, dict[str, float]]:
    """Returns the shares of copies that are joined with their original, and with another image, by kind of change."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(pictures), min(count, len(pictures)), replace=False).tolist()
    results = {}
    for name, change in CHANGES.items():
        num_joined, mistaken = 0, 0
        for place, row in enumerate(rows):
            number = place % 8 if name.startswith("turned") else int(rng.integers(8))
            turned = np.rot90(pictures[row], number % 4)
            copy = change(np.ascontiguousarray(turned if number < 4 else turned.swapaxes(0, 1)))
            num_joined += len(joined([pictures[row], copy]))
            mistaken += len(joined([pictures[rows[place - 1]], copy]))
        results[name] = {"found": num_joined / len(rows), "mistaken": mistaken / len(rows)}
    return results


def read_judged(path: Path) -> dict[frozenset, str]:
    """Reads a CSV with the columns first, second and tissue, which is "same" or "other"."""
    with path.open(newline="", encoding="utf-8") as file:
        return {frozenset((row["first"], row["second"])): row["tissue"] for row in csv.DictReader(file)}


def table(results: dict[str, Any]) -> str:
    """Formats the results."""
    pairs, width = results["pairs"], max(map(len, results["copies"]))
    lines = [
        f"{results['images']} images, {pairs['joined']} pairs joined in {results['seconds']:.1f} s: {pairs['right']} "
        f"judged the same tissue, {pairs['wrong']} other tissue, {len(pairs['not_judged'])} not judged",
        f"of {pairs['judged_same']} pairs judged the same {pairs['judged_same_and_joined']} are joined, of "
        f"{pairs['judged_other']} judged other {pairs['judged_other_and_joined']}",
        *(f"  not judged: {first}, {second}" for first, second in pairs["not_judged"]),
        f"{'copies':{width}}  found  joined with another image",
    ]
    for name, shares in results["copies"].items():
        lines.append(f"{name:{width}}  {shares['found']:5.1%}  {shares['mistaken']:.1%}")
    return "\n".join(map(command_line.printable, lines))


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = command_line.parser("near_duplicates", SUMMARY, EXAMPLES)
    parser.prog = "python benchmarks/near_duplicates.py"
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=command_line.path, help="a folder of images, nested as deep as you like")
    add("--judged", type=command_line.path, default=JUDGED, metavar="CSV", help="first,second,tissue (same or other)")
    add("--copies", type=int, default=100, metavar="N", help="how many images are copied (default 100)")
    add("--seed", type=int, default=0, help="which images (default 0)")
    add("--json", metavar="OUT", help="also write everything measured to this file")
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    folder = Path(options["folder"])
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder of images")
    if options["copies"] < 1:
        raise ValueError(f"--copies={options['copies']} must be at least 1")
    command_line.start_logging()
    environment = records.environment({"threads": 0})
    paths = sorted(path for path in walk(folder).files if path.suffix.lower() in images.SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} has no images; give another folder")
    pictures = [images.read_image(path) for path in paths]
    started = time.perf_counter()
    pairs = joined(pictures)
    results = {
        "images": len(paths),
        "seconds": time.perf_counter() - started,
        "pairs": precision(
            [path.relative_to(folder).as_posix() for path in paths], pairs, read_judged(Path(options["judged"]))
        ),
        "copies": recall(pictures, options["copies"], options["seed"]),
        "environment": environment,
    }
    print(table(results))
    records.write("near_duplicates", options, results)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
