"""Claiming a run directory: one process at a time, one configuration for good, and a note of where it ran."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import logging
import platform
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from dim_jax.cli import command_line
from dim_jax.runs import files
from dim_jax.runs.added_fields import complete
from dim_jax.runs.configuration import FILE_NAME as CONFIG

ENVIRONMENT = "environment.json"
LOCK = ".lock"
LOG = "run.log"
# A run may go on with other values of these: they change speed or what is written beside the numbers, and no number
# but for the backend's pixels, which differ by one level at most.
MAY_DIFFER = frozenset(
    {"data.backend", "data.cache_gib", "train.tensorboard", "train.keep_checkpoints", "train.report"}
)
PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "clu", "numpy", "scikit-learn", "pillow",
    "tensorflow-cpu", "tensorflow", "tensorflow-datasets", "dim_jax",
)  # fmt: skip


@contextlib.contextmanager
def claim(workdir: str | Path) -> Iterator[Path]:
    """Holds `workdir` for this process; the system lets go of it however the process ends.

    Raises:
      ValueError: another process holds it.
    """
    workdir = Path(workdir)
    existed = workdir.is_dir()
    workdir.mkdir(parents=True, exist_ok=True)
    lock = workdir / LOCK
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{workdir} is in use by another process; wait for it or use another --workdir") from None
        try:
            yield workdir
        finally:
            # Bad input must leave nothing behind: without a configuration there is no run here.
            if not (workdir / CONFIG).is_file():
                lock.unlink(missing_ok=True)
                if not existed:
                    with contextlib.suppress(OSError):
                        workdir.rmdir()


@contextlib.contextmanager
def logging_to(workdir: str | Path) -> Iterator[None]:
    """Also writes this package's log lines to run.log, after those of earlier starts."""
    handler = _LogFile(Path(workdir) / LOG, encoding="utf-8")
    handler.setFormatter(command_line.LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("dim_jax")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    """A log file that says nothing of itself: a full disk is told by whoever writes what counts."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def check_config(
    workdir: str | Path,
    config: Mapping[str, Any],
    may_differ: Collection[str] = MAY_DIFFER,
    may_grow: Collection[str] = (),
) -> list[str]:
    """Raises ValueError, naming every field that differs, if `workdir` holds a run of another configuration.

    A run that was made before there was a field has the value of added_fields.

    Args:
      may_differ: dotted names of fields, or of groups of them, that do not count.
      may_grow: dotted names of numbers that may be larger now.

    Returns:
      The names of those that are.
    """
    path = Path(workdir) / CONFIG
    if not path.is_file():
        return []
    saved, given = (flatten_config(complete(each)) for each in (files.read_object(path), files.to_json(config)))
    grown = [name for name in may_grow if name in saved and given.get(name, 0) > saved[name]]
    differences = [
        f"{name}: {saved.get(name, 'absent')!r} there, {given.get(name, 'absent')!r} now"
        for name in sorted(saved.keys() | given.keys())
        if saved.get(name) != given.get(name) and not {name, name.split(".")[0]} & {*may_differ, *grown}
    ]
    if differences:
        raise ValueError(
            f"{workdir} holds a run of another configuration ({'; '.join(differences)}); use another --workdir, or "
            "resume it with --workdir alone"
        )
    return grown


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested configuration as {"a.b": value}."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten_config(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def write_start(
    workdir: str | Path, config: Mapping[str, Any], devices: list[str], facts: Mapping[str, str] | None = None
) -> None:
    """Writes config.json and environment.json: versions, devices, the commit if there is one, time of the start.

    Args:
      facts: what else to keep in environment.json, by name.
    """
    files.write_json(Path(workdir) / CONFIG, config)
    environment = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": _versions(),
        "devices": devices,
        "git_hash": _git_hash(),
        "seed": config.get("seed"),
        **(facts or {}),
    }
    files.write_json(Path(workdir) / ENVIRONMENT, environment)


def start_text() -> str:
    """Returns what run.log says of every start: the versions that compute, and the commit."""
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    return f"start: python {sys.version.split()[0]}, {versions}, commit {_git_hash() or 'unknown'}"


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _git_hash() -> str | None:
    """The commit of the checkout this package runs from, or None when it was installed from a wheel."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
