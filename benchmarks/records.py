"""JSON records of benchmarks: spread of the numbers, machine, versions and options."""

import argparse
import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dim_jax.runs import files


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the quartiles and the extremes of at least one value."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": statistics.median(values),
        "quartile_1": quartiles[0],
        "quartile_3": quartiles[2],
        "min": min(values),
        "max": max(values),
    }


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of the installed ones of these packages, by name."""
    installed = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def environment(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the machine, its cores, its load and the date."""
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "threads": options["threads"] or available_cores(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def json_path(text: str) -> str:
    """Returns the path in --json; a `type` for `add_argument`.

    Raises:
      argparse.ArgumentTypeError: it is a file that no benchmark wrote.
    """
    if os.path.lexists(text):
        try:
            is_ours = "options" in files.read_object(text)
        except (OSError, ValueError):
            is_ours = False
        if not is_ours:
            raise argparse.ArgumentTypeError(f"{text} would be overwritten, which no benchmark wrote; choose another")
    return text


def write(benchmark: str, options: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Writes results and options to the JSON file `options["json"]`, if that is set."""
    if options["json"]:
        # The path of the file itself is no option of the measurement.
        shown = {name: value for name, value in options.items() if name != "json"}
        files.write_json(options["json"], {"benchmark": benchmark, "options": shown, **results})
