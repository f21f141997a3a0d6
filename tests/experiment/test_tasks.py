"""The tasks of an experiment that machines can share."""

from pathlib import Path

import pytest

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.experiment import arms as arms_of
from dim_jax.experiment import plan, stages, tasks
from dim_jax.experiment.conductor import sources_of
from dim_jax.experiment.tasks import CHOICE, DATA, IMAGES, RESULTS, RUN, Task
from dim_jax.runs import config_flags
from dim_jax.runs.configuration import parse_config

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'experiment.py'}"


def listed(variant, *options):
    """The tasks of a variant by what each needs, and its experiment."""
    config = parse_config(config_flags.parse_flags([f"{CONFIG}:{variant}", "--workdir=runs/none", *options])[0])
    arms = arms_of.read_arms(config)
    (experiment,) = stages.unopened(config, arms, Path("runs/none"), sources_of(config))
    return tasks.list_tasks([experiment], arms_of.chosen_names(config, arms)), experiment


def table(text):
    """The rows of a list of tasks by the names of its columns."""
    names, *rows = [line.split(maxsplit=4) for line in text.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("variant", ["test", "recipe,test", "linear", "sensitivity", "paper"])
def test_the_tasks_train_every_run_of_the_plan_and_follow_what_they_need(variant):
    found, experiment = listed(variant, "--config.data.path=phantom")
    done = set()
    for task, needs in found.items():
        assert done.issuperset(needs), task
        done.add(task)
    names = arms_of.chosen_names(experiment.config, experiment.arms)
    seeds = experiment.config.seeds
    planned = plan.runs(experiment.arms, names, plan.folds_of(experiment.config), seeds)
    assert done.issuperset(tasks.task_of(experiment, run) for run in planned)
    first, *_, last = found
    assert first == Task(DATA) and last == Task(RESULTS) and set(found[last]) == done - {last}


def test_a_run_with_generated_images_needs_the_generator_and_that_the_network_that_judges_its_images():
    found, _ = listed("test")
    images, judge = Task(IMAGES, "phantom", 1, "gcgan"), Task(RUN, "phantom", 1, "cross_entropy", 0)
    assert set(found[Task(RUN, "phantom", 1, "dim", 0)]) == {Task(DATA), images}
    assert set(found[images]) == {Task(DATA), judge}
    numbers = tasks.stages_of(found)
    assert [numbers[task] for task in (Task(DATA), judge, images, Task(RESULTS))] == [0, 1, 2, 4]


def test_images_that_are_not_selected_need_no_network_to_judge_them():
    found, _ = listed("test", "--config.only=unselected_30")
    assert found[Task(IMAGES, "phantom", 0, "gcgan")] == (Task(DATA),)
    assert Task(RUN, "phantom", 0, "cross_entropy", 0) not in found


def test_a_run_needs_what_it_starts_from_and_a_choice_the_candidates_of_all_folds():
    found, _ = listed("recipe,test", "--config.seeds=(0, 1)")
    base, head = (Task(RUN, "phantom", 1, name, 0) for name in ("base", "crt"))
    assert base in found[head]
    choice = Task(CHOICE, "phantom", 1, "chosen", 1)
    candidates = {Task(RUN, "phantom", fold, name, 0) for fold in (0, 1) for name in ("base", "crt")}
    assert candidates < set(found[choice])
    # Those of the ensemble and with adjustment choose the same.
    assert [task for task in found if task.kind == CHOICE] == [Task(CHOICE, "phantom", 0, "chosen", 1), choice]


def test_the_list_is_a_table_of_a_line_per_task_and_nothing_is_written(tmp_path, capsys):
    assert command_line.run(train.main, [f"{CONFIG}:test", f"--workdir={tmp_path / 'dim'}", "--list-tasks"]) == 0
    rows = table(capsys.readouterr().out)
    assert [int(row["task"]) for row in rows] == list(range(8))
    assert [row["what"] for row in rows[:3]] == [
        "data", "run phantom fold0 cross_entropy seed0", "images phantom fold0 gcgan",
    ]  # fmt: skip
    assert [row["needs"] for row in rows] == ["-", "0", "0,1", "0,2", "0", "0,4", "0,5", "all"]
    assert {row["seconds"] for row in rows} == {"-"}
    assert not list(tmp_path.iterdir())


def test_with_a_dry_run_the_seconds_of_what_is_trained_are_estimated(tmp_path, capsys):
    options = ["--list-tasks", "--dry-run", "--config.only=cross_entropy"]
    assert command_line.run(train.main, [f"{CONFIG}:test", f"--workdir={tmp_path / 'dim'}", *options]) == 0
    rows = table(capsys.readouterr().out)
    assert [row["what"].split()[0] for row in rows if row["seconds"] == "-"] == ["data", "results"]
    assert all(0 < float(row["seconds"]) < 600 for row in rows if row["seconds"] != "-") and len(rows) == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "config, options, error",
    [
        ("experiment.py:test", ["--task=8"], "the tasks are 0 to 7"),
        ("experiment.py:test", ["--task=-1"], "--task"),
        ("experiment.py:test", ["--task=1", "--dry-run"], "does not go with --dry-run"),
        ("experiment.py:test", ["--task=1", "--list-tasks"], "does not go with --task=1"),
        ("experiment.py:test", ["--task=1", "--data-root=."], "does not go with --data-root"),
        ("classifier.py:test", ["--task=1"], "--task=1 is for experiments"),
        ("gan.py:test", ["--list-tasks"], "--list-tasks is for experiments"),
    ],
)
def test_other_numbers_and_options_are_refused_in_one_line(config, options, error, tmp_path, capsys):
    path = CONFIG.replace("experiment.py", config)
    assert command_line.run(train.main, [path, f"--workdir={tmp_path / 'run'}", *options]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and error in said[0]
    assert not list(tmp_path.iterdir())
