"""Runs interrupted at random times resume and end like an uninterrupted one."""

import kill_runs
import pytest


def test_a_classifier_that_is_killed_and_stopped_ends_like_one_that_is_not(tmp_path):
    hit = kill_runs.kill(["classifier"], tmp_path, kills=1, stops=1, seed=0)
    assert sum(hit.values()) == 2


@pytest.mark.slow
def test_thirty_kills_of_classifiers_gans_and_experiments_change_nothing(tmp_path):
    hit = kill_runs.kill(list(kill_runs.WORK), tmp_path, kills=30, stops=6, seed=0)
    assert sum(count for key, count in hit.items() if "SIGKILL" in key) == 30
