"""Measurements on a machine with one GPU within a time budget, the most important first."""

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
Runs the benchmarks of this folder on one GPU, each row in a process of its own, and writes the results to the folder
OUT: measured.json, table.txt and log.txt. A row that is there already is skipped, so the same command resumes; a row
that failed is tried again. Needs jax, flax, optax and scipy, PyTorch for its side, and pytest
with hypothesis for the golden numbers; no TensorFlow, clu or ml_collections, and no installation of dim_jax."""
EXAMPLES = """\
  bash launch/measure_gpu.sh measured_gpu --budget=590
  bash launch/measure_gpu.sh measured_gpu --dry-run
  bash launch/measure_gpu.sh runs/tiny --tiny --sides=ours     # toy sizes on CPU: does everything work?
"""
REPOSITORY = Path(__file__).resolve().parents[1]
MEASURED, TABLE, LOG = "measured.json", "table.txt", "log.txt"
GOLDEN = ("-n", "0", "-q", "-p", "no:cacheprovider", "tests/models/test_parity.py")
SAME_OPTIONS = ("batch_size", "dtype")  # equal in rows that are compared one to one
LAST_LINES = 5  # of the output of a row that failed, written to measured.json


class Row(NamedTuple):
    """One benchmark to run.

    Attributes:
      name: of the row; the part before the first comma names its work.
      seconds: upper limit of its time; it does not start if less is left.
      side: "ours" or "torch".
      program: file in this folder, or "" for the golden tests.
      arguments: of the program.
    """

    name: str
    seconds: float
    side: str
    program: str
    arguments: tuple[str, ...]


def _pair(work: str, program: str, batch_sizes: Sequence[int], common: str, seconds: tuple[float, float]) -> list[Row]:
    """Returns the rows of one work in bfloat16: ours and compiled PyTorch for each batch size.

    Args:
      work: name of the work.
      program: benchmark that measures it.
      batch_sizes: images per step.
      common: options of all rows, parted by spaces.
      seconds: upper limits for ours and for PyTorch.
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
    """Returns rows of toy size, a check of the whole script in minutes on a CPU."""
    toy = ("--image-size=32", "--width=0.1", "--batch-size=2", "--rounds=1", "--platform=cpu")
    small_gan = ("--image-size=64", "--width=0.02", "--batch-size=1", "--rounds=1", "--steps=1", "--platform=cpu")
    result = []
    for side in ("ours", "torch"):
        options = (f"--sides={side}", "--steps=1")
        result += [
            Row(f"LRF-CNN inference, {side}", 0, side, "inference.py", (*toy, *options, "--stages=40")),
            Row(f"LRF-CNN training, {side}", 0, side, "train_step.py", (*toy, *options, "--stages=40")),
            Row(f"GCGAN 64 px, {side}", 0, side, "gan_step.py", (*small_gan, f"--sides={side}")),
        ]
    return [*result, Row("LRF-CNN parts", 0, "ours", "roofline.py", (*toy, "--stages=40"))]


def run(row: Row, log: Path, seconds: float) -> dict[str, Any]:
    """Runs a row and returns its results.

    Args:
      row: the row.
      log: file that its output is appended to.
      seconds: time after which it is killed.

    Raises:
      RuntimeError: it failed; the message has the last lines of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, printed = Path(folder) / "out.json", Path(folder) / "printed.txt"
        command = [sys.executable, str(REPOSITORY / "benchmarks" / row.program), *row.arguments, f"--json={out}"]
        environment = dict(os.environ)
        paths = [str(REPOSITORY), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if not row.program:
            command = [sys.executable, "-m", "pytest", *GOLDEN]
            environment |= {"JAX_PLATFORMS": "cuda,cpu", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
        started = time.perf_counter()
        with printed.open("w", encoding="utf-8") as output:
            code = _wait(command, output, environment, seconds)
        text = printed.read_text(encoding="utf-8", errors="replace")
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n== {row.name}: {' '.join(command[1:])}\n{text}")
        last = [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
        if code:
            raise RuntimeError("\n".join(last) or f"exit code {code}")
        values = files.read_object(out) if row.program else {"benchmark": "golden", "told": last[-1]}
        return {**values, "seconds": time.perf_counter() - started, "side": row.side}


def _wait(command: Sequence[str], output: Any, environment: Mapping[str, str], seconds: float) -> int:
    """Runs a command in its own process group, at most for `seconds`, kills the group and returns the exit code."""
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY, start_new_session=True
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


def measure(requested: Sequence[Row], out: Path, budget: float) -> dict[str, Any]:
    """Runs the rows that `out` lacks while the budget lasts, and writes the results after each.

    Args:
      requested: the rows.
      out: folder of the results.
      budget: seconds from now on.

    Returns:
      The value of measured.json: "rows" and "failed" by name.
    """
    until = time.perf_counter() + budget
    path = out / MEASURED
    results = files.read_object(path) if path.is_file() else {"rows": {}, "failed": {}}
    # Rows that failed before come last: they may fail again.
    for row in sorted(requested, key=lambda row: row.name in results["failed"]):
        left = until - time.perf_counter()
        if row.name in results["rows"]:
            command_line.say(f"{row.name}: there already")
        elif left <= row.seconds:
            command_line.say(f"{row.name}: may take {row.seconds:.0f} s of {max(left, 0):.0f} s left; not started")
        else:
            try:
                results["rows"][row.name] = run(row, out / LOG, left)
                results["failed"].pop(row.name, None)
                command_line.say(f"{row.name}: {results['rows'][row.name]['seconds']:.0f} s")
            except RuntimeError as error:
                results["failed"][row.name] = str(error)
                command_line.say(f"{row.name}: failed: {str(error).splitlines()[-1]}")
            files.write_json(path, results)
            files.write_text(out / TABLE, table(results) + "\n")
    return results


def table(results: Mapping[str, Any]) -> str:
    """Formats the results: paired rows, comparisons, parts, golden numbers, failures."""
    rows = results["rows"]
    paired_rows = {name: row for name, row in rows.items() if "sides" in row}
    lines = [*_speeds(paired_rows), *_comparisons(paired_rows)]
    for name, row in rows.items():
        if row["benchmark"] == "roofline":
            import roofline

            lines += ["", roofline.table(name, row)]
        elif row["benchmark"] == "golden":
            lines += ["", f"{name}: {row['told']}"]
    for name, message in results["failed"].items():
        lines += ["", f"{name} FAILED:", message]
    return "\n".join(lines).strip("\n")


def _speeds(rows: Mapping[str, Any]) -> Iterator[str]:
    width = max(map(len, rows), default=0)
    yield f"{'':{width}}{'images/s (min .. max)':>32}{'ms/step':>10}{'GFLOP/step':>12}{'TFLOP/s':>11}{'of peak':>9}"
    for name, row in rows.items():
        (side,) = row["sides"].values()
        speed, work = side["images_per_second"], _work(row, rows)
        shown = f"{speed['median']:.4g} ({speed['min']:.4g} .. {speed['max']:.4g})"
        rate = work["flops_per_step"] / (side["milliseconds_per_step"]["median"] / 1000)
        shares = f"{work['flops_per_step'] / 1e9:12.5g}{rate / 1e12:11.4g}"
        shares += f"{rate / work['peak_flops_per_second']:9.1%}" if "peak_flops_per_second" in work else f"{'-':>9}"
        shares = shares if work["flops_per_step"] else f"{'-':>12}{'-':>11}{'-':>9}"
        yield f"{name:{width}}{shown:>32}{side['milliseconds_per_step']['median']:10.4g}{shares}"
    for name, row in rows.items():
        (side,) = row["sides"].values()
        yield f"{name}: " + ", ".join(f"{key} {value}" for key, value in side["about"].items())


def _work(row: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, float]:
    """Returns flops_per_step of a row and, if known, peak_flops_per_second; PyTorch's rows take those of ours."""
    if "flops_per_step" in row:
        return {name: row[name] for name in ("flops_per_step", "peak_flops_per_second")}
    ours = [other for other in rows.values() if "flops_per_step" in other]
    size, batch_size, dtype = (row["options"][name] for name in ("image_size", "batch_size", "dtype"))
    same = [o for o in ours if o["benchmark"] == row["benchmark"] and o["options"]["image_size"] == size]
    # But for the update of the parameters, the work is proportional to the batch size.
    near = min(same, key=lambda other: abs(other["options"]["batch_size"] - batch_size), default=None)
    flops = near["flops_per_step"] * batch_size / near["options"]["batch_size"] if near else 0.0
    peaks = [other["peak_flops_per_second"] for other in ours if other["options"]["dtype"] == dtype]
    return {"flops_per_step": flops} | ({"peak_flops_per_second": peaks[0]} if peaks else {})


def _comparisons(rows: Mapping[str, Any]) -> Iterator[str]:
    """Yields the ratio of our images per second to each of PyTorch's rows: our best, and with the same options."""
    for name, theirs in rows.items():
        work = name.split(",")[0]
        ours = [row for other, row in rows.items() if other.split(",")[0] == work and row["side"] == "ours"]
        if theirs["side"] == "torch" and ours:
            best = max(ours, key=_images_per_second)
            yield (
                f"{name}: ours at its best, batch {best['options']['batch_size']}, does "
                f"{_images_per_second(best) / _images_per_second(theirs):.3f} times as many images per second"
            )
            same = [row for row in ours if all(row["options"][key] == theirs["options"][key] for key in SAME_OPTIONS)]
            if same:
                ratio = _images_per_second(same[0]) / _images_per_second(theirs)
                yield f"{name}: ours with the same options, {ratio:.3f} times"


def _images_per_second(row: Mapping[str, Any]) -> float:
    (side,) = row["sides"].values()
    return side["images_per_second"]["median"]


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = command_line.parser("gpu", SUMMARY, EXAMPLES)
    parser.prog = "bash launch/measure_gpu.sh"
    add = parser.add_argument
    add("out", metavar="OUT", type=command_line.path, help="folder for the results; created if missing")
    add("--budget", type=float, default=590.0, metavar="SECONDS", help="time for all of it (default 590)")
    add("--sides", choices=paired.SIDES, default="both", help="rows of one side alone (default both)")
    add("--tiny", action="store_true", help="toy sizes on CPU, a check of the script")
    add("--dry-run", action="store_true", help="list the rows and start nothing")
    options = vars(parser.parse_args(arguments))
    if not options["budget"] > 0:
        raise ValueError(f"--budget={options['budget']:g} must be above 0 seconds")
    requested = tiny_rows() if options["tiny"] else rows()
    requested = [row for row in requested if options["sides"] in ("both", row.side)]
    if options["dry_run"]:
        for row in requested:
            command_line.say(f"{row.seconds:4.0f} s  {row.name}: {row.program} {' '.join(row.arguments)}")
        return
    if not options["tiny"] and not shutil.which("nvidia-smi"):
        raise ValueError("there is no GPU here (no nvidia-smi); --tiny shows on a CPU that everything works")
    out = Path(options["out"])
    out.mkdir(parents=True, exist_ok=True)
    command_line.say(table(measure(requested, out, options["budget"])))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
