"""Trains for many steps and prints memory, open files, memory maps and step times, which should stay constant.

    nice -n 10 python tests/soak.py --steps=10000 --out=runs/soak

`train` runs in a subprocess that is monitored through /proc; memory and step times are read from its metrics.jsonl.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).parents[1] / "configs"
WARM_UP = 0.3  # share of the run
DISPATCH = 10
KINDS = ("classifier/resident", "classifier/tf", "gan/resident")


def arguments(trainer, backend, data, steps, every):
    """The command line of a run of `steps` steps that evaluates and saves after every so many."""
    from dim_jax.data.dataset import open_dataset

    options = [
        f"--config={CONFIGS / trainer}.py:test", f"--config.data.path={data}", f"--config.data.backend={backend}",
        f"--config.train.steps_per_dispatch={DISPATCH}",
    ]  # fmt: skip
    if trainer == "gan":
        return [
            *options, "--config.gan.label=low_grade_in", f"--config.train.num_train_steps={steps}",
            f"--config.train.sample_every={every}", f"--config.train.checkpoint_every={every}",
        ]  # fmt: skip
    steps_per_epoch = len(open_dataset(data).rows("train")) / 8
    return [
        *options, "--config.model.stages=((32,),)", "--config.optimizer.warmup_epochs=0",
        f"--config.train.num_epochs={steps / steps_per_epoch}",
        f"--config.train.eval_every_epochs={every / steps_per_epoch}",
        f"--config.train.checkpoint_every_epochs={every / steps_per_epoch}",
    ]  # fmt: skip


def watch(options, run):
    """Trains, and returns measurements after the warm-up.

    Returns:
      files, maps: open files and memory maps, minimum of each half, since checkpoints open more for a moment.
      bytes: memory of the process at `steps`, (N,).
      saved: whether a checkpoint was saved just before, (N,).
      seconds: seconds per step, (N,).
    """
    command = [sys.executable, "-m", "dim_jax.train", *options, f"--workdir={run}"]
    one_device = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=1"  # the last counts
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": one_device}
    samples = []
    with (run.parent / f"{run.name}.txt").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            time.sleep(0.05)
            folder = Path(f"/proc/{process.pid}")
            try:
                samples.append(
                    (len(os.listdir(folder / "fd")), len((folder / "maps").read_text().splitlines()), logged(run))
                )
            except OSError:
                continue
    assert process.returncode == 0, (run.parent / f"{run.name}.txt").read_text()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if record["split"] == "train"]
    last = records[-1]["step"]
    records = [record for record in records if record["step"] > WARM_UP * last]
    # Only samples before the last line: the evaluation after it compiles other programs.
    counts = np.array([sample[:2] for sample in samples if WARM_UP * last < sample[2] < last])
    files, maps = np.transpose([half.min(0) for half in np.array_split(counts, 2)]).tolist()
    return {
        "files": files,
        "maps": maps,
        "steps": np.array([record["step"] for record in records]),
        "bytes": np.array([record["host_bytes"] for record in records]),
        "saved": np.array([record["checkpoint_seconds"] > 0 for record in records]),
        "seconds": np.array([record["seconds_per_step"] for record in records]),
    }


def logged(run):
    """The last step in metrics.jsonl."""
    path = run / "metrics.jsonl"
    whole = path.read_bytes().rsplit(b"\n", 1)[0].rsplit(b"\n", 1)[-1] if path.is_file() else b""
    return json.loads(whole)["step"] if whole else 0


def growth(measurements):
    """Returns the bytes gained at checkpoints, where allocator and TensorStore keep some, and those gained between."""
    gained = np.diff(measurements["bytes"])
    at_checkpoints = gained[measurements["saved"][1:]].sum()
    return int(at_checkpoints), int(gained.sum() - at_checkpoints)


def main():
    from dim_jax.data.preparation import prepare_dataset

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000, help="steps of each run (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="trainer/backend (default: all)")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the runs")
    options = parser.parse_args()
    out = options.out.absolute()
    data = prepare_dataset("phantom", out / "data", image_size=64, scale=0.05)
    for name in options.kinds:
        trainer, backend = name.split("/")
        run = out / f"{trainer}_{backend}"
        usage = watch(arguments(trainer, backend, data, options.steps, options.steps // 20), run)
        at_checkpoints, between = growth(usage)
        quarters = [f"{1e3 * float(np.median(part)):.1f}" for part in np.array_split(usage["seconds"], 4)]
        print(
            f"{name}: {options.steps} steps; {usage['bytes'][0] / 1e6:.1f} to {usage['bytes'][-1] / 1e6:.1f} MB, "
            f"at most {usage['bytes'].max() / 1e6:.1f}; {at_checkpoints / 1e6:+.2f} at "
            f"{usage['saved'][1:].sum()} checkpoints, {between / 1e6:+.2f} between them; by half, open files "
            f"{usage['files']}, memory maps {usage['maps']}; median ms per step by quarter {', '.join(quarters)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
