"""A task with a scalar parameter for the training loop, which can raise at a step, and a comparison of two runs."""

import json

import jax
import numpy as np

from dim_jax.training import checkpoints, loop, parallel


class Killed(Exception):
    pass


def make_task(validation=lambda step: -abs(step - 6.0), die_at=None, die_in="batches", loss=lambda step: 1.0):
    """A task whose parameter accumulates the numbers in the batches; it raises Killed at step `die_at`."""

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


def assert_ends_alike(cut, whole):
    """Asserts equal states, notes, checkpoints and lines of metrics."""
    assert checkpoints.steps(cut / loop.CHECKPOINTS) == checkpoints.steps(whole / loop.CHECKPOINTS)
    for folder in (loop.CHECKPOINTS, loop.BEST):
        ours, theirs = (checkpoints.restore(root / folder) for root in (cut, whole))
        assert (ours.step, ours.notes) == (theirs.step, theirs.notes)
        for our, their in zip(jax.tree.leaves(ours.state), jax.tree.leaves(theirs.state), strict=True):
            np.testing.assert_array_equal(our, their)
    assert lines(cut) == lines(whole)
    assert not list(cut.rglob("*.tmp"))


SCHEDULE = loop.LoopSchedule(steps_per_dispatch=2, num_train_steps=12, eval_every=6, checkpoint_every=4)
LONG_SCHEDULE = loop.LoopSchedule(steps_per_dispatch=2, num_train_steps=60, eval_every=6, checkpoint_every=4)
MEASURED = ("seconds", "checkpoint_seconds", "images_per_second", "data_wait_share", "overhead_share", "host_bytes",
            "device_")  # fmt: skip


def fit(workdir, task, schedule=SCHEDULE):
    return loop.fit(task, schedule, workdir, tensorboard=False)


def lines(workdir):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(MEASURED)} for line in records]
