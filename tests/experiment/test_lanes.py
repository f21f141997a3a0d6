"""Claims by which several processes share the runs of an experiment."""

import threading
import types

from dim_jax.cli.errors import Diverged
from dim_jax.experiment import arms, conductor, lanes, plan


def test_a_claimed_folder_is_not_free_until_it_is_released(tmp_path):
    folder, order = tmp_path / "runs" / "seed0", []

    def next_in_line():
        with lanes.claim(folder, wait=True) as is_free:
            order.append(is_free)

    with lanes.claim(folder) as first:
        with lanes.claim(folder) as second, lanes.claim(tmp_path / "runs" / "seed1") as other:
            assert (first, second, other) == (True, False, True)
        waiting = threading.Thread(target=next_in_line)
        waiting.start()
        waiting.join(0.2)
        assert not order
    waiting.join()
    assert order == [True] and not folder.exists()


def test_runs_of_another_process_are_left_to_it_and_those_that_follow_from_a_choice_are_made():
    first, second, later = runs = [plan.PlannedRun(arms.Arm("a", "a"), fold, 0) for fold in range(3)]
    made, finished = [], set()

    def train_if_free(run):
        if run == first and not finished:
            return False
        made.append(run)
        if run == later:
            raise Diverged("loss is not finite")
        finished.add(run)
        return True

    experiment = types.SimpleNamespace(
        site=types.SimpleNamespace(name="set"),
        archived=lambda run: run if run in finished else None,
        train_if_free=train_if_free,
        wait_for=finished.add,  # the other process finishes it
    )
    diverged = conductor._train_runs([experiment], lambda _: runs if first in finished else runs[:2])
    assert made == [second, later]
    assert diverged == ["set, fold 2, seed 0, a: loss is not finite"]
