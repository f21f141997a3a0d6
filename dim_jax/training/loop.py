"""The one training loop: restore, step, log, evaluate, keep the best, save. A trainer supplies the parts."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.cli import stopping
from dim_jax.cli.progress import Progress
from dim_jax.training import checkpoints, hosts, instruments, parallel
from dim_jax.training.writers import MetricWriter, NoMetricWriter

CHECKPOINTS = "checkpoints"
BEST = "best"
EVALUATION_DUE = "evaluation_due"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSchedule:
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
    def in_dispatches(cls, steps_per_dispatch: int, **durations: float) -> "LoopSchedule":
        """Rounds durations in steps up to whole dispatches.

        Raises:
          ValueError: one of them is not above 0.
        """
        for name, value in {"steps_per_dispatch": steps_per_dispatch, **durations}.items():
            if not value > 0:
                raise ValueError(f"{name} comes to {value} steps; it must be above 0")
        steps = {name: int(-(-value // steps_per_dispatch)) * steps_per_dispatch for name, value in durations.items()}
        return cls(steps_per_dispatch=steps_per_dispatch, **steps)

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation follows the step."""
        return step % self.eval_every == 0 or step >= self.num_train_steps

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint follows the step."""
        return step % self.checkpoint_every == 0 or step >= self.num_train_steps


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
    task: Task,
    schedule: LoopSchedule,
    workdir: str | Path,
    *,
    keep_checkpoints: int = 2,
    tensorboard: bool = True,
    profile: int = 0,
) -> dict[str, Any] | None:
    """Trains to the end of the schedule, from the newest checkpoint if there is one.

    A run that was killed and started again ends with the same state as one that was not, bit for bit on CPU. So does
    one that SIGTERM or SIGINT asked to stop: it finishes the dispatch, but not an evaluation, and saves.

    Args:
      task: what to train.
      schedule: when to evaluate and save.
      workdir: run directory, held by this process.
      keep_checkpoints: how many checkpoints to keep for resuming, beside the best one.
      tensorboard: write TensorBoard events too.
      profile: how many dispatches to write a trace of, after the first ones.

    Returns:
      The best evaluation: {"step": ..., "value": ..., "metric": ...}; None where the task names no best metric.

    Raises:
      FloatingPointError: a loss is no longer finite; the metrics of that step are in metrics.jsonl.
      Stopped: a signal asked for it; there is a checkpoint of the last step.
    """
    workdir = Path(workdir)
    # The best one is as good to go on from, and newer where the run was killed before the checkpoint that follows it.
    restored = hosts.on_first_host(
        lambda: checkpoints.restore(workdir / CHECKPOINTS, task.state, more=[workdir / BEST])
    )
    step, best, is_due = 0, None, False
    if restored:
        step, best = restored.step, restored.notes["best"]
        is_due = restored.notes.get(EVALUATION_DUE, False)

    def save(state: Any) -> float:
        notes, started = {"best": best} | ({EVALUATION_DUE: True} if is_due else {}), time.perf_counter()
        _save(workdir / CHECKPOINTS, step, state, notes, keep_checkpoints, schedule.saves_at)
        seconds = time.perf_counter() - started
        log.info("step %d: checkpoint in %.1f s", step, seconds)
        return seconds

    trace = instruments.Trace(workdir, profile if hosts.is_first_host() else 0)
    if step >= schedule.num_train_steps and not is_due:
        if not checkpoints.is_whole(workdir / CHECKPOINTS / str(step)):
            save(restored.state)
        trace.close()
        return best
    if restored:
        log.info("resuming at step %d", step)
        best = hosts.on_first_host(lambda: _still_there(best, workdir / BEST))
    state = parallel.replicate(restored.state if restored else task.state)
    writer = NoMetricWriter()
    if hosts.is_first_host():
        writer = MetricWriter(workdir, step, tensorboard, again=task.evaluation if is_due else None)
    progress = Progress("train", schedule.num_train_steps, step, task.images_per_step)
    stream = task.batches(step)
    clock, checkpoint_seconds = instruments.Clock(schedule.steps_per_dispatch, task.images_per_step), 0.0
    try:
        with stopping.deferred() as request:
            batches = next(stream) if step < schedule.num_train_steps else None
            while True:
                must_stop = hosts.any_host(request.arrived)
                if is_due and not must_stop:
                    try:
                        best, is_due = _evaluate(task, state, step, best, workdir, writer, request), False
                    except stopping.Stopped:
                        must_stop = True
                if step and (schedule.saves_at(step) or must_stop):
                    # Told on the next line: one written after the checkpoint could be missing in a run that was killed.
                    checkpoint_seconds = save(parallel.unreplicate(state))
                if must_stop:
                    raise stopping.Stopped(f"at step {step} of {schedule.num_train_steps} in {workdir}")
                if step >= schedule.num_train_steps:
                    return best
                trace.before_dispatch()
                clock.start()
                state, metrics = task.dispatch(state, batches)
                first, step = step, step + schedule.steps_per_dispatch
                if step < schedule.num_train_steps:
                    # Meanwhile the devices work.
                    batches = clock.fetch(stream, metrics[task.losses[0]])
                metrics = {name: np.asarray(value) for name, value in parallel.unreplicate(metrics).items()}
                clock.stop()
                _stop_if_not_finite(metrics, task.losses, first, writer)
                line = {name: float(value.mean()) for name, value in metrics.items()} | clock.line()
                line["learning_rate"] = float(metrics["learning_rate"][-1])
                line["checkpoint_seconds"], checkpoint_seconds = checkpoint_seconds, 0.0
                writer.write(step, "train", {"epoch": step / task.steps_per_epoch, **line, **instruments.memory()})
                shown = ", ".join(f"{name.replace('_', ' ')} {line[name]:.4f}" for name in task.losses)
                progress.update(step, shown + _best_text(best))
                is_due = schedule.evaluates_at(step)
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
    writer: MetricWriter,
    request: stopping.StopRequest,
) -> dict[str, Any] | None:
    """Evaluates, writes the line, keeps the state if it is the best, and returns the best evaluation so far.

    Raises:
      Stopped: a signal came before the evaluation was done; nothing was written.
    """
    started = time.perf_counter()
    # Hosts that evaluate together must not leave one another alone in it.
    with request.interruptible() if hosts.is_only_host() else contextlib.nullcontext():
        values = task.evaluate(state)
    seconds = time.perf_counter() - started
    writer.write(step, task.evaluation, {"epoch": step / task.steps_per_epoch, **values, "seconds": seconds})
    shown = values if task.best_metric is None else [task.best_metric]
    figures = ", ".join(f"{name} {values[name]:.4f}" for name in shown)
    log.info("step %d: %s %s in %.1f s", step, task.evaluation, figures, seconds)
    if task.best_metric is None or (best is not None and not values[task.best_metric] > best["value"]):
        return best
    best = {"step": step, "value": values[task.best_metric], "metric": task.best_metric}
    _save(workdir / BEST, step, parallel.unreplicate(state), {"best": best}, keep=1)
    return best


def _still_there(best: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """Returns the best evaluation so far, or None where its checkpoint is gone: the next one must be kept."""
    if best is None or checkpoints.is_whole(folder / str(best["step"])):
        return best
    log.warning("%s is gone or damaged; the next evaluation counts as the best so far", folder / str(best["step"]))
    return None


def _save(*arguments: Any, **options: Any) -> None:
    """Does checkpoints.save on host 0, which alone writes."""
    if hosts.is_first_host():
        checkpoints.save(*arguments, **options)


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
