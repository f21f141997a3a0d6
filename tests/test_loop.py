"""The loop on a task of a few numbers: schedule, best checkpoint, resume, divergence."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dim_jax import checkpoints, loop, parallel
from dim_jax.writers import MetricWriter


class Killed(Exception):
    pass


def make_task(validation=lambda step: -abs(step - 6.0), die_at=None, die_in="batches", loss=lambda step: 1.0):
    """A task whose parameter adds up the batches' numbers; it can die at a step."""

    def train_step(state, batch, constants, pixels):
        total = state["w"] * 0.5 + batch["x"].sum()
        step = state["step"] + 1
        metrics = {"loss": batch["loss"].sum(), "learning_rate": 0.1 * step}
        return {"w": total, "step": step}, metrics

    dispatch = parallel.pmap_train_step(train_step)

    def batches(start):
        for step in range(start, 1000, 2):
            if die_in == "batches" and die_at is not None and step >= die_at:
                raise Killed
            rows = [
                {
                    "x": np.full(8, np.sin(s), np.float32),
                    "loss": np.full(8, loss(s + 1), np.float32),
                    "label": np.zeros(8, np.int32),
                }
                for s in (step, step + 1)
            ]
            yield parallel.shard_steps(rows)

    def evaluate(state):
        step = int(parallel.unreplicate(state["step"]))
        if die_in == "evaluate" and die_at is not None and step >= die_at:
            raise Killed
        return {"score": float(validation(step)), "loss": 0.5}

    return loop.Task(
        state={"w": np.float32(0), "step": np.int32(0)},
        dispatch=lambda state, batches: dispatch(state, batches, (), None),
        batches=batches,
        evaluate=evaluate,
        best_metric="score",
        images_per_step=8,
        steps_per_epoch=5.0,
    )


SCHEDULE = loop.Schedule(steps_per_dispatch=2, num_train_steps=12, eval_every=6, checkpoint_every=4)
TIMES = ("seconds", "checkpoint_seconds", "seconds_per_step", "images_per_second", "data_wait_share")


def fit(workdir, task, schedule=SCHEDULE):
    return loop.fit(task, schedule, workdir, tensorboard=False)


def lines(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


def test_one_line_per_dispatch_and_per_evaluation_in_order(tmp_path):
    fit(tmp_path, make_task())
    found = lines(tmp_path)
    assert [line["step"] for line in found if line["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in found if line["split"] == "val"] == [6, 12]
    assert found[0]["epoch"] == pytest.approx(0.4) and found[0]["learning_rate"] == pytest.approx(0.2)


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
def test_a_run_that_died_and_resumed_ends_as_one_that_did_not(tmp_path, die_in, die_at):
    best = fit(tmp_path / "whole", make_task())
    with pytest.raises(Killed):
        fit(tmp_path / "cut", make_task(die_at=die_at, die_in=die_in))
    assert fit(tmp_path / "cut", make_task()) == best
    whole, cut = (checkpoints.restore(tmp_path / name / loop.CHECKPOINTS) for name in ("whole", "cut"))
    assert cut.notes == whole.notes and cut.step == whole.step == 12
    for ours, theirs in zip(jax.tree.leaves(cut.state), jax.tree.leaves(whole.state), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert not list((tmp_path / "cut").rglob("*.tmp")) and not list((tmp_path / "cut").rglob(".writing-*"))


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
    schedule = loop.Schedule.in_dispatches(8, num_train_steps=100.5, eval_every=3.2, checkpoint_every=16)
    assert schedule == loop.Schedule(8, 104, 8, 16)
    with pytest.raises(ValueError, match="eval_every"):
        loop.Schedule.in_dispatches(8, num_train_steps=100, eval_every=0, checkpoint_every=1)


def test_the_first_dispatch_is_not_timed_because_it_compiles(tmp_path):
    fit(tmp_path, make_task())
    train = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    timed = [line["seconds_per_step"] for line in train if line["split"] == "train"]
    assert timed[0] is None and all(seconds > 0 for seconds in timed[1:])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    fit(tmp_path, make_task())
    other = dataclasses.replace(make_task(), state={"w": jnp.zeros(3), "step": np.int32(0)})
    with pytest.raises(ValueError, match="does not fit this model"):
        fit(tmp_path, other, loop.Schedule(2, 24, 6, 4))


def test_metric_lines_after_the_resumed_step_are_written_again_not_twice(tmp_path):
    writer = MetricWriter(tmp_path, 0, tensorboard=False)
    for step in (2, 4, 6):
        writer.write(step, "train", {"loss": 1.0})
    writer.close()
    MetricWriter(tmp_path, 4, tensorboard=False).close()
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]
