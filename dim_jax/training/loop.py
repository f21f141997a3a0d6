"""Training loop: restores, steps, logs, evaluates, keeps the best checkpoint and saves. A trainer supplies a Task."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli import stopping
from dim_jax.cli.errors import Diverged
from dim_jax.cli.progress import Progress
from dim_jax.runs.workdir import BEST, CHECKPOINTS
from dim_jax.training import checkpoints, hosts, instruments, parallel
from dim_jax.training.checkpoint_writer import CheckpointWriter
from dim_jax.training.writers import MetricWriter, NoMetricWriter

EVALUATION_DUE = "evaluation_due"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSchedule:
    """Intervals of the training loop in steps, all multiples of `steps_per_dispatch`, so that a run has one program.

    Attributes:
      steps_per_dispatch: steps per call of the compiled program; each call writes one line of metrics.
      num_train_steps: length of the run.
      eval_every: steps between evaluations; the last step is also evaluated.
      checkpoint_every: steps between checkpoints; the last step is also saved.
    """

    steps_per_dispatch: int
    num_train_steps: int
    eval_every: int
    checkpoint_every: int

    @classmethod
    def in_dispatches(cls, steps_per_dispatch: int, **durations: float) -> "LoopSchedule":
        """Rounds durations in steps up to whole dispatches.

        Raises:
          ValueError: a duration is not above 0.
        """
        for name, value in {"steps_per_dispatch": steps_per_dispatch, **durations}.items():
            if not value > 0:
                raise ValueError(f"{name} comes to {value} steps; it must be above 0")
        steps = {name: int(-(-value // steps_per_dispatch)) * steps_per_dispatch for name, value in durations.items()}
        return cls(steps_per_dispatch=steps_per_dispatch, **steps)

    def evaluates_at(self, step: int) -> bool:
        """Whether to evaluate after the step."""
        return step % self.eval_every == 0 or step >= self.num_train_steps

    def saves_at(self, step: int) -> bool:
        """Whether to save a checkpoint after the step."""
        return step % self.checkpoint_every == 0 or step >= self.num_train_steps


@dataclass(frozen=True)
class Task:
    """State, functions and names of a training task, supplied by a trainer.

    Attributes:
      state: initial state on the host, with a `step`.
      dispatch: (replicated state, sharded batches) -> (replicated state, metrics [steps]).
      batches: first step -> iterator of sharded batches, one per dispatch, up to the end of the run.
      evaluate: replicated state -> metrics by name; it may write files of its own.
      best_metric: metric of `evaluate` whose maximum selects the best checkpoint; None for no best checkpoint.
      images_per_step: global batch size, for the throughput.
      steps_per_epoch: for the epoch axis of the curves.
      losses: training metrics that must stay finite, shown with the progress.
      evaluation: `split` of the lines of `evaluate` in metrics.jsonl.
      facts: further information about the run by name, recorded in environment.json.
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
    task: Task,
    schedule: LoopSchedule,
    workdir: str | Path,
    *,
    keep_checkpoints: int = 2,
    seconds_apart: float = 0.0,
    tensorboard: bool = True,
    profile: int = 0,
) -> dict[str, Any] | None:
    """Trains to the end of the schedule, resuming from the newest checkpoint if there is one.

    A run that was killed and resumed ends with the same state as an uninterrupted one, bit for bit on CPU. The same
    holds after SIGTERM or SIGINT, which finish the current dispatch, abandon a running evaluation, and save.

    Args:
      task: the task to train.
      schedule: when to evaluate and save.
      workdir: run directory, locked by this process.
      keep_checkpoints: number of checkpoints to keep for resuming, besides the best one; at least 1.
      seconds_apart: least time between two of those, but for the last one.
      tensorboard: also write TensorBoard events.
      profile: number of dispatches to trace, after a warm-up; 0 for none.

    Returns:
      The best evaluation, {"step": ..., "value": ..., "metric": ...}, or None if the task has no best metric.

    Raises:
      Diverged: a loss is not finite; the metrics of that step are in metrics.jsonl.
      Stopped: a signal arrived; a checkpoint of the last step was saved.
    """
    workdir = Path(workdir)
    # The best checkpoint may be newer: it is written first, and the run may have been killed in between.
    restored = hosts.on_first_host(
        lambda: checkpoints.restore(workdir / CHECKPOINTS, task.state, more=[workdir / BEST])
    )
    step, best, is_evaluation_due = 0, None, False
    if restored:
        step, best = restored.step, restored.notes["best"]
        is_evaluation_due = restored.notes.get(EVALUATION_DUE, False)

    trace = instruments.Trace(workdir, profile if hosts.is_first_host() else 0)
    if step >= schedule.num_train_steps and not is_evaluation_due:
        if hosts.is_first_host() and not checkpoints.is_undamaged(workdir / CHECKPOINTS / str(step)):
            checkpoints.save(workdir / CHECKPOINTS, step, restored.state, {"best": best}, keep_checkpoints)
        trace.close()
        return best
    if restored:
        log.info("resuming at step %d", step)
        best = hosts.on_first_host(lambda: _existing(best, workdir / BEST))
    state = parallel.replicate(restored.state if restored else task.state)
    writer: MetricWriter | NoMetricWriter = NoMetricWriter()
    if hosts.is_first_host():
        writer = MetricWriter(workdir, step, tensorboard, again=task.evaluation if is_evaluation_due else None)
    progress = Progress("train", schedule.num_train_steps, step, task.images_per_step)
    stream = task.batches(step)
    clock, checkpoint_seconds = instruments.Clock(schedule.steps_per_dispatch, task.images_per_step), 0.0
    last_save = time.monotonic()

    def record(first: int, last: int, outputs: Any) -> None:
        """Waits for the metrics of the steps from `first` to `last` and writes their line."""
        nonlocal checkpoint_seconds
        metrics = {name: np.asarray(value) for name, value in parallel.unreplicate(outputs).items()}
        clock.stop()
        _stop_if_not_finite(metrics, task.losses, first, writer)
        line = {name: float(value.mean()) for name, value in metrics.items()} | clock.line()
        line["learning_rate"] = float(metrics["learning_rate"][-1])
        line["checkpoint_seconds"], checkpoint_seconds = checkpoint_seconds, 0.0
        writer.write(last, "train", {"epoch": last / task.steps_per_epoch, **line, **instruments.memory()})
        losses_text = ", ".join(f"{name.replace('_', ' ')} {line[name]:.4f}" for name in task.losses)
        progress.update(last, losses_text + _best_text(best))

    unread: tuple[int, int, Any] | None = None  # metrics of the last dispatch, which may still run
    try:
        with CheckpointWriter() as checkpoint_writer, stopping.deferred() as request:
            batches = next(stream) if step < schedule.num_train_steps else None
            while True:
                must_stop = hosts.any_host(request.arrived)
                is_saving_due = bool(step) and (must_stop or _saves(schedule, step, last_save, seconds_apart))
                if unread and (is_evaluation_due or is_saving_due):
                    # Nothing is evaluated or saved after a loss that is not finite, or without its line.
                    record(*unread)
                    unread = None
                if is_evaluation_due and not must_stop:
                    try:
                        with clock.apart():
                            best = _evaluate(task, state, step, best, workdir, writer, checkpoint_writer, request)
                        is_evaluation_due = False
                    except stopping.Stopped:
                        must_stop = True
                if step and (is_saving_due or must_stop):
                    notes = {"best": best} | ({EVALUATION_DUE: True} if is_evaluation_due else {})
                    # Logged with the next line: a line written after the checkpoint could be lost if the run is killed.
                    checkpoint_seconds = checkpoint_writer.save(
                        workdir / CHECKPOINTS, step, state, notes, keep_checkpoints, schedule.saves_at
                    )
                    last_save = time.monotonic()
                if must_stop:
                    checkpoint_writer.wait()
                    raise stopping.Stopped(f"at step {step} of {schedule.num_train_steps} in {workdir}")
                if step >= schedule.num_train_steps:
                    return best
                trace.before_dispatch()
                clock.start()
                state, metrics = task.dispatch(state, batches)
                first, step = step, step + schedule.steps_per_dispatch
                if step < schedule.num_train_steps:
                    # While the devices compute.
                    batches = clock.fetch(stream, metrics[task.losses[0]])
                if unread:
                    record(*unread)  # one dispatch late, so that the devices need not wait for the host
                unread = (first, step, metrics)
                is_evaluation_due = schedule.evaluates_at(step)
    finally:
        trace.close()
        progress.close()
        writer.close()


def _evaluate(
    task: Task,
    state: Any,
    step: int,
    best: dict[str, Any] | None,
    workdir: Path,
    writer: MetricWriter | NoMetricWriter,
    checkpoint_writer: CheckpointWriter,
    request: stopping.StopRequest,
) -> dict[str, Any] | None:
    """Evaluates, logs the metrics, saves the state if it is the best, and returns the best evaluation so far.

    Raises:
      Stopped: a signal arrived during the evaluation; nothing was written.
    """
    started = time.perf_counter()
    # With several hosts, one that stops in an evaluation would block the others in a collective.
    with request.interruptible() if hosts.is_only_host() else contextlib.nullcontext():
        values = task.evaluate(state)
    seconds = time.perf_counter() - started
    writer.write(step, task.evaluation, {"epoch": step / task.steps_per_epoch, **values, "seconds": seconds})
    names = values if task.best_metric is None else [task.best_metric]
    figures = ", ".join(f"{name} {values[name]:.4f}" for name in names)
    log.info("step %d: %s %s in %.1f s", step, task.evaluation, figures, seconds)
    if task.best_metric is None or (best is not None and not values[task.best_metric] > best["value"]):
        return best
    best = {"step": step, "value": values[task.best_metric], "metric": task.best_metric}
    checkpoint_writer.save(workdir / BEST, step, state, {"best": best}, keep=1)
    return best


def _existing(best: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """Returns the best evaluation so far, or None if its checkpoint is missing: the next one must be saved."""
    if best is None or checkpoints.is_undamaged(folder / str(best["step"])):
        return best
    log.warning("%s is gone or damaged; the next evaluation counts as the best so far", folder / str(best["step"]))
    return None


def _saves(schedule: LoopSchedule, step: int, last_save: float, seconds_apart: float) -> bool:
    """Whether to save after the step: where the schedule says so, long enough after the last time or at the end."""
    if not schedule.saves_at(step) or step >= schedule.num_train_steps:
        return schedule.saves_at(step)
    # The clocks of hosts differ.
    return hosts.any_host(hosts.is_first_host() and time.monotonic() - last_save >= seconds_apart)


def _best_text(best: dict[str, Any] | None) -> str:
    return f", best {best['metric']} {best['value']:.4f} at {best['step']}" if best else ""


def _stop_if_not_finite(
    metrics: dict[str, np.ndarray], losses: Sequence[str], first_step: int, writer: MetricWriter | NoMetricWriter
) -> None:
    bad = np.flatnonzero(~np.isfinite(np.sum([metrics[name] for name in losses], axis=0)))
    if len(bad):
        step = first_step + int(bad[0]) + 1
        values = {name: float(value[bad[0]]) for name, value in metrics.items()}
        writer.write(step, "diverged", {name: repr(value) for name, value in values.items()})
        figures = ", ".join(f"{name}={value:g}" for name, value in values.items())
        raise Diverged(
            f"{' or '.join(losses)} is not finite at step {step} ({figures}); lower "
            "config.optimizer.learning_rate or set clip_norm"
        )
