"""The training loop on a tiny task: schedule, best checkpoint, resuming, divergence."""

import dataclasses
import gzip
import json
import logging
import os
import shutil
import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from toy_task import SCHEDULE, Killed, assert_ends_alike, fit, lines, make_task

from dim_jax.cli import stopping
from dim_jax.training import checkpoints, instruments, loop, parallel
from dim_jax.training.writers import MetricWriter


def test_one_line_per_dispatch_and_per_evaluation_in_order(tmp_path):
    fit(tmp_path, make_task())
    records = lines(tmp_path)
    assert [line["step"] for line in records if line["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in records if line["split"] == "val"] == [6, 12]
    assert records[0]["epoch"] == pytest.approx(0.4) and records[0]["learning_rate"] == pytest.approx(0.2)


def test_metrics_are_read_while_the_next_dispatch_runs_unless_an_evaluation_or_a_checkpoint_is_due(
    tmp_path, monkeypatch
):
    task, events, write = make_task(), [], MetricWriter.write

    def dispatch(state, batches):
        events.append("dispatch")
        return task.dispatch(state, batches)

    def written(self, step, split, values):
        events.append(f"{split} {step}")
        write(self, step, split, values)

    monkeypatch.setattr(MetricWriter, "write", written)
    fit(tmp_path, dataclasses.replace(task, dispatch=dispatch))
    assert events == [
        "dispatch", "dispatch", "train 2", "train 4", "dispatch", "train 6", "val 6", "dispatch", "train 8", "dispatch",
        "dispatch", "train 10", "train 12", "val 12",
    ]  # fmt: skip


def test_overhead_is_the_time_between_dispatches_without_evaluations(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(instruments.time, "perf_counter", lambda: now[0])
    clock, shares = instruments.Clock(2, 8), []

    def dispatch(seconds):
        clock.start()
        now[0] += seconds
        clock.stop()
        shares.append(clock.line()["overhead_share"])

    dispatch(60.0)  # with the compilation
    now[0] += 5.0
    dispatch(4.0)
    now[0] += 1.0  # a checkpoint
    with clock.apart():
        now[0] += 30.0
    dispatch(5.0)
    assert shares == [None, 0.0, pytest.approx(0.1)]


def test_the_best_checkpoint_is_the_best_evaluation_not_the_last(tmp_path):
    best = fit(tmp_path, make_task())
    assert best == {"step": 6, "value": 0.0, "metric": "score"}
    assert checkpoints.steps(tmp_path / loop.BEST) == [6]
    assert int(checkpoints.restore(tmp_path / loop.BEST).state["step"]) == 6
    assert checkpoints.steps(tmp_path / loop.CHECKPOINTS) == [8, 12]


@pytest.mark.parametrize(
    ("die_in", "die_at"),
    [("batches", 2), ("batches", 6), ("batches", 8), ("batches", 10), ("evaluate", 6), ("evaluate", 12)],
)
def test_a_killed_and_resumed_run_ends_like_an_uninterrupted_one(tmp_path, die_in, die_at):
    best = fit(tmp_path / "whole", make_task())
    with pytest.raises(Killed):
        fit(tmp_path / "cut", make_task(die_at=die_at, die_in=die_in))
    assert fit(tmp_path / "cut", make_task()) == best
    assert_ends_alike(tmp_path / "cut", tmp_path / "whole")


def signalled(task, number, at_step, where):
    """The task, which receives a signal during the dispatch or evaluation that ends at a step."""

    def after_dispatch(state, batches):
        before = int(parallel.unreplicate(state["step"]))
        outputs = task.dispatch(state, batches)
        if where == "dispatch" and before + 2 == at_step:
            os.kill(os.getpid(), number)
        return outputs

    def in_evaluation(state):
        values = task.evaluate(state)
        if where == "evaluation" and int(parallel.unreplicate(state["step"])) == at_step:
            os.kill(os.getpid(), number)
        return values

    return dataclasses.replace(task, dispatch=after_dispatch, evaluate=in_evaluation)


@pytest.mark.parametrize("number", stopping.SIGNALS)
@pytest.mark.parametrize(
    ("where", "at_step"),
    [("dispatch", 2), ("dispatch", 6), ("dispatch", 10), ("dispatch", 12), ("evaluation", 6), ("evaluation", 12)],
)
def test_a_run_stopped_by_a_signal_resumes_at_that_step(tmp_path, number, where, at_step):
    before = signal.getsignal(number)
    best = fit(tmp_path / "whole", make_task())
    with pytest.raises(stopping.Stopped, match=f"at step {at_step} of 12"):
        fit(tmp_path / "cut", signalled(make_task(), number, at_step, where))
    assert checkpoints.steps(tmp_path / "cut" / loop.CHECKPOINTS)[-1] == at_step
    assert signal.getsignal(number) is before
    trained = []
    task = make_task()
    again = dataclasses.replace(task, batches=lambda start: trained.append(start) or task.batches(start))
    assert fit(tmp_path / "cut", again) == best
    assert trained == [at_step]
    assert_ends_alike(tmp_path / "cut", tmp_path / "whole")


def test_an_evaluation_interrupted_twice_is_logged_once(tmp_path):
    best = fit(tmp_path / "whole", make_task())
    for _ in range(2):
        with pytest.raises(stopping.Stopped):
            fit(tmp_path / "cut", signalled(make_task(), signal.SIGTERM, 6, "evaluation"))
    # Its line is written, and then the run is killed before its checkpoint is.
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoints, "save", lambda *_, **__: (_ for _ in ()).throw(Killed))
        fit(tmp_path / "cut", make_task())
    assert [line["step"] for line in lines(tmp_path / "cut") if line["split"] == "val"] == [6]
    assert fit(tmp_path / "cut", make_task()) == best
    assert_ends_alike(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("score_of_the_rerun", [-10.0, 10.0])
def test_a_run_killed_after_its_best_checkpoint_resumes_there_without_evaluating_it_again(
    tmp_path, monkeypatch, score_of_the_rerun
):
    """On a GPU a repeated evaluation differs; best/ and the notes of later checkpoints must come from the same one."""
    schedule = loop.LoopSchedule(steps_per_dispatch=2, num_train_steps=12, eval_every=6, checkpoint_every=8)
    with pytest.raises(Killed):
        fit(tmp_path, make_task(die_at=8), schedule)
    assert not checkpoints.steps(tmp_path / loop.CHECKPOINTS) and checkpoints.steps(tmp_path / loop.BEST) == [6]
    best = fit(tmp_path, make_task(validation=lambda step: -1.0 if step > 6 else score_of_the_rerun), schedule)
    assert best == checkpoints.restore(tmp_path / loop.BEST).notes["best"] == {
        "step": 6, "value": 0.0, "metric": "score",
    }  # fmt: skip
    assert checkpoints.restore(tmp_path / loop.CHECKPOINTS).notes["best"] == best


def test_a_run_killed_between_its_best_and_its_last_checkpoint_writes_the_last_one(tmp_path):
    task = make_task(validation=float)
    best = fit(tmp_path, task)
    shutil.rmtree(tmp_path / loop.CHECKPOINTS / "12")
    assert fit(tmp_path, make_task(validation=float, die_at=0)) == best
    assert checkpoints.restore(tmp_path / loop.CHECKPOINTS).step == 12


def test_after_damage_to_the_best_checkpoint_the_next_evaluation_is_saved_with_a_warning(tmp_path, caplog):
    with pytest.raises(Killed):
        fit(tmp_path, make_task(die_at=10))
    (tmp_path / loop.BEST / "6" / checkpoints.NOTES).write_text("{}")
    with caplog.at_level(logging.WARNING):
        best = fit(tmp_path, make_task())
    assert best["step"] == 12 and checkpoints.steps(tmp_path / loop.BEST) == [12]
    assert f"{tmp_path / loop.BEST / '6'} is gone or damaged" in caplog.text


def test_a_finished_run_does_nothing_more(tmp_path):
    best = fit(tmp_path, make_task())
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert fit(tmp_path, make_task(die_at=0)) == best
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run_with_that_steps_metrics(tmp_path):
    task = make_task(loss=lambda step: float("nan") if step >= 7 else 1.0)
    with pytest.raises(FloatingPointError, match=r"not finite at step 7 .*loss=nan"):
        fit(tmp_path, task)
    last = lines(tmp_path)[-1]
    assert last["split"] == "diverged" and last["step"] == 7 and last["loss"] == "nan"
    assert checkpoints.steps(tmp_path / loop.CHECKPOINTS) == [4]


def test_durations_are_rounded_up_to_whole_dispatches():
    schedule = loop.LoopSchedule.in_dispatches(8, num_train_steps=100.5, eval_every=3.2, checkpoint_every=16)
    assert schedule == loop.LoopSchedule(8, 104, 8, 16)
    with pytest.raises(ValueError, match="eval_every"):
        loop.LoopSchedule.in_dispatches(8, num_train_steps=100, eval_every=0, checkpoint_every=1)


def test_the_first_dispatch_is_not_timed_because_it_compiles(tmp_path):
    fit(tmp_path, make_task())
    train = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    timed = [line["seconds_per_step"] for line in train if line["split"] == "train"]
    assert timed[0] is None and all(seconds > 0 for seconds in timed[1:])


def test_every_line_has_percentiles_of_the_step_time_and_the_memory(tmp_path):
    fit(tmp_path, make_task())
    train = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, *others = [line for line in train if line["split"] == "train"]
    names = [f"seconds_per_step_p{percentile}" for percentile in (50, 90, 99)]
    assert [first[name] for name in names] == [None] * 3
    for number, line in enumerate(others, start=1):
        times = [other["seconds_per_step"] for other in others[:number]]
        np.testing.assert_allclose([line[name] for name in names], np.percentile(times, (50, 90, 99)))
        assert 1e7 < line["host_bytes"] < 1e12


def test_compilation_evaluations_and_checkpoints_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dim_jax"):
        fit(tmp_path, make_task())
    evaluations = ("step 6: val score -0.0000 in ", "step 12: val score -6.0000 in ")
    for message_start in ("first dispatch: ", *evaluations, *(f"step {step}: checkpoint in " for step in (4, 8, 12))):
        assert sum(message.startswith(message_start) for message in caplog.messages) == 1, message_start


def test_a_trace_of_some_dispatches_can_be_opened_and_its_path_is_logged(tmp_path, caplog):
    from dim_jax.training.instruments import PROFILE

    with caplog.at_level(logging.INFO, "dim_jax"):
        loop.fit(make_task(), SCHEDULE, tmp_path, tensorboard=False, profile=2)
    assert f"trace of 2 dispatches in {tmp_path / PROFILE}" in caplog.text
    (perfetto,) = (tmp_path / PROFILE).rglob("perfetto_trace.json.gz")
    assert json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]
    assert list((tmp_path / PROFILE).glob("plugins/profile/*/*.xplane.pb"))  # what TensorBoard reads
    loop.fit(make_task(), SCHEDULE, tmp_path, tensorboard=False, profile=2)
    assert "no trace: it begins after 2 dispatches, and 0 were left" in caplog.text


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    fit(tmp_path, make_task())
    other = dataclasses.replace(make_task(), state={"w": jnp.zeros(3), "step": np.int32(0)})
    with pytest.raises(ValueError, match="does not fit this model"):
        fit(tmp_path, other, loop.LoopSchedule(2, 24, 6, 4))


def test_metric_lines_after_the_resumed_step_are_written_again_not_twice(tmp_path):
    writer = MetricWriter(tmp_path, 0, tensorboard=False)
    for step in (2, 4, 6):
        writer.write(step, "train", {"loss": 1.0})
    writer.close()
    MetricWriter(tmp_path, 4, tensorboard=False).close()
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The first one is written no sooner than the next step begins."""
    next_step_begins, save = threading.Event(), checkpoints.save

    def slow(folder, step, *arguments):
        assert next_step_begins.wait(60), "training waits for its checkpoint"
        return save(folder, step, *arguments)

    task = make_task()

    def dispatch(state, batches):
        if int(parallel.unreplicate(state["step"])) >= 4:
            next_step_begins.set()
        return task.dispatch(state, batches)

    monkeypatch.setattr(checkpoints, "save", slow)
    fit(tmp_path / "slow", dataclasses.replace(task, dispatch=dispatch))
    monkeypatch.undo()
    fit(tmp_path / "quick", make_task())
    assert_ends_alike(tmp_path / "slow", tmp_path / "quick")


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_its_error(tmp_path, monkeypatch):
    def full(folder, step, *_):
        raise OSError(28, "No space left on device", str(folder))

    for stop_at in (None, 4):
        task = make_task() if stop_at is None else signalled(make_task(), signal.SIGTERM, stop_at, "evaluation")
        monkeypatch.setattr(checkpoints, "save", full)
        with pytest.raises(OSError, match="No space left"):
            fit(tmp_path / str(stop_at), task, loop.LoopSchedule(2, 12, 4, 4))


def test_checkpoints_are_apart_in_time_but_for_the_last_and_that_of_a_stop(tmp_path):
    def train(name, task):
        loop.fit(task, SCHEDULE, tmp_path / name, keep_checkpoints=9, seconds_apart=3600)

    train("whole", make_task())
    assert checkpoints.steps(tmp_path / "whole" / loop.CHECKPOINTS) == [12]
    with pytest.raises(stopping.Stopped):
        train("cut", signalled(make_task(), signal.SIGTERM, 6, "dispatch"))
    assert checkpoints.steps(tmp_path / "cut" / loop.CHECKPOINTS) == [6]
    train("cut", make_task())
    assert_ends_alike(tmp_path / "cut", tmp_path / "whole")
