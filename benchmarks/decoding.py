"""Decoding and resizing speed for large JPEGs, relative to libjpeg-turbo on the same cores."""

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import records
from PIL import Image, features

from dim_jax.cli import command_line

SUMMARY = """\
Decodes JPEGs of the size that a microscope's camera makes and shrinks them, by the `tf` backend (tf.data, nothing kept
in memory) and by the reader behind `resident` and `prepare --pack`, in turn with libjpeg-turbo alone: Pillow's decoder
in one thread per core, which neither shrinks nor copies. Two more rows: the same, then shrunk by Pillow's filter, which
is the least that these pixels cost; and the same decoder asked for the smallest of its reduced sizes (DCT scaling) that
is no smaller than the pixels wanted, which gives others. The pictures are phantom tissue: drawn on a coarse grid,
scaled up, with sensor noise at full size, and saved with quality 90 and halved colour. They are read from the system's
file cache. A round of `tf` holds making its stream; importing TensorFlow is in none."""
EXAMPLES = """\
  python benchmarks/decoding.py --json=decoding.json
  python benchmarks/decoding.py --picture=1024x768 --image-size=224 --readers=resident
"""
READERS = ("tf", "resident")
ALONE, SHRUNK, REDUCED = "libjpeg-turbo alone", "libjpeg-turbo, then Pillow's filter", "libjpeg-turbo alone, reduced"
QUALITY = 90
BATCH_SIZE = 16

Read = Callable[[], int]  # reads every picture `repeats` times and returns the number of reads


def draw(folder: Path, count: int, width: int, height: int) -> Path:
    """Writes phantom JPEGs into class folders, prepares them, and returns the folder of the prepared data."""
    from dim_jax.data import phantom
    from dim_jax.data.preparation import prepare_dataset

    for number in range(count):
        label = phantom.CLASSES[number % 2]
        picture = phantom.draw(phantom.PhantomImage(label, f"case{number:04d}", 1), max(width, height))
        path = folder / "pictures" / label / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[:height, :width]).save(path, quality=QUALITY, subsampling="4:2:0")
    with contextlib.redirect_stdout(io.StringIO()):
        return prepare_dataset(folder / "pictures", folder / "data", split="random_image", image_size=64)


def readers(data: Path, options: dict[str, Any]) -> dict[str, Read]:
    """Returns the readers to measure by name, libjpeg-turbo alone first."""
    from dim_jax.data.dataset import open_dataset

    dataset = open_dataset(data)
    size, repeats = options["image_size"], options["repeats"]
    rows = list(range(len(dataset))) * repeats
    paths = [dataset.file(row) for row in rows]
    results: dict[str, Read] = {
        ALONE: lambda: _decode_alone(paths, lambda image: image.load()),
        SHRUNK: lambda: _decode_alone(paths, lambda image: image.resize((size, size), Image.Resampling.BILINEAR)),
        REDUCED: lambda: _decode_alone(paths, lambda image: (image.draft("RGB", (size, size)), image.load())),
    }
    if "tf" in options["readers"]:
        import numpy as np

        from dim_jax.data.tf_pipeline import TfImages

        batches = [np.array(rows[first : first + BATCH_SIZE]) for first in range(0, len(rows), BATCH_SIZE)]

        def by_tf() -> int:
            return _count(batch["image"] for batch in TfImages(dataset, size, cache_gib=0).batches(batches))

        results["tf"] = by_tf
    if "resident" in options["readers"]:
        from dim_jax.data import images

        results["resident"] = lambda: sum(1 for _ in images.read_squares(paths, size, "squash"))
    return results


def _count(batches: Iterable[Any]) -> int:
    return sum(len(batch) for batch in batches)


def _decode_alone(paths: Sequence[Path], decode: Callable[[Image.Image], Any]) -> int:
    """Calls `decode` on every opened picture, with one thread per core."""

    def read(path: Path) -> int:
        with Image.open(path) as image:
            decode(image)
        return 1

    with ThreadPoolExecutor(records.available_cores()) as pool:
        return sum(pool.map(read, paths))


def measure(read_by_name: dict[str, Read], rounds: int) -> dict[str, Any]:
    """Times the readers in turn: one unmeasured turn each, then `rounds` measured ones.

    Returns:
      By name: images_per_second, and share_of_libjpeg_turbo, its ratio to the first reader in the same round (both as
      records.spread).
    """
    speeds: dict[str, list[float]] = {name: [] for name in read_by_name}
    for number in range(rounds + 1):
        for name, read in read_by_name.items():
            started = time.perf_counter()
            count = read()
            if number:
                speeds[name].append(count / (time.perf_counter() - started))
    alone = speeds[ALONE]
    return {
        name: {
            "images_per_second": records.spread(rates),
            "share_of_libjpeg_turbo": records.spread([a / b for a, b in zip(rates, alone, strict=True)]),
        }
        for name, rates in speeds.items()
    }


def table(title: str, results: dict[str, Any]) -> str:
    """Formats the results as a table."""
    width = max(map(len, results["readers"]))
    lines = [title, f"{'':{width}}{'images/s (min .. max)':>30}{'of libjpeg-turbo alone (min .. max)':>38}"]
    for name, row in results["readers"].items():
        speed, share = row["images_per_second"], row["share_of_libjpeg_turbo"]
        shown = f"{speed['median']:.4g} ({speed['min']:.4g} .. {speed['max']:.4g})"
        shares = f"{share['median']:.3f} ({share['min']:.3f} .. {share['max']:.3f})"
        lines.append(f"{name:{width}}{shown:>30}{shares:>38}")
    about, environment = results["about"], results["environment"]
    lines.append(", ".join(f"{key} {value}" for key, value in about.items()))
    lines.append(
        f"{environment['cpu']}, {environment['threads']} threads, load {environment['load_average'][0]:.1f}, "
        f"{environment['date']}"
    )
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the options.

    Raises:
      ValueError: one of them makes no sense.
    """
    parser = command_line.parser("decoding", SUMMARY, EXAMPLES)
    parser.prog = "python benchmarks/decoding.py"
    add = parser.add_argument
    add("--picture", default="2048x1536", metavar="WxH", help="size of the pictures in px (default 2048x1536)")
    add("--pictures", type=int, default=16, help="how many different ones, at least 12 (default 16)")
    add("--repeats", type=int, default=8, help="how often each is read per round (default 8)")
    add("--image-size", type=int, default=299, metavar="PX", help="side of the pixels wanted (default 299)")
    add("--rounds", type=int, default=5, help="measured turns of each reader (default 5)")
    add("--readers", default=",".join(READERS), help="which to measure (default tf,resident)")
    add("--json", metavar="OUT", type=records.json_path, help="also write everything measured to this file")
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    width, _, height = options["picture"].partition("x")
    if not (width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 64):
        raise ValueError(f"--picture={options['picture']} must be width x height, 64 px or more, such as 2048x1536")
    for name, least in (("pictures", 12), ("repeats", 1), ("rounds", 1), ("image_size", 16)):
        if options[name] < least:
            raise ValueError(f"--{name.replace('_', '-')}={options[name]} must be at least {least}")
    options["readers"] = command_line.comma_separated(options["readers"])
    if unknown := sorted(set(options["readers"]) - set(READERS)):
        raise ValueError(f"--readers: {unknown[0]!r} is none of {', '.join(READERS)}")
    return options


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    options = parse(arguments)
    if not features.check_feature("libjpeg_turbo"):
        raise ValueError("Pillow decodes JPEGs by another library here; install a wheel of it, which has libjpeg-turbo")
    command_line.start_logging()
    width, height = map(int, options["picture"].split("x"))
    environment = records.environment({"threads": 0})
    with tempfile.TemporaryDirectory() as folder:
        data = draw(Path(folder), options["pictures"], width, height)
        sizes = [path.stat().st_size for path in Path(folder, "pictures").rglob("*.jpg")]
        results = measure(readers(data, options), options["rounds"])
    about = {
        "pictures": options["pictures"],
        "mean bytes": round(sum(sizes) / len(sizes)),
        "libjpeg-turbo": features.version_feature("libjpeg_turbo"),
        **records.versions("pillow", "tensorflow", "tensorflow-cpu"),
    }
    title = (
        f"JPEGs of {options['picture']} px to {options['image_size']} px, each of {options['pictures']} read "
        f"{options['repeats']} times per round"
    )
    results = {"readers": results, "about": about, "environment": environment}
    print(table(title, results))
    records.write("decoding", options, results)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
