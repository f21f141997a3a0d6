"""Start-up times: help, imports, and the first step of a run with an empty and with a filled compilation cache."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import records

from dim_jax.cli import command_line

SUMMARY = """\
Times what a user waits for, each time in a new process, from its start on. help: until `--help` of a command has been
printed and the process has ended. imports: the same for importing what `train` needs, TensorFlow blocked. cold and
warm: from the start of `train` until its first step is in metrics.jsonl, with an empty compilation cache, then with
the one that this left, in a new run directory each; both hold starting Python, imports, reading the packed pixels,
drawing the initial weights, compiling the step or reading it from the cache, and the step itself. Of that, `dispatch`
is the first dispatch alone, as the run tells it: compiling or reading, and the step; `second step` is the dispatch
after it, a step and nothing else, and what is left without as much is the time until the first step began. A run does
one step per dispatch here and is ended after two. Files come from the system's file cache from the second round on."""
EXAMPLES = """\
  python benchmarks/start.py --config=configs/classifier.py:test --image-size=32 --rounds=3 --json=start.json
  python benchmarks/start.py --image-size=299 --set=train.global_batch_size=8
  python benchmarks/start.py --config=configs/gan.py --image-size=256 --set=gan.label=polyp --commands=train
"""
COMMANDS = ("prepare", "train", "evaluate", "predict", "generate", "select", "report", "interop.convert")
IMPORTS = "import sys; sys.modules['tensorflow'] = None; import dim_jax.trainers.classifier, dim_jax.trainers.gan"
POLL_SECONDS = 0.01
PHANTOM_SCALE = 0.03


def seconds_of(command: Sequence[str]) -> float:
    """Returns the wall time of a command.

    Raises:
      ValueError: it failed.
    """
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise ValueError(f"{' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return seconds


def first_steps(arguments: Sequence[str], run: Path, cache: Path) -> dict[str, float]:
    """Starts a run, kills it after two steps, and returns seconds by phase.

    Returns:
      "start to first step" from the start of the process to the end of the first step; of that "dispatch", the first;
      "second step", of the next dispatch; "start until the first step", the first of these without the last.

    Raises:
      ValueError: the run ended before.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_PERSISTENT_CACHE")}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    metrics = run / "metrics.jsonl"
    with tempfile.TemporaryFile("w+") as printed:
        started = time.perf_counter()
        command = [sys.executable, "-m", "dim_jax.train", *arguments, f"--workdir={run}"]
        process = subprocess.Popen(command, stdout=printed, stderr=printed, env=environment, start_new_session=True)
        first_line = None
        with _ended(process):
            while True:
                dispatches = _dispatches(metrics)
                if dispatches and first_line is None:
                    first_line = time.perf_counter()
                if len(dispatches) >= 2:
                    break
                if process.poll() is not None:
                    printed.seek(0)
                    last = (printed.read().strip().splitlines() or ["no message"])[-1]
                    raise ValueError(f"the run ended before its second step: {last}")
                time.sleep(POLL_SECONDS)
    dispatch, step = dispatches[:2]
    seconds = first_line - started
    return {
        "start to first step": seconds,
        "start, of that dispatch": dispatch,
        "second step": step,
        "start until the first step began": seconds - step,
    }


def _dispatches(metrics: Path) -> list[float]:
    """Returns the seconds of every dispatch logged so far."""
    if not metrics.is_file():
        return []
    lines = (json.loads(line) for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n"))
    return [line["seconds"] for line in lines if line["split"] == "train"]


@contextlib.contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    """Kills the process and its children when the block ends."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(options: Mapping[str, Any], data: Path, folder: Path) -> dict[str, list[float]]:
    """Returns the seconds of every round by phase.

    Args:
      options: of the command line.
      data: prepared data with packed pixels.
      folder: folder for run directories and caches.
    """
    arguments = [
        f"--config={options['config']}",
        f"--config.data.path={data}",
        "--config.data.backend=resident",
        f"--config.data.image_size={options['image_size']}",
        "--config.train.steps_per_dispatch=1",
        *(f"--config.{setting}" for setting in options["set"]),
    ]
    results: dict[str, list[float]] = {}
    for number in range(options["rounds"]):
        for command in options["commands"]:
            seconds = seconds_of([sys.executable, "-m", f"dim_jax.{command}", "--help"])
            results.setdefault(f"{command} --help", []).append(seconds)
        results.setdefault("imports", []).append(seconds_of([sys.executable, "-c", IMPORTS]))
        for kind in ("cold", "warm"):
            phases = first_steps(arguments, folder / f"{kind}{number}", folder / f"cache{number}")
            for name, seconds in phases.items():
                results.setdefault(f"{kind} {name}", []).append(seconds)
    return results


def table(title: str, results: Mapping[str, Any]) -> str:
    """Formats the results as a table."""
    width = max(map(len, results["seconds"]))
    lines = [title, f"{'':{width}}{'s':>10}   (min .. max)"]
    for name, values in results["seconds"].items():
        spread = records.spread(values)
        lines.append(f"{name:{width}}{spread['median']:10.2f}   ({spread['min']:.2f} .. {spread['max']:.2f})")
    environment = results["environment"]
    lines.append(", ".join(f"{key} {value}" for key, value in results["about"].items()))
    lines.append(
        f"{environment['cpu']}, {environment['threads']} threads, load {environment['load_average'][0]:.1f}, "
        f"{environment['date']}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = command_line.parser("start", SUMMARY, EXAMPLES)
    parser.prog = "python benchmarks/start.py"
    add = parser.add_argument
    # Relative, as it is written to the JSON file.
    config = os.path.relpath(Path(__file__).resolve().parents[1] / "configs" / "classifier.py")
    add("--config", default=config, metavar="FILE[:VARIANT]", help="of the run (default configs/classifier.py)")
    add("--data", metavar="DATA", help="folder that `prepare --pack` wrote (default: a few phantoms, generated first)")
    add("--image-size", type=int, default=299, metavar="PX", help="side of the images (default 299)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="another field of the configuration")
    add("--commands", default=",".join(COMMANDS), help="commands whose help is timed (default: all)")
    add("--rounds", type=int, default=3, help="measured rounds (default 3)")
    add("--json", metavar="OUT", type=records.json_path, help="also write everything measured to this file")
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    options["commands"] = command_line.comma_separated(options["commands"])
    if unknown := sorted(set(options["commands"]) - set(COMMANDS)):
        raise ValueError(f"--commands: {unknown[0]!r} is none of {', '.join(COMMANDS)}")
    if options["rounds"] < 1:
        raise ValueError(f"--rounds={options['rounds']} must be at least 1")
    environment = records.environment({"threads": 0})
    with tempfile.TemporaryDirectory() as folder:
        data = options["data"]
        if data is None:
            from dim_jax.data.preparation import prepare_dataset

            size = options["image_size"]
            with contextlib.redirect_stdout(io.StringIO()):
                data = prepare_dataset(
                    "phantom", Path(folder) / "data", image_size=size, scale=PHANTOM_SCALE, pack="squash"
                )
        results = measure(options, Path(data).absolute(), Path(folder))
    title = " ".join([f"Starts of {options['config']}: {options['image_size']} px", *options["set"]])
    results = {"seconds": results, "about": records.versions("jax", "jaxlib", "flax"), "environment": environment}
    print(table(title, results))
    records.write("start", options, results)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
