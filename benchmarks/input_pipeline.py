"""Waiting for data during training, and the throughput of each data backend."""

import json
import runpy
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networks
import paired
import records

from dim_jax.cli import command_line
from dim_jax.runs import files

if TYPE_CHECKING:
    from dim_jax.runs.schema import ClassifierConfig

SUMMARY = """\
Trains a few epochs with each backend in turn through the loop that `train` runs (no validation), and reads from its
metrics how much of the time the devices waited for data: in the first epoch, in which `tf` decodes, and afterwards.
Also times the backends alone: images per second over one epoch of batches, the first time and again."""
EXAMPLES = """\
  python benchmarks/input_pipeline.py --data=DATA --image-size=96 --batch-size=16 --epochs=2 --json=pipeline.json
"""
BACKENDS = ("tf", "resident")


def config_of(options: dict[str, Any], backend: str) -> "ClassifierConfig":
    """Returns the classifier's configuration for the options."""
    from dim_jax.runs.configuration import parse_config

    path = Path(__file__).resolve().parents[1] / "configs" / "classifier.py"
    config = runpy.run_path(str(path))["get_config"]()
    config.data.path, config.data.backend, config.data.image_size = options["data"], backend, options["image_size"]
    config.model.width, config.model.stages, config.model.dtype = options["width"], options["stages"], options["dtype"]
    config.train.global_batch_size = config.train.eval_batch_size = options["batch_size"]
    config.train.num_epochs, config.train.steps_per_dispatch = options["epochs"], options["steps_per_dispatch"]
    config.train.checkpoint_every_epochs = config.train.eval_every_epochs = options["epochs"]
    return parse_config(config.to_dict())


def train(options: dict[str, Any], backend: str) -> dict[str, Any]:
    """Trains with one backend and returns the times from its metrics."""
    import dataclasses

    from dim_jax.data.dataset import open_dataset
    from dim_jax.data.sampler import make_sampler
    from dim_jax.trainers import classifier
    from dim_jax.training import loop

    config = config_of(options, backend)
    data = open_dataset(options["data"])
    sampler = make_sampler(data, seed=0, global_batch_size=options["batch_size"])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        task, schedule, _ = classifier.make_task(config, Path(folder), data, sampler)
        start_seconds = time.perf_counter() - started
        task = dataclasses.replace(task, evaluate=lambda state: {task.best_metric: 0.0})
        loop.fit(task, schedule, folder, tensorboard=False)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["split"] == "train" and line["seconds_per_step"] is not None]
    images = schedule.steps_per_dispatch * options["batch_size"]
    return {
        "start_seconds": start_seconds,
        "first_epoch": _summary([line for line in lines if line["epoch"] <= 1], images),
        "later_epochs": _summary([line for line in lines if line["epoch"] > 1], images),
    }


def _summary(lines: Sequence[dict[str, Any]], images_per_line: int) -> dict[str, float]:
    seconds = sum(line["seconds"] for line in lines)
    waited = sum(line["data_wait_share"] * line["seconds"] for line in lines)
    return {"images_per_second": len(lines) * images_per_line / seconds, "data_wait_share": waited / seconds}


def deliver(options: dict[str, Any], backend: str) -> dict[str, float]:
    """Returns the images per second of a backend alone over an epoch of batches, the first time and again."""
    from dim_jax.data.backends import make_images
    from dim_jax.data.batches import TrainingPlan
    from dim_jax.data.dataset import open_dataset
    from dim_jax.data.sampler import make_sampler

    data = open_dataset(options["data"])
    sampler = make_sampler(data, seed=0, global_batch_size=options["batch_size"])
    plan = TrainingPlan(sampler, 0, max(sampler.epoch_size // options["batch_size"], 1))

    def images_per_second(batches: Iterable[Any], started: float) -> float:
        count = sum(len(batch["label"]) for batch in batches)
        return count / (time.perf_counter() - started)

    started = time.perf_counter()
    images = make_images(backend, data, options["image_size"], "squash", options["cache_gib"])
    return {
        "cold": images_per_second(images.batches(plan), started),
        "again": images_per_second(images.batches(plan), time.perf_counter()),
    }


def table(title: str, results: dict[str, Any], environment: dict[str, Any]) -> str:
    """Formats the results as a table."""
    lines = [
        title,
        f"{'':10}{'waiting, 1st epoch':>20}{'later':>10}{'images/s, later':>18}{'alone, cold':>14}{'again':>12}",
    ]
    for backend, rounds in results.items():
        first, later, speed, cold, again = (
            records.spread(values)["median"]
            for values in (
                [row["training"]["first_epoch"]["data_wait_share"] for row in rounds],
                [row["training"]["later_epochs"]["data_wait_share"] for row in rounds],
                [row["training"]["later_epochs"]["images_per_second"] for row in rounds],
                [row["alone"]["cold"] for row in rounds],
                [row["alone"]["again"] for row in rounds],
            )
        )
        lines.append(f"{backend:10}{first:20.2%}{later:10.2%}{speed:18.4g}{cold:14.4g}{again:12.4g}")
    lines.append(
        f"{environment['cpu']}, {environment['threads']} threads, {environment['device']}, {environment['date']}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Parses the command line, measures and prints."""
    parser = command_line.parser("input_pipeline", SUMMARY, EXAMPLES)
    parser.prog = "python benchmarks/input_pipeline.py"
    add = parser.add_argument
    add("--data", required=True, metavar="DATA", help="folder that dim_jax.prepare wrote")
    add("--image-size", type=int, default=299, metavar="PX", help="side of the images (default 299)")
    add("--batch-size", type=int, default=16, help="images per step (default 16)")
    add("--width", type=float, default=1.0, help="multiplies all channel counts (default 1)")
    add("--stages", default=networks.STAGES, help="channels of the blocks, stages parted by /")
    add("--dtype", choices=paired.DTYPES, default="float32", help="of the computation (default float32)")
    add("--epochs", type=int, default=2, help="epochs per run, at least 2 (default 2)")
    add("--rounds", type=int, default=1, help="runs of each backend (default 1)")
    add("--steps-per-dispatch", type=int, default=8, metavar="N", help="our scan (default 8)")
    add("--cache-gib", type=float, default=4.0, help="memory in which tf keeps decoded pixels (default 4)")
    add("--backends", default=",".join(BACKENDS), help="which to measure (default tf,resident)")
    add("--json", metavar="OUT", type=records.json_path, help="also write everything measured to this file")
    options: dict[str, Any] = vars(parser.parse_args(arguments))
    backends = options["backends"].split(",")
    if unknown := sorted(set(backends) - set(BACKENDS)):
        raise ValueError(f"--backends={options['backends']}: {unknown[0]!r} is none of {', '.join(BACKENDS)}")
    if options["epochs"] < 2:
        raise ValueError(f"--epochs={options['epochs']} must be at least 2: the first is reported separately")
    checked = options | {"steps": 1, "threads": 0}
    networks.check(checked)
    options["stages"] = checked["stages"]

    import jax

    environment = records.environment({"threads": 0}) | {"device": jax.devices()[0].device_kind}
    results: dict[str, list[dict[str, Any]]] = {backend: [] for backend in backends}
    for _ in range(options["rounds"]):
        for backend in backends:
            results[backend].append({"alone": deliver(options, backend), "training": train(options, backend)})
    title = (
        f"LRF-CNN training with each backend: {options['image_size']} px, batch {options['batch_size']}, "
        f"width {options['width']:g}, {options['dtype']}, {options['steps_per_dispatch']} steps per dispatch"
    )
    print(table(title, results, environment))
    if options["json"]:
        record = {"benchmark": "input_pipeline", "options": options, "environment": environment, "backends": results}
        files.write_json(options["json"], record)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
