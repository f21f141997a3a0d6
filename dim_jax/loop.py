"""The one training loop: restore, step, log, evaluate, keep the best, save. A trainer supplies the parts."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dim_jax import checkpoints, parallel
from dim_jax.progress import Progress
from dim_jax.writers import MetricWriter

CHECKPOINTS = "checkpoints"
BEST = "best"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """When things happen, in steps; all but the first are multiples of it, so that one program serves the whole run.

    Attributes:
      steps_per_dispatch: steps that the devices do at one call; one line of metrics is written for each.
      num_train_steps: length of the run.
      eval_every: an evaluation follows every so many steps, and the last one.
      checkpoint_every: a checkpoint follows every so many steps, and the last one.
    """

    steps_per_dispatch: int
    num_train_steps: int
    eval_every: int
    checkpoint_every: int

    @classmethod
    def in_dispatches(cls, steps_per_dispatch: int, **durations: float) -> "Schedule":
        """Rounds durations in steps up to whole dispatches.

        Raises:
          ValueError: one of them is not above 0.
        """
        for name, value in {"steps_per_dispatch": steps_per_dispatch, **durations}.items():
            if not value > 0:
                raise ValueError(f"{name} comes to {value} steps; it must be above 0")
        steps = {name: int(-(-value // steps_per_dispatch)) * steps_per_dispatch for name, value in durations.items()}
        return cls(steps_per_dispatch=steps_per_dispatch, **steps)


@dataclass(frozen=True)
class Task:
    """What a trainer supplies.

    Attributes:
      state: initial state on the host, with a `step`.
      dispatch: (replicated state, sharded batches) -> (replicated state, metrics [devices, steps]).
      batches: first step -> endless enough stream of sharded batches, one per dispatch.
      evaluate: replicated state -> metrics by name; it may write files of its own.
      best_metric: the metric of `evaluate` whose largest value marks the best checkpoint; None keeps none.
      images_per_step: for the throughput.
      steps_per_epoch: for the curves' epoch axis.
      losses: the training metrics that must stay finite; the first is shown while training goes on.
      evaluation: what the lines of `evaluate` are called in metrics.jsonl.
      facts: what else a reader of the run must know, by name; kept in environment.json.
    """

    state: Any
    dispatch: Callable[[Any, Any], tuple[Any, Any]]
    batches: Callable[[int], Iterator[Any]]
    evaluate: Callable[[Any], dict[str, float]]
    best_metric: str | None
    images_per_step: int
    steps_per_epoch: float
    losses: Sequence[str] = ("loss",)
    evaluation: str = "val"
    facts: Mapping[str, str] = field(default_factory=dict)


def fit(
    task: Task, schedule: Schedule, workdir: str | Path, *, keep_checkpoints: int = 2, tensorboard: bool = True
) -> dict[str, Any] | None:
    """Trains to the end of the schedule, from the newest checkpoint if there is one.

    A run that was killed and started again ends with the same state as one that was not, bit for bit on CPU.

    Args:
      task: what to train.
      schedule: when to evaluate and save.
      workdir: run directory, held by this process.
      keep_checkpoints: how many checkpoints to keep for resuming, beside the best one.
      tensorboard: write TensorBoard events too.

    Returns:
      The best evaluation: {"step": ..., "value": ..., "metric": ...}; None where the task names no best metric.

    Raises:
      FloatingPointError: a loss is no longer finite; the metrics of that step are in metrics.jsonl.
    """
    workdir = Path(workdir)
    restored = checkpoints.restore(workdir / CHECKPOINTS, task.state)
    step = restored.step if restored else 0
    best = restored.notes["best"] if restored else None
    if step >= schedule.num_train_steps:
        return best
    if restored:
        log.info("resuming at step %d", step)
    state = parallel.replicate(restored.state if restored else task.state)
    writer = MetricWriter(workdir, step, tensorboard)
    progress = Progress("train", schedule.num_train_steps, step, task.images_per_step)
    stream = task.batches(step)
    clock, checkpoint_seconds = _Clock(), 0.0
    try:
        batches = next(stream)
        while step < schedule.num_train_steps:
            clock.start()
            state, metrics = task.dispatch(state, batches)
            first, step = step, step + schedule.steps_per_dispatch
            if step < schedule.num_train_steps:
                # Meanwhile the devices work.
                batches = clock.fetch(stream, metrics[task.losses[0]])
            metrics = {name: np.asarray(value) for name, value in parallel.unreplicate(metrics).items()}
            clock.stop()
            epoch = step / task.steps_per_epoch
            _stop_if_not_finite(metrics, task.losses, first, writer)
            line = {name: float(value.mean()) for name, value in metrics.items()} | clock.line(
                schedule.steps_per_dispatch, task.images_per_step
            )
            line["learning_rate"] = float(metrics["learning_rate"][-1])
            line["checkpoint_seconds"], checkpoint_seconds = checkpoint_seconds, 0.0
            writer.write(step, "train", {"epoch": epoch, **line})
            shown = ", ".join(f"{name.replace('_', ' ')} {line[name]:.4f}" for name in task.losses)
            progress.update(step, shown + _best_text(best))
            is_last = step >= schedule.num_train_steps
            if step % schedule.eval_every == 0 or is_last:
                started = time.perf_counter()
                values = task.evaluate(state)
                values = {"epoch": epoch, **values, "seconds": time.perf_counter() - started}
                writer.write(step, task.evaluation, values)
                if task.best_metric is not None:
                    value = {"step": step, "value": values[task.best_metric], "metric": task.best_metric}
                    log.info("step %d: validation %s %.4f", step, value["metric"], value["value"])
                    if best is None or value["value"] > best["value"]:
                        best = value
                        checkpoints.save(workdir / BEST, step, parallel.unreplicate(state), {"best": best}, keep=1)
            if step % schedule.checkpoint_every == 0 or is_last:
                notes, started = {"best": best}, time.perf_counter()
                checkpoints.save(workdir / CHECKPOINTS, step, parallel.unreplicate(state), notes, keep_checkpoints)
                # Told on the next line: one written after the checkpoint could be missing in a run that was killed.
                checkpoint_seconds = time.perf_counter() - started
    finally:
        progress.close()
        writer.close()
    return best


def _best_text(best: dict[str, Any] | None) -> str:
    return f", best {best['metric']} {best['value']:.4f} at {best['step']}" if best else ""


def _stop_if_not_finite(
    metrics: dict[str, np.ndarray], losses: Sequence[str], first_step: int, writer: MetricWriter
) -> None:
    bad = np.flatnonzero(~np.isfinite(np.sum([metrics[name] for name in losses], axis=0)))
    if len(bad):
        step = first_step + int(bad[0]) + 1
        values = {name: float(value[bad[0]]) for name, value in metrics.items()}
        writer.write(step, "diverged", {name: repr(value) for name, value in values.items()})
        told = ", ".join(f"{name}={value:g}" for name, value in values.items())
        raise FloatingPointError(
            f"{' or '.join(losses)} is not finite at step {step} ({told}); lower config.optimizer.learning_rate or set "
            "clip_norm"
        )


class _Clock:
    """Times dispatches; the first one holds the compilation and is told as None."""

    def __init__(self) -> None:
        self._is_first = True
        self._seconds = self._waited = 0.0

    def start(self) -> None:
        self._started, self._waited = time.perf_counter(), 0.0

    def fetch(self, stream: Iterator[Any], output: jax.Array) -> Any:
        """Takes the next batches; counts the time as waiting if the devices were done before the data."""
        started = time.perf_counter()
        batches = next(stream)
        if output.is_ready():
            self._waited = time.perf_counter() - started
        return batches

    def stop(self) -> None:
        self._seconds = time.perf_counter() - self._started

    def line(self, steps: int, images_per_step: int) -> dict[str, float | None]:
        was_first, self._is_first = self._is_first, False
        line = {"seconds": self._seconds}
        if was_first:
            return line | {"seconds_per_step": None, "images_per_second": None, "data_wait_share": None}
        return line | {
            "seconds_per_step": self._seconds / steps,
            "images_per_second": steps * images_per_step / self._seconds,
            "data_wait_share": self._waited / self._seconds,
        }
