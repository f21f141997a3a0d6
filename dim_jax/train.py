"""Command: train a classifier, a GAN or a diffusion model, or run an experiment; start or resume."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dim_jax.cli import command_line, huge_pages

HELP = """usage: python -m dim_jax.train --config=FILE[:VARIANT] --workdir=RUN [--config.FIELD=VALUE ...] [--dry-run]

Trains what a configuration file describes. Everything is written under --workdir; the same command again resumes a run
that was stopped, and so does --workdir alone. SIGTERM or Ctrl-C saves a checkpoint and leaves with exit code 75; a
second one ends the run at once. Started on all hosts of a SLURM job step or a TPU pod, or on hosts that are configured
by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, it trains one run on all of them.

options:
  --config=FILE[:VARIANT]  configuration, for example configs/classifier.py:test, or without a checkout classifier:test
  --config.FIELD=VALUE     sets one field of it, for example --config.train.num_epochs=50 or --config.loss.name=ldam
  --workdir=RUN            run directory: made if it is not there, resumed if it is; or s3://BUCKET/RUN, gs://BUCKET/RUN
  --take-over              with a run in a bucket: replace the process that is recorded as its owner and has crashed
  --dry-run                print the data and all options, and start nothing
  --data-root=FOLDER       where the images are now, if they were moved; compared by SHA-256, and remembered
  --list-tasks             print the tasks of an experiment, a line each; with --dry-run, with estimated seconds
  --task=N                 do one task of an experiment, for grids of machines; see docs/grids.md
  --profile=N              write a trace of N dispatches to RUN/profile, for TensorBoard or Perfetto
  --brief                  of an experiment: one bar with the time left; what its stages print goes to RUN/run.log
  --debug                  print the full trace of an error
  --help                   print this

examples:
  python -m dim_jax.train --config=configs/classifier.py:test --config.data.path=phantom --workdir=runs/first
  python -m dim_jax.train --config=configs/classifier.py --config.data.path=DATA --workdir=runs/a
  python -m dim_jax.train --config=configs/classifier.py --config.data.path=DATA --config.loss.name=cross_entropy \\
      --config.model.width=0.25 --workdir=runs/b
  python -m dim_jax.train --workdir=runs/a                  # resume runs/a
"""
MODULES = {  # of each trainer, with a function `train`
    "classifier": "dim_jax.trainers.classifier",
    "gan": "dim_jax.trainers.gan",
    "diffusion": "dim_jax.trainers.diffusion",
    "experiment": "dim_jax.experiment.conductor",
}


def main(arguments: Sequence[str]) -> None:
    if not arguments or {"-h", "--help"} & set(arguments):
        command_line.say(HELP.rstrip("\n"))
        return
    command_line.start_logging()
    from dim_jax.runs.local_paths import LocalPaths
    from dim_jax.training import hosts

    hosts.join()
    take_over = "--take-over" in arguments
    arguments = [argument for argument in arguments if argument != "--take-over"]
    with LocalPaths(take_over, hosts.on_first_host) as paths:
        # Before parsing, which reads the configuration of a run that is resumed.
        arguments = paths.in_option(arguments, "workdir", paths.read if "--dry-run" in arguments else paths.write)
        _train(arguments)


def _train(arguments: Sequence[str]) -> None:
    from dim_jax.runs.config_flags import parse_flags
    from dim_jax.runs.configuration import trainer_of
    from dim_jax.training import hosts

    options = hosts.on_first_host(lambda: parse_flags(arguments))
    config, run, dry_run, profile, data_root, is_list, task, is_brief = options
    name = trainer_of(config)
    if name == "experiment" and command_line.is_bucket_url(command_line.shown(run)):
        raise ValueError(f"{run}: an experiment needs a --workdir on disk; its runs alone can be in a bucket")
    if is_list:
        from dim_jax.experiment.conductor import list_tasks

        list_tasks(config, run, timed=dry_run)
        return
    if data_root is not None:
        if dry_run:
            raise ValueError("--data-root is remembered and --dry-run writes nothing; give one of them")
        hosts.on_first_host(lambda: _relocate(config, run, data_root))
    of_experiment = {} if task is None else {"task": task}
    if is_brief:
        of_experiment["is_brief"] = True
    importlib.import_module(MODULES[name]).train(config, run, dry_run, profile=profile, **of_experiment)
    if not dry_run and task is None:
        _say_next(name, run)


def _say_next(trainer: str, run: Path) -> None:
    if trainer in ("gan", "diffusion"):
        command_line.say_next("generate", f"--workdir={run}", "--num=200", "--out=pool")
        return
    runs = sorted(run.glob("*/recommended")) if trainer == "experiment" else [run]
    for folder in runs:
        command_line.say_next("predict", "NEW_IMAGES", f"--workdir={folder}", "--out=predictions")


def _relocate(config: dict[str, Any], run: Path, data_root: str) -> None:
    """Makes a run, and the prepared folder that it trains on, read the images from `data_root`."""
    from dim_jax.data.relocation import relocate

    if config["trainer"] == "experiment":
        raise ValueError(
            "--data-root is for one run; for an experiment, give its prepared folder the new place with "
            "python -m dim_jax.prepare --out=EXPERIMENT/SET/data --data-root=FOLDER"
        )
    data = config["data"]["path"]
    folders = [*([Path(data)] if data else []), run / "data", run]
    prepared = [folder for folder in folders if (folder / "manifest.json").is_file()]
    if not prepared:
        raise ValueError(f"--data-root: neither {run} nor its data were prepared yet; give --config.data.path instead")
    relocate(prepared, data_root)


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    sys.exit(command_line.run(main))
