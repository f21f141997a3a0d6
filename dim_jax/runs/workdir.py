"""A run directory: its lock, its configuration, its log and the record of its environment."""

import contextlib
import datetime
import errno
import importlib.metadata
import logging
import platform
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from dim_jax.cli import command_line
from dim_jax.runs import configuration, files, locks, outputs
from dim_jax.runs.configuration import FILE_NAME as CONFIG

ENVIRONMENT = "environment.json"
LOCK = ".lock"
LOG = "run.log"
CHECKPOINTS, BEST = "checkpoints", "best"  # folders with a folder STEP of each checkpoint
DIGESTS = "sha256.json"  # of a checkpoint: the SHA-256 of its other files, written last
# What a run writes without asking, beside its configuration. The log is only appended to.
OUTPUTS = (
    "environment.json", "manifest.json", "split.json", "generated.json", "data_report.json", "metrics.jsonl",
    "checkpoints", "best", "eval", "samples", "results.json", "report.html", "report_data", "card.md", "card.json",
)  # fmt: skip
# Fields that may differ when a run is resumed: they change its speed or extra outputs, not its results. (The pixels of
# the backends differ by one grey level at most.)
MAY_DIFFER = frozenset(
    {
        "data.backend", "data.cache_gib", "train.tensorboard", "train.keep_checkpoints",
        "train.checkpoint_seconds_apart", "train.report",
    }
)  # fmt: skip
PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "clu", "numpy", "scikit-learn", "pillow",
    "tensorflow-cpu", "tensorflow", "tensorflow-datasets", "dim_jax",
)  # fmt: skip


@contextlib.contextmanager
def claim(workdir: str | Path, wait: bool = False) -> Iterator[Path]:
    """Locks `workdir` for this process; the lock is released when the process ends, however it ends.

    If the directory holds no configuration at the end and this call created it, it is removed.

    Args:
      workdir: run directory; it is created if it is missing.
      wait: wait for another process that holds the lock, instead of raising.

    Raises:
      ValueError: another process holds the lock, or the directory is no run and has files that a run would replace.
    """
    workdir = Path(workdir)
    outputs.check(workdir, is_folder=True, option="--workdir")
    existed = workdir.is_dir()
    # The lock of a killed run that had no configuration yet is still there.
    if existed and not (workdir / CONFIG).is_file() and not (workdir / LOCK).exists():
        foreign = [name for name in OUTPUTS if (workdir / name).exists()]
        if foreign:
            raise ValueError(f"{workdir} is no run, and a run would replace its {foreign[0]}; use another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.acquire(workdir / LOCK, workdir, wait=wait)
    except filelock.Timeout:
        holder = locks.holder(workdir / LOCK)
        raise ValueError(f"{workdir} is in use by {holder}; wait for it or use another --workdir") from None
    except NotImplementedError:
        raise OSError(errno.ENOLCK, "the file system has no file locks", str(workdir)) from None
    try:
        yield workdir
    finally:
        is_run = (workdir / CONFIG).is_file()
        if not is_run:  # invalid input leaves nothing behind
            with contextlib.suppress(OSError):  # an open file can't be removed on Windows; filelock does it there
                (workdir / LOCK).unlink()
        lock.release()
        if not is_run and not existed:
            with contextlib.suppress(OSError):
                workdir.rmdir()


@contextlib.contextmanager
def logging_to(workdir: str | Path) -> Iterator[None]:
    """Appends this package's log records to run.log within the block."""
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
    """A log file that ignores write errors: a full disk is reported by the writers of the run's results."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def check_config(
    workdir: str | Path,
    config: Mapping[str, Any],
    may_differ: Collection[str] = MAY_DIFFER,
    may_grow: Collection[str] = (),
) -> list[str]:
    """Checks that `workdir` holds no run of another configuration.

    The saved configuration is completed first; see `configuration.complete`.

    Args:
      workdir: run directory; it may be empty or missing.
      config: configuration of this start.
      may_differ: dotted names of fields, or names of groups, that are not compared.
      may_grow: dotted names of numbers that may be larger than the saved ones.

    Returns:
      The names in `may_grow` whose numbers are larger.

    Raises:
      ValueError: other fields differ; the message names each of them.
    """
    path = Path(workdir) / CONFIG
    if not path.is_file():
        return []
    saved, current = map(flatten_config, (configuration.read_saved(path), configuration.complete(config)))
    grown = [name for name in may_grow if name in saved and current.get(name, 0) > saved[name]]
    differences = [
        f"{name}: {saved.get(name, 'absent')!r} there, {current.get(name, 'absent')!r} now"
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name) != current.get(name) and not {name, name.split(".")[0]} & {*may_differ, *grown}
    ]
    if differences:
        raise ValueError(
            f"{workdir} holds a run of another configuration ({'; '.join(differences)}); use another --workdir, or "
            "resume it with --workdir alone"
        )
    return grown


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a nested configuration to {"a.b": value}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten_config(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def write_start(
    workdir: str | Path, config: Mapping[str, Any], devices: list[str], facts: Mapping[str, str] | None = None
) -> None:
    """Writes config.json and environment.json: command, versions, devices, commit if there is one, time of the start.

    Args:
      workdir: run directory.
      config: the run's configuration.
      devices: names of the devices that the run uses.
      facts: further entries of environment.json.
    """
    files.write_json(Path(workdir) / CONFIG, config)
    environment = {
        "command": command_line.command() or None,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": package_versions(),
        "devices": devices,
        "git_hash": _git_hash(),
        "seed": config.get("seed"),
        **(facts or {}),
    }
    files.write_json(Path(workdir) / ENVIRONMENT, environment)


def start_text() -> str:
    """Returns the first line of a start in run.log: versions of Python and of the packages, and the commit."""
    packages = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return f"start: python {sys.version.split()[0]}, {packages}, commit {_git_hash() or 'unknown'}"


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Returns the versions of the packages that are installed."""
    installed = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


def _git_hash() -> str | None:
    """The commit of the checkout this package runs from, or None when it was installed from a wheel."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None
