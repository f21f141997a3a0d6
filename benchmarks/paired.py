"""Paired timing of two programs that do the same work, each in a process of its own; they run in turn.

Speed drifts with heat, clock rates and other load, which measurements in the same minute share, so the ratio within a
round is more precise than that of two separate measurements. Two processes, because two thread pools in one process
compete for the same cores.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import records
from processes import Build, Options, Worker, workers

from dim_jax.cli import command_line

DTYPES = ("float32", "bfloat16")
PLATFORMS = ("default", "cpu", "gpu")
SIDES = ("both", "ours", "torch")
TORCH_MODES = ("eager", "compiled")
# Share of the cores used by other processes from which on the table calls the measurement disturbed: threads that wait
# for one another lose far more than that share, and PyTorch's lost ten times as much as ours.
DISTURBED_SHARE = 0.1


def parser(
    program: str, summary: str, examples: str, *, image_size: int = 299, batch_size: int = 8
) -> argparse.ArgumentParser:
    """Returns a parser with the options that all paired benchmarks share."""
    result = command_line.parser(program, summary, examples)
    result.prog = f"python benchmarks/{program}.py"
    shown = "(default %(default)s)"
    result.add_argument("--image-size", type=int, default=image_size, metavar="PX", help=f"side of the images {shown}")
    result.add_argument("--batch-size", type=int, default=batch_size, help=f"images per step {shown}")
    result.add_argument("--width", type=float, default=1.0, help="multiplies all channel counts (default 1)")
    result.add_argument("--rounds", type=int, default=7, help="measured turns of each side (default 7)")
    result.add_argument("--steps", type=int, default=8, help="steps per turn (default 8)")
    result.add_argument("--threads", type=int, default=0, help="CPU cores that each side may use (default: all)")
    result.add_argument("--dtype", choices=DTYPES, default="float32", help="of the computation (default float32)")
    result.add_argument("--platform", choices=PLATFORMS, default="default", help="default: a GPU where there is one")
    result.add_argument("--torch-mode", choices=TORCH_MODES, default="eager", help="default eager")
    result.add_argument("--channels-last", action="store_true", help="PyTorch's images and weights channels-last")
    result.add_argument("--sides", choices=SIDES, default="both", help="measure one side alone (default both)")
    result.add_argument(
        "--json", metavar="OUT", type=records.json_path, help="also write everything measured to this file"
    )
    return result


def check(options: Options) -> None:
    """Checks the shared options.

    Raises:
      ValueError: an option makes no sense.
    """
    for name in ("image_size", "batch_size", "rounds", "steps"):
        if options[name] < 1:
            raise ValueError(f"--{name.replace('_', '-')}={options[name]} must be at least 1")
    if not options["width"] > 0:
        raise ValueError(f"--width={options['width']} must be above 0")
    if options["threads"]:
        if not hasattr(os, "sched_setaffinity"):
            raise ValueError("--threads needs Linux, where a process can be held to some cores; leave it out here")
        available = len(os.sched_getaffinity(0))
        if not 1 <= options["threads"] <= available:
            raise ValueError(f"--threads={options['threads']} must be from 1 to {available}, the cores there are")


def add_scan_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option of benchmarks in which our side scans several training steps in one dispatch."""
    parser.add_argument("--steps-per-dispatch", type=int, metavar="N", help="our scan (default: 8, at most --steps)")


def settle_scan_option(options: dict[str, Any]) -> None:
    """Sets the default of `steps_per_dispatch`, in place.

    Raises:
      ValueError: a turn is not a whole number of dispatches.
    """
    per_dispatch = options["steps_per_dispatch"]
    options["steps_per_dispatch"] = per_dispatch = min(8, options["steps"]) if per_dispatch is None else per_dispatch
    if per_dispatch < 1 or options["steps"] % per_dispatch:
        raise ValueError(f"--steps={options['steps']} must be a multiple of --steps-per-dispatch={per_dispatch}")


def sides(options: Options, ours: Build, theirs: Build) -> dict[str, Build]:
    """Returns the requested sides by their name in the table."""
    layout = ", channels-last" if options["channels_last"] else ""
    named = {"ours": ours, f"PyTorch {options['torch_mode']}{layout}": theirs}
    requested = {"both": (ours, theirs), "ours": (ours,), "torch": (theirs,)}[options["sides"]]
    return {name: build for name, build in named.items() if build in requested}


def measure(builds: Mapping[str, Build], options: Options) -> dict[str, Any]:
    """Times the sides in turn: one warm-up turn each, then `rounds` turns of `steps` steps each, A B A B.

    Args:
      builds: name -> function that builds a side; the first is ours.
      options: `rounds`, `steps`, `batch_size`, `threads` and whatever `build` needs.

    Returns:
      For "sides" by name: seconds_per_step (one per round), images_per_second and milliseconds_per_step (see `spread`),
      start_seconds (process, imports, building), first_turn_seconds (with compilation), about. If a side has a
      gauge (see Side), its values after the last round, and for every side flops_per_second and share_of_peak (see
      `spread`), with the same work for both; "not_gauged" is the reason if that failed. With two sides also
      "time_ratio" (see `spread`): the first's time divided by the second's in the same round. "cores_used_by_others":
      the mean number of cores that other processes kept busy meanwhile, or None if unknown.

    Raises:
      ValueError: a side failed, or the two sides run on different kinds of devices.
    """
    with workers(builds, options) as ready:
        kinds = {name: about["platform"] for name, (_, _, about) in ready.items()}
        if len(set(kinds.values())) > 1:
            raise ValueError(f"the sides do not run on the same kind of device: {kinds}; give --platform=cpu or gpu")
        first = {name: worker.turn(options["steps"]) for name, (worker, _, _) in ready.items()}
        # A second turn, unmeasured: allocators and autotuning settle.
        for worker, _, _ in ready.values():
            worker.turn(options["steps"])
        seconds: dict[str, list[float]] = {name: [] for name in ready}
        meter = _OtherWork([worker for worker, _, _ in ready.values()])
        for _ in range(options["rounds"]):
            for name, (worker, _, _) in ready.items():
                seconds[name].append(worker.turn(options["steps"]) / options["steps"])
        results: dict[str, Any] = {"sides": {}, "cores_used_by_others": meter.cores()}
        gauged = None
        try:
            gauged = next(filter(None, (worker.gauge() for worker, _, _ in ready.values())), None)
        except ValueError as error:
            results["not_gauged"] = str(error)
    for name, (_, start, about) in ready.items():
        results["sides"][name] = {
            "about": about,
            "start_seconds": start,
            "first_turn_seconds": first[name],
            "seconds_per_step": seconds[name],
            "milliseconds_per_step": records.spread([1000 * value for value in seconds[name]]),
            "images_per_second": records.spread([options["batch_size"] / value for value in seconds[name]]),
        }
    if gauged:
        results |= gauged
        for name, side in results["sides"].items():
            speeds = [gauged["flops_per_step"] / value for value in seconds[name]]
            side["flops_per_second"] = records.spread(speeds)
            side["share_of_peak"] = records.spread([speed / gauged["peak_flops_per_second"] for speed in speeds])
    if len(ready) == 2:
        ours, theirs = seconds.values()
        results["time_ratio"] = records.spread([a / b for a, b in zip(ours, theirs, strict=True)])
    return results


class _OtherWork:
    """CPU use of other processes, from the kernel's counters; known on Linux only."""

    def __init__(self, workers: Sequence[Worker]):
        self._workers = workers
        self._started, self._before = time.perf_counter(), self._others()

    def cores(self) -> float | None:
        """Returns the mean number of cores kept busy by other processes since this object was created."""
        now = self._others()
        if now is None or self._before is None:
            return None
        return max(now - self._before, 0.0) / (time.perf_counter() - self._started)

    def _others(self) -> float | None:
        """Returns CPU seconds of other processes since the machine's start."""
        try:
            with open("/proc/stat", encoding="utf-8") as file:
                user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
        except (OSError, ValueError):
            return None
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy - sum(worker.cpu_seconds for worker in self._workers)


def table(title: str, results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Formats the result of `measure` as a table."""
    width = max(len(name) for name in results["sides"])
    lines = [
        title,
        f"{'':{width}}   images/s (min .. max)          ms/step    start s   first turn s    TFLOP/s   of peak",
    ]
    for name, side in results["sides"].items():
        speed, step = side["images_per_second"], side["milliseconds_per_step"]["median"]
        shown = f"{speed['median']:.4g} ({speed['min']:.4g} .. {speed['max']:.4g})"
        times = f"{step:10.4g} {side['start_seconds']:10.1f} {side['first_turn_seconds']:14.1f}"
        work = f"{'-':>11}{'-':>10}"
        if "share_of_peak" in side:
            work = f"{side['flops_per_second']['median'] / 1e12:11.4g}{side['share_of_peak']['median']:10.1%}"
        lines.append(f"{name:{width}}   {shown:28} {times}{work}")
    if "flops_per_step" in results:
        work, peak = results["flops_per_step"] / 1e9, results["peak_flops_per_second"] / 1e12
        lines.append(
            f"{work:.5g} GFLOP per step, the same for all sides; peak: {peak:.4g} TFLOP/s in a large matrix product, "
            "measured after the rounds"
        )
    if "not_gauged" in results:
        lines.append(f"neither work nor peak is known: {results['not_gauged']}")
    if "time_ratio" in results:
        ratio = results["time_ratio"]
        lines.append(
            f"time of ours / PyTorch, per round: median {ratio['median']:.3f}, quartiles {ratio['quartile_1']:.3f} .. "
            f"{ratio['quartile_3']:.3f}, range {ratio['min']:.3f} .. {ratio['max']:.3f} (below 1: ours is faster)"
        )
    for name, side in results["sides"].items():
        lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in side["about"].items()))
    lines.append(
        f"{environment['cpu']}, {environment['threads']} threads, load {environment['load_average'][0]:.1f}, "
        f"{environment['date']}"
    )
    others = results["cores_used_by_others"]
    if others is not None:
        is_disturbed = others > DISTURBED_SHARE * environment["cores"]
        verdict = "DISTURBED, do not report: " if is_disturbed else ""
        lines.append(f"{verdict}other processes kept {others:.2f} of {environment['cores']} cores busy meanwhile")
    return "\n".join(lines)


def report(benchmark: str, title: str, builds: Mapping[str, Build], options: dict[str, Any]) -> None:
    """Measures, prints the table, and writes the JSON file where `options["json"]` names one."""
    environment = records.environment(options)
    results = measure(builds, options)
    print(table(title, results, environment))
    records.write(benchmark, options, {"environment": environment, **results})
