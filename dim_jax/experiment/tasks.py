"""The tasks of an experiment, which machines can share, and what each of them needs.

The tasks follow from the configuration alone, so all machines number them alike before the data are prepared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dim_jax.experiment import composition, plan
from dim_jax.experiment.arms import Arm
from dim_jax.experiment.plan import PlannedRun
from dim_jax.experiment.stages import Experiment

DATA, IMAGES, RUN, CHOICE, RESULTS = "data", "images", "run", "choice", "results"
COLUMNS = ("task", "stage", "needs", "seconds", "what")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      kind: DATA prepares all datasets. IMAGES trains a generator of a fold, and generates and selects its images. RUN
        trains a classifier. CHOICE trains what a choice has chosen with a further seed. RESULTS computes the statistics
        and writes the page, and first does whatever the other tasks left.
      site: name of the dataset; "" for DATA and RESULTS.
      fold: index of the fold.
      name: generator of IMAGES, arm of RUN (it tunes nothing) or CHOICE.
      seed: of RUN and CHOICE.
    """

    kind: str
    site: str = ""
    fold: int = 0
    name: str = ""
    seed: int = 0

    def __str__(self) -> str:
        place = f" {self.site} fold{self.fold} {self.name}" if self.site else ""
        return f"{self.kind}{place}" + (f" seed{self.seed}" if self.kind in (RUN, CHOICE) else "")


def list_tasks(experiments: Sequence[Experiment], names: Sequence[str]) -> dict[Task, tuple[Task, ...]]:
    """Returns the tasks of an experiment, each with those that it needs, which are before it. RESULTS is the last.

    Args:
      experiments: one per dataset; their data need not be prepared.
      names: arms to train.
    """
    tasks: dict[Task, tuple[Task, ...]] = {Task(DATA): ()}
    for experiment in experiments:
        for task in _trained(experiment, names):
            _add(task, experiment, names, tasks)
    return tasks | {Task(RESULTS): tuple(tasks)}


def _add(task: Task, experiment: Experiment, names: Sequence[str], tasks: dict[Task, tuple[Task, ...]]) -> None:
    """Adds a task after those that it needs."""
    if task in tasks:
        return
    needs = _needs(task, experiment, names)
    for needed in needs:
        _add(needed, experiment, names, tasks)
    tasks[task] = (Task(DATA), *needs)


def _trained(experiment: Experiment, names: Sequence[str]) -> list[Task]:
    """Returns the runs that are known in advance, and for further seeds the choices."""
    config, arms, site = experiment.config, experiment.arms, experiment.site.name
    folds, seeds = plan.folds_of(config), config.seeds
    known = [task_of(experiment, run) for run in plan.runs(arms, names, folds, seeds)]
    # Arms that choose among the same ones choose the same.
    first = {arm.choices: arm.name for arm in reversed(arms.values())}
    chosen = [
        Task(CHOICE, site, fold, first[choice.choices], seed)
        for number, seed in enumerate(seeds)
        for fold in folds
        for name in names
        if number and (not arms[name].seeds or number < arms[name].seeds)
        for choice in _choices(arms, arms[name])
    ]
    return list(dict.fromkeys([*known, *chosen]))


def _choices(arms: Mapping[str, Arm], arm: Arm) -> list[Arm]:
    """Returns the choices that an arm is made of."""
    return [arm] if arm.choices else [choice for name in arm.members for choice in _choices(arms, arms[name])]


def task_of(experiment: Experiment, run: PlannedRun) -> Task:
    """Returns the task that trains a run."""
    return Task(RUN, experiment.site.name, run.fold, run.arm.name, run.seed)


def run_of(experiment: Experiment, task: Task) -> PlannedRun:
    """Returns the run that a task of the kind RUN trains."""
    return PlannedRun(plan.trained_as(experiment.arms)[task.name], task.fold, task.seed)


def candidates_of(experiment: Experiment, task: Task) -> list[PlannedRun]:
    """Returns the runs among which a task of the kind CHOICE chooses by their validation images."""
    names = experiment.arms[task.name].choices
    return plan.runs(experiment.arms, names, plan.folds_of(experiment.config), experiment.config.seeds[:1])


def runs_of(task: Task, experiment: Experiment) -> list[PlannedRun]:
    """Returns the runs that a task of the kind RUN or CHOICE trains, as far as its choice is made."""
    if task.kind == RUN:
        return [run_of(experiment, task)]
    config, arm = experiment.config, experiment.arms[task.name]
    chosen = composition.chosen_arms(experiment, plan.folds_of(config), config.seeds[0])
    further = composition.runs_of(experiment, arm, task.fold, task.seed, chosen)
    return [*candidates_of(experiment, task), *(further or ())]


def _needs(task: Task, experiment: Experiment, names: Sequence[str]) -> list[Task]:
    if task.kind == CHOICE:
        return [task_of(experiment, run) for run in candidates_of(experiment, task)]
    if task.kind == IMAGES:
        config, arms = experiment.config, experiment.arms
        users = [run.arm for run in plan.runs(arms, names, [task.fold], config.seeds) if run.arm.generator == task.name]
        is_judged = any(not arm.is_unselected for arm in users)
        return [task_of(experiment, experiment.judge(task.fold))] if is_judged else []
    run = run_of(experiment, task)
    start = experiment.start_of(run)
    needs = [] if start is None else [task_of(experiment, start)]
    if run.arm.generator:
        needs.append(Task(IMAGES, task.site, task.fold, run.arm.generator))
    return needs


def stages_of(tasks: Mapping[Task, Sequence[Task]]) -> dict[Task, int]:
    """Returns the stage of every task: 0 if it needs none, else one more than the largest stage of what it needs."""
    stages: dict[Task, int] = {}
    for task, needs in tasks.items():
        stages[task] = 1 + max((stages[needed] for needed in needs), default=-1)
    return stages


def table(tasks: Mapping[Task, Sequence[Task]], seconds: Mapping[Task, float]) -> str:
    """Returns the tasks as a table of COLUMNS, which are separated by spaces; only the last one contains spaces.

    Args:
      tasks: result of `list_tasks`.
      seconds: estimated seconds of each task; "-" is written for those that are missing.
    """
    numbers, stages = {task: number for number, task in enumerate(tasks)}, stages_of(tasks)
    rows = [COLUMNS]
    for task, needs in tasks.items():
        needed = ",".join(str(numbers[other]) for other in needs) if task.kind != RESULTS else "all"
        estimate = f"{seconds[task]:.0f}" if task in seconds else "-"
        rows.append((str(numbers[task]), str(stages[task]), needed or "-", estimate, str(task)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows)
