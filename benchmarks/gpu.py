"""What is to be measured on a machine with one GPU, the most important first, as far as a time budget reaches."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paired

from dim_jax.cli import command_line
from dim_jax.runs import files

SUMMARY = """\
Runs the benchmarks of this folder on one GPU, each row in a process of its own, and keeps what they found in the folder
OUT: measured.json, table.txt and log.txt. A row that is there already is skipped, so the same command goes on where
the last one ended; one that failed is tried again. Needs jax, flax, optax and scipy, PyTorch for its side, and pytest
with hypothesis for the golden numbers; no TensorFlow, clu or ml_collections, and no installation of dim_jax."""
EXAMPLES = """\
  bash launch/measure_gpu.sh measured_gpu --budget=590
  bash launch/measure_gpu.sh measured_gpu --dry-run
  bash launch/measure_gpu.sh runs/tiny --tiny --sides=ours     # toy sizes on CPU: does everything work?
"""
REPOSITORY = Path(__file__).resolve().parents[1]
MEASURED, TABLE, LOG = "measured.json", "table.txt", "log.txt"
GOLDEN = ("-n", "0", "-q", "-p", "no:cacheprovider", "tests/models/test_parity.py")
ALIKE = ("batch_size", "dtype")  # what makes rows of the same work comparable one to one
LAST_LINES = 5  # of the output of a row that failed, kept in measured.json


class Row(NamedTuple):
    """One benchmark to run.

    Attributes:
      name: of the row; its part before the first comma says which work it is.
      seconds: that it is expected to take at most; it does not start where fewer are left.
      side: "ours" or "torch".
      program: file in this folder; or "" for the golden tests.
      arguments: of the program.
    """

    name: str
    seconds: float
    side: str
    program: str
    arguments: tuple[str, ...]


def _pair(work: str, program: str, batch_sizes: Sequence[int], common: str, seconds: tuple[float, float]) -> list[Row]:
    """Returns the rows of one work in bfloat16: ours and the compiled PyTorch, batch size by batch size.

    Args:
      seconds: for ours and for PyTorch.
    """
    rows = []
    for batch_size in batch_sizes:
        shared = (*common.split(), "--dtype=bfloat16", f"--batch-size={batch_size}")
        compiled = (*shared, "--sides=torch", "--torch-mode=compiled", "--channels-last")
        rows.append(Row(f"{work}, ours, batch {batch_size}", seconds[0], "ours", program, (*shared, "--sides=ours")))
        rows.append(Row(f"{work}, PyTorch compiled, batch {batch_size}", seconds[1], "torch", program, compiled))
    return rows


def _eager(work: str, program: str, batch_size: int, common: str, dtype: str) -> Row:
    options = (*common.split(), f"--dtype={dtype}", f"--batch-size={batch_size}", "--sides=torch")
    options += ("--channels-last",) if dtype == "bfloat16" else ()
    return Row(f"{work}, PyTorch eager {dtype}, batch {batch_size}", 60, "torch", program, options)


def rows() -> list[Row]:
    """Returns the rows of a full measurement."""
    training, inference, latency = "LRF-CNN training", "LRF-CNN inference", "LRF-CNN inference of one image"
    train, infer, gan = "train_step.py", "inference.py", "gan_step.py"
    at_299, one_image = "--image-size=299", "--image-size=299 --steps=64 --latency"
    of_training = _pair(training, train, (64, 128, 256), at_299, (110, 150))
    of_inference = _pair(inference, infer, (256, 64, 512), at_299, (70, 110))
    of_latency = _pair(latency, infer, (1,), one_image, (70, 110))
    of_gan = {
        size: _pair(f"GCGAN {size} px", gan, batch_sizes, f"--image-size={size} --steps=8", (150, 180))
        for size, batch_sizes in ((256, (8, 32, 128)), (1024, (8, 4, 16)))
    }
    published = ("--image-size=299", "--batch-size=8", "--sides=ours")
    parts = ("--dtype=bfloat16", "--image-size=299", "--batch-size=64", "--rounds=5")
    return [
        *of_training[:2],
        _eager(training, train, 8, at_299, "float32"),
        *of_inference[:2],
        *of_latency,
        *of_gan[256][:2],
        *of_gan[1024][:2],
        _eager(training, train, 64, at_299, "bfloat16"),
        Row("LRF-CNN parts", 200, "ours", "roofline.py", parts),
        *of_training[2:],
        *of_inference[2:],
        *of_gan[256][2:],
        *of_gan[1024][2:],
        _eager(latency, infer, 1, one_image, "bfloat16"),
        Row(f"{training}, ours in float32, batch 8", 110, "ours", train, published),
        Row("GCGAN parts", 240, "ours", "roofline.py", ("--network=gcgan", "--dtype=bfloat16", "--batch-size=32")),
        Row("golden numbers in float32", 400, "ours", "", ()),
    ]


def tiny_rows() -> list[Row]:
    """Returns rows that show on a CPU within minutes that everything works."""
    toy = ("--image-size=32", "--width=0.1", "--batch-size=2", "--rounds=1", "--platform=cpu")
    small_gan = ("--image-size=64", "--width=0.02", "--batch-size=1", "--rounds=1", "--steps=1", "--platform=cpu")
    found = []
    for side in ("ours", "torch"):
        chosen = (f"--sides={side}", "--steps=1")
        found += [
            Row(f"LRF-CNN inference, {side}", 0, side, "inference.py", (*toy, *chosen, "--stages=40")),
            Row(f"LRF-CNN training, {side}", 0, side, "train_step.py", (*toy, *chosen, "--stages=40")),
            Row(f"GCGAN 64 px, {side}", 0, side, "gan_step.py", (*small_gan, f"--sides={side}")),
        ]
    return [*found, Row("LRF-CNN parts", 0, "ours", "roofline.py", (*toy, "--stages=40"))]


def run(row: Row, log: Path, seconds: float) -> dict[str, Any]:
    """Runs a row and returns what it wrote.

    Args:
      log: its output is added to this file.
      seconds: after which it is ended.

    Raises:
      RuntimeError: it failed; the message holds its last lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, printed = Path(folder) / "out.json", Path(folder) / "printed.txt"
        command = [sys.executable, str(REPOSITORY / "benchmarks" / row.program), *row.arguments, f"--json={out}"]
        surroundings = dict(os.environ)
        paths = [str(REPOSITORY), surroundings.get("PYTHONPATH", "")]
        surroundings["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if not row.program:
            # What marks slow repeats in substance what other tests show.
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-n",
                "0",
                "-q",
                "-p",
                "no:cacheprovider",
                "tests/models/test_parity.py",
            ]
            surroundings |= {"JAX_PLATFORMS": "cuda,cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        started = time.perf_counter()
        with printed.open("w", encoding="utf-8") as output:
            code = _wait(command, output, surroundings, seconds)
        text = printed.read_text(encoding="utf-8", errors="replace")
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n== {row.name}: {' '.join(command[1:])}\n{text}")
        last = [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
        if code:
            raise RuntimeError("\n".join(last) or f"exit code {code}")
        found = files.read_object(out) if row.program else {"benchmark": "golden", "told": last[-1]}
        return {**found, "seconds": time.perf_counter() - started, "side": row.side}


def _wait(command: Sequence[str], output: Any, surroundings: Mapping[str, str], seconds: float) -> int:
    """Runs a command in a process group of its own, which ends with it or after `seconds`; returns its exit code."""
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=surroundings, cwd=REPOSITORY, start_new_session=True
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        output.write(f"\nended after {seconds:.0f} s: no time was left\n")
        return 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(wanted: Sequence[Row], out: Path, budget: float) -> dict[str, Any]:
    """Runs the rows that are not in `out` yet, as far as the budget reaches, and keeps each as it ends.

    Args:
      budget: seconds from now on.

    Returns:
      The content of measured.json: "rows" and "failed" by name.
    """
    until = time.perf_counter() + budget
    path = out / MEASURED
    kept = files.read_object(path) if path.is_file() else {"rows": {}, "failed": {}}
    # One that failed may fail again: it must not keep the others from their turn.
    for row in sorted(wanted, key=lambda row: row.name in kept["failed"]):
        left = until - time.perf_counter()
        if row.name in kept["rows"]:
            command_line.say(f"{row.name}: there already")
        elif left <= row.seconds:
            command_line.say(f"{row.name}: may take {row.seconds:.0f} s of {max(left, 0):.0f} s left; not started")
        else:
            try:
                kept["rows"][row.name] = run(row, out / LOG, left)
                kept["failed"].pop(row.name, None)
                command_line.say(f"{row.name}: {kept['rows'][row.name]['seconds']:.0f} s")
            except RuntimeError as error:
                kept["failed"][row.name] = str(error)
                command_line.say(f"{row.name}: failed: {str(error).splitlines()[-1]}")
            files.write_json(path, kept)
            files.write_text(out / TABLE, table(kept) + "\n")
    return kept


def table(kept: Mapping[str, Any]) -> str:
    """Returns what was measured so far for people: paired rows, comparisons, parts, golden numbers, failures."""
    found = kept["rows"]
    paired_rows = {name: row for name, row in found.items() if "sides" in row}
    lines = [*_speeds(paired_rows), *_comparisons(paired_rows)]
    for name, row in found.items():
        if row["benchmark"] == "roofline":
            import roofline

            lines += ["", roofline.table(name, row)]
        elif row["benchmark"] == "golden":
            lines += ["", f"{name}: {row['told']}"]
    for name, told in kept["failed"].items():
        lines += ["", f"{name} FAILED:", told]
    return "\n".join(lines).strip("\n")


def _speeds(found: Mapping[str, Any]) -> Iterator[str]:
    width = max(map(len, found), default=0)
    yield f"{'':{width}}{'images/s (min .. max)':>32}{'ms/step':>10}{'GFLOP/step':>12}{'TFLOP/s':>11}{'of peak':>9}"
    for name, row in found.items():
        (side,) = row["sides"].values()
        speed, work = side["images_per_second"], _work(row, found)
        shown = f"{speed['median']:.4g} ({speed['min']:.4g} .. {speed['max']:.4g})"
        rate = work["flops_per_step"] / (side["milliseconds_per_step"]["median"] / 1000)
        shares = f"{work['flops_per_step'] / 1e9:12.5g}{rate / 1e12:11.4g}"
        shares += f"{rate / work['peak_flops_per_second']:9.1%}" if "peak_flops_per_second" in work else f"{'-':>9}"
        shares = shares if work["flops_per_step"] else f"{'-':>12}{'-':>11}{'-':>9}"
        yield f"{name:{width}}{shown:>32}{side['milliseconds_per_step']['median']:10.4g}{shares}"
    for name, row in found.items():
        (side,) = row["sides"].values()
        yield f"{name}: " + ", ".join(f"{key} {value}" for key, value in side["about"].items())


def _work(row: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """Returns flops_per_step of a row, and peak_flops_per_second where it is known: PyTorch's are those of ours."""
    if "flops_per_step" in row:
        return {name: row[name] for name in ("flops_per_step", "peak_flops_per_second")}
    ours = [other for other in found.values() if "flops_per_step" in other]
    size, batch_size, dtype = (row["options"][name] for name in ("image_size", "batch_size", "dtype"))
    same = [o for o in ours if o["benchmark"] == row["benchmark"] and o["options"]["image_size"] == size]
    # The update of the parameters aside, work grows with the batch.
    near = min(same, key=lambda other: abs(other["options"]["batch_size"] - batch_size), default=None)
    flops = near["flops_per_step"] * batch_size / near["options"]["batch_size"] if near else 0.0
    peaks = [other["peak_flops_per_second"] for other in ours if other["options"]["dtype"] == dtype]
    return {"flops_per_step": flops} | ({"peak_flops_per_second": peaks[0]} if peaks else {})


def _comparisons(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields, for each row of PyTorch's, how many times its images per second ours does: at its best, and alike."""
    for name, theirs in found.items():
        work = name.split(",")[0]
        ours = [row for other, row in found.items() if other.split(",")[0] == work and row["side"] == "ours"]
        if theirs["side"] == "torch" and ours:
            best = max(ours, key=_images_per_second)
            yield (
                f"{name}: ours at its best, batch {best['options']['batch_size']}, does "
                f"{_images_per_second(best) / _images_per_second(theirs):.3f} times as many images per second"
            )
            alike = [row for row in ours if all(row["options"][key] == theirs["options"][key] for key in ALIKE)]
            if alike:
                yield f"{name}: ours alike, {_images_per_second(alike[0]) / _images_per_second(theirs):.3f} times"


def _images_per_second(row: Mapping[str, Any]) -> float:
    (side,) = row["sides"].values()
    return side["images_per_second"]["median"]


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = command_line.parser("gpu", SUMMARY, EXAMPLES)
    parser.prog = "bash launch/measure_gpu.sh"
    add = parser.add_argument
    add("out", metavar="OUT", type=command_line.path, help="folder for what is found; made if missing")
    add("--budget", type=float, default=590.0, metavar="SECONDS", help="time for all of it (default 590)")
    add("--sides", choices=paired.SIDES, default="both", help="rows of one side alone (default both)")
    add("--tiny", action="store_true", help="toy sizes on CPU, to see that everything works")
    add("--dry-run", action="store_true", help="list the rows and start nothing")
    options = vars(parser.parse_args(arguments))
    if not options["budget"] > 0:
        raise ValueError(f"--budget={options['budget']:g} must be above 0 seconds")
    wanted = tiny_rows() if options["tiny"] else rows()
    wanted = [row for row in wanted if options["sides"] in ("both", row.side)]
    if options["dry_run"]:
        for row in wanted:
            command_line.say(f"{row.seconds:4.0f} s  {row.name}: {row.program} {' '.join(row.arguments)}")
        return
    if not options["tiny"] and not shutil.which("nvidia-smi"):
        raise ValueError("there is no GPU here (no nvidia-smi); --tiny shows on a CPU that everything works")
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    command_line.say(table(measure(wanted, out, options["budget"])))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
