"""Kills runs at random moments, restarts them, and compares the results with those of an uninterrupted run.

    python tests/kill_runs.py --kills=30 --stops=6 --seed=0 --out=runs/kills

Each kill (SIGKILL) and each stop (SIGTERM) is sent during a step, an evaluation, a checkpoint, a line of metrics, a
rename or another call named in POINTS, at a random time between its start and its usual end. The script runs itself as
the process to be killed; the package contains no code for it.
"""

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

CONFIGS = Path(__file__).parents[1] / "configs"
SHARED = ["--config.data.path={data}", "--config.data.backend=resident"]
WORK = {
    "classifier": [
        f"--config={CONFIGS / 'classifier.py'}:test", *SHARED, "--config.train.num_epochs=3",
        "--config.train.eval_every_epochs=0.75", "--config.train.checkpoint_every_epochs=0.5",
    ],
    "gan": [
        f"--config={CONFIGS / 'gan.py'}:test", *SHARED, "--config.gan.label=low_grade_in",
        "--config.train.num_train_steps=24", "--config.train.sample_every=6", "--config.train.checkpoint_every=4",
    ],
    "experiment": [
        f"--config={CONFIGS / 'experiment.py'}:test", "--config.folds=(0,)",
        "--config.classifier.data.backend=resident", "--config.gan.data.backend=resident",
        "--config.classifier.model.stages=((32,),)",
    ],
}  # fmt: skip
SHARES = {"classifier": 0.4, "gan": 0.3, "experiment": 0.3}
# Name of a call -> module, attribute.
POINTS = {
    "step": ("dim_jax.training.parallel", "pmap_train_step"),
    "metrics line": ("dim_jax.training.writers", "MetricWriter.write"),
    "evaluation": ("dim_jax.evaluation.predictor", "Predictor.__call__"),
    "sample sheets": ("dim_jax.gan.sample_sheets", "SampleSheets.draw"),
    "checkpoint": ("dim_jax.training.checkpoints", "save"),
    "rename": ("os", "replace"),
    "predictions": ("dim_jax.evaluation.split_evaluation", "evaluate_split"),
    "pool": ("dim_jax.gan.pool_writer", "PoolWriter.write"),
    "selection": ("dim_jax.gan.pool_selection", "select_images"),
    "report": ("dim_jax.reporting.report_files", "write_report"),
}
MEASURED = ("seconds", "checkpoint_seconds", "images_per_second", "data_wait_share", "overhead_share", "host_bytes",
            "device_")  # fmt: skip
PLACES_AND_TIMES = ("seconds_per_100_training_images", "seconds_per_test_image", "data", "runs", "workdir", "folder")
LEFTOVERS = ("*.tmp", ".?*.lock", ".writing-*", "*.orbax-checkpoint-tmp*")
GRACE = 30.0


def work(arguments, journal, point, number, delay, signal_number):
    """Runs `train`, and sends this process a signal `delay` s after the start of the `number`th call of a point.

    The seconds of all calls are written to `journal` at the end, the time of the signal at once.
    """
    import importlib

    from dim_jax import train
    from dim_jax.cli import command_line

    seconds = collections.defaultdict(list)

    def end():
        time.sleep(delay)
        Path(journal).write_text(json.dumps({"signal": time.time()}))
        os.kill(os.getpid(), signal_number)

    def watched(name, function):
        def call(*positional, **options):
            seconds[name].append(0.0)
            if name == point and len(seconds[name]) == number:
                threading.Thread(target=end, daemon=True).start()
            started = time.perf_counter()
            try:
                return function(*positional, **options)
            finally:
                seconds[name][-1] = time.perf_counter() - started

        return call

    for name, (module, attribute) in POINTS.items():
        *owner, attribute = attribute.split(".")
        owner = getattr(importlib.import_module(module), owner[0]) if owner else importlib.import_module(module)
        function = getattr(owner, attribute)
        if name == "step":  # the function that it returns is timed
            setattr(owner, attribute, lambda *positional, make=function: watched("step", make(*positional)))
        else:
            setattr(owner, attribute, watched(name, function))
    code = command_line.run(train.main, arguments)
    if not Path(journal).is_file():
        Path(journal).write_text(json.dumps({"seconds": seconds}))
    return code


def start(arguments, journal, point="", number=0, delay=0.0, signal_number=0):
    """Runs `work` in a process of its own; returns its exit code, its output and its journal."""
    journal.unlink(missing_ok=True)
    moment = [str(journal), point, str(number), str(delay), str(int(signal_number))]
    command = [sys.executable, __file__, "--work", *moment, *arguments]
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, errors="replace"
    )
    record = json.loads(journal.read_text()) if journal.is_file() else {}
    record["left"] = time.time()
    return done.returncode, done.stdout, record


def lines(run):
    """The lines of metrics.jsonl without measured values."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(MEASURED)} for line in records]


def without_places_and_times(value):
    if isinstance(value, dict):
        return {name: without_places_and_times(item) for name, item in value.items() if name not in PLACES_AND_TIMES}
    return [without_places_and_times(item) for item in value] if isinstance(value, list) else value


def assert_equal(cut, whole):
    """Every run in both folders: parameters bit for bit, lines, best checkpoint, predictions, images; no leftovers."""
    import jax

    from dim_jax.training import checkpoints, loop

    leftovers = [path for pattern in LEFTOVERS for path in cut.rglob(pattern)]
    assert not leftovers, leftovers
    runs = [path.parent.relative_to(whole) for path in sorted(whole.rglob("metrics.jsonl"))]
    assert runs and runs == [path.parent.relative_to(cut) for path in sorted(cut.rglob("metrics.jsonl"))]
    for run in runs:
        assert lines(cut / run) == lines(whole / run), run
        for folder in (loop.CHECKPOINTS, loop.BEST):
            ours, theirs = (root / run / folder for root in (cut, whole))
            assert checkpoints.steps(ours) == checkpoints.steps(theirs), (run, folder)
            if theirs.is_dir():
                ours, theirs = checkpoints.restore(ours), checkpoints.restore(theirs)
                assert ours.notes == theirs.notes, run
                jax.tree.map(np.testing.assert_array_equal, ours.state, theirs.state)
    for path in whole.rglob("*.png"):
        assert (cut / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    for path in whole.rglob("predictions*/**/*.npz"):
        with np.load(path) as theirs, np.load(cut / path.relative_to(whole)) as ours:
            for name in theirs.files:
                if name.endswith(("rows", "logits")):
                    np.testing.assert_array_equal(ours[name], theirs[name])
    if (whole / "results.json").is_file():
        ours, theirs = (
            without_places_and_times(json.loads((root / "results.json").read_text())) for root in (cut, whole)
        )
        assert ours == theirs
    assert (cut / "report.html").is_file()


def ends(name, arguments, out, kills, stops, rng):
    """Kills runs of one kind `kills` times and stops them `stops` times; returns the counts by (signal, point).

    Raises:
      AssertionError: a run did not resume, or its results differ from those of the uninterrupted one.
    """
    whole, journal = out / f"{name}_whole", out / f"{name}.json"
    code, output, record = start([*arguments, f"--workdir={whole}"], journal)
    assert code == 0, output
    usual = {point: (len(seconds), float(np.mean(seconds))) for point, seconds in record["seconds"].items()}
    waiting = rng.permutation([signal.SIGKILL] * kills + [signal.SIGTERM] * stops).tolist()
    hit, number, slowest = collections.Counter(), 0, 0.0
    cut = out / f"{name}_{number}"
    while waiting:
        point = str(rng.choice(sorted(usual)))
        calls, seconds = usual[point]
        moment = (point, int(rng.integers(1, min(calls, 4) + 1)), float(rng.uniform(0, seconds)), waiting[0])
        code, output, record = start([*arguments, f"--workdir={cut}"], journal, *moment)
        # A SIGTERM after the work is done has its default effect on the exiting process.
        finished = code == 0 or (code == -signal.SIGTERM and "report: " in output)
        if "signal" in record and not finished:
            number_of_signal = waiting.pop(0)
            expected = -signal.SIGKILL if number_of_signal == signal.SIGKILL else 75
            assert code == expected, output
            if number_of_signal == signal.SIGTERM:
                slowest = max(slowest, record["left"] - record["signal"])
                assert slowest < GRACE and output.strip().splitlines()[-1].startswith("stopped"), output
            hit[signal.Signals(number_of_signal).name, point] += 1
            print(f"{name}: {signal.Signals(number_of_signal).name} in {point} {moment[1]}", flush=True)
        else:
            assert finished, output
        if finished:
            assert_equal(cut, whole)
            shutil.rmtree(cut)
            number += 1
            cut = out / f"{name}_{number}"
    code, output, _ = start([*arguments, f"--workdir={cut}"], journal)
    assert code == 0, output
    assert_equal(cut, whole)
    shutil.rmtree(cut)
    print(f"{name}: {number + 1} runs ended like the uninterrupted one; slowest stop {slowest:.1f} s", flush=True)
    return hit


def kill(kinds, out, kills, stops, seed):
    """Kills and stops runs of several kinds `kills` and `stops` times; returns counts by (kind, signal, point)."""
    from dim_jax.data.preparation import prepare_dataset

    rng, hit = np.random.default_rng(seed), {}
    data = prepare_dataset("phantom", out / "data", image_size=64, scale=0.05)
    for place, name in enumerate(kinds):
        last = place == len(kinds) - 1
        shares = [round(number * SHARES[name]) for number in (kills, stops)]
        done = [
            sum(n for (_, number, _), n in hit.items() if number == signal_name)
            for signal_name in ("SIGKILL", "SIGTERM")
        ]
        if last:
            shares = [kills - done[0], stops - done[1]]
        arguments = [argument.format(data=data) for argument in WORK[name]]
        counts = ends(name, arguments, out, *shares, rng)
        hit |= {(name, *key): count for key, count in counts.items()}
    return hit


def main():
    if sys.argv[1:2] == ["--work"]:
        journal, point, number, delay, signal_number = sys.argv[2:7]
        sys.exit(work(sys.argv[7:], journal, point, int(number), float(delay), int(signal_number)))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="SIGKILLs in all (default: %(default)s)")
    parser.add_argument("--stops", type=int, default=6, help="SIGTERMs in all (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=WORK, default=list(WORK), help="kinds of runs (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the runs")
    options = parser.parse_args()
    hit = kill(options.kinds, options.out.absolute(), options.kills, options.stops, options.seed)
    for key, count in sorted(hit.items()):
        print(*key, count, sep="\t")
    for number in ("SIGKILL", "SIGTERM"):
        print(number, sum(count for key, count in hit.items() if key[1] == number), sep="\t")


if __name__ == "__main__":
    main()
