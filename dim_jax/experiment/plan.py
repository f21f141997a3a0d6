"""The runs of an experiment: classifiers and generators to train, their configurations and their folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dim_jax.experiment.arms import Arm
from dim_jax.gan.pool_selection import SELECTED
from dim_jax.runs.configuration import override, read_config
from dim_jax.runs.schema import GENERATORS, ClassifierConfig, ExperimentConfig, GeneratorConfig
from dim_jax.runs.workdir import flatten_config
from dim_jax.zoo import catalog

DATA = "data"


@dataclass(frozen=True)
class Site:
    """One dataset of an experiment.

    Attributes:
      name: name of the dataset in tables.
      root: folder of all files of the experiment on this dataset.
      data: folder of the prepared data.
    """

    name: str
    root: Path
    data: Path

    def fold(self, fold: int) -> Path:
        """Returns the folder of a fold."""
        return self.root / f"fold{fold}"

    def run(self, fold: int, arm: str, seed: int) -> Path:
        """Returns the run directory of an arm's classifier."""
        return self.fold(fold) / "runs" / arm / f"seed{seed}"

    def generator(self, fold: int, name: str) -> Path:
        """Returns the folder of a generator: its runs, pool and selection."""
        return self.fold(fold) / name

    def selected(self, fold: int, name: str) -> Path:
        """Returns the list of the images selected from a generator's pool, in the folder of its selection."""
        return self.generator(fold, name) / "selected" / SELECTED

    def image_list(self, fold: int, arm: Arm) -> Path:
        """Returns the list of the images that an arm adds."""
        own = arm.own_list
        if arm.is_copies:
            return self.fold(fold) / (f"{arm.added}_{own}.json" if own else f"{arm.added}.json")
        folder = self.generator(fold, arm.generator)
        if arm.is_unselected:
            return folder / "unselected.json"
        return folder / f"{own}.json" if own else self.selected(fold, arm.generator)


@dataclass(frozen=True)
class PlannedRun:
    """One classifier.

    Attributes:
      arm: the arm it is trained for; it tunes nothing.
      fold: index of the fold.
      seed: random seed of the run.
    """

    arm: Arm
    fold: int
    seed: int

    def folder(self, site: Site) -> Path:
        """Returns its run directory."""
        return site.run(self.fold, self.arm.name, self.seed)

    def archive(self, site: Site) -> Path:
        """Returns the file of its predictions."""
        return site.root / "predictions" / f"fold{self.fold}" / self.arm.name / f"seed{self.seed}.npz"

    def __str__(self) -> str:
        return f"fold {self.fold}, seed {self.seed}, {self.arm.name}"


def folds_of(config: ExperimentConfig) -> list[int]:
    """Returns the folds that an experiment works on."""
    return list(config.folds) or list(range(config.data.folds))


def trained_as(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Returns for every candidate of every trained arm, by name, the arm it is trained as.

    Candidates that differ only after training (in post-hoc adjustment) share the training of the first one.
    """
    first: dict[str, Arm] = {}
    trained: dict[str, Arm] = {}
    for arm in arms.values():
        for candidate in arm.candidates() if not arm.parts else ():
            if candidate.start:
                candidate = replace(candidate, start=trained[candidate.start].name)
            # The last setting of a field counts, and their order does not.
            settings = tuple(sorted(dict(candidate.settings).items(), key=repr))
            training = (settings, candidate.added, candidate.amount, candidate.start)
            trained[candidate.name] = first.setdefault(repr(training), candidate)
    return trained


def runs(
    arms: Mapping[str, Arm],
    names: Sequence[str],
    folds: Sequence[int],
    seeds: Sequence[int],
    chosen: Mapping[tuple[str, int], str] | None = None,
) -> list[PlannedRun]:
    """Returns the classifiers to train, without repetition, ordered by seed, so that the first seed is complete first.

    A choice needs all of its arms with the first seed, and with the others the arm that was chosen. What a run starts
    from comes right before it.

    Args:
      arms: all arms.
      names: those to train.
      folds, seeds: every arm is trained with each pair of them, or with its first seeds alone.
      chosen: the arm that each choice has chosen for each fold, by (name of the choice, fold), as far as known.
    """
    training, chosen = trained_as(arms), chosen or {}

    def needed(name: str, fold: int, seed: int) -> list[PlannedRun]:
        arm = arms[name]
        if arm.choices:
            known = [chosen[name, fold]] if (name, fold) in chosen else []
            parts: Sequence[str] = arm.choices if seed == seeds[0] else known
        else:
            parts = arm.members or ((arm.start,) if arm.start else ())
        own = [] if arm.parts else [PlannedRun(training[candidate.name], fold, seed) for candidate in arm.candidates()]
        return [run for part in parts for run in needed(part, fold, seed)] + own

    planned = [
        run
        for number, seed in enumerate(seeds)
        for fold in folds
        for name in names
        if not arms[name].seeds or number < arms[name].seeds
        for run in needed(name, fold, seed)
    ]
    return list(dict.fromkeys(planned))


def most_runs(
    arms: Mapping[str, Arm], names: Sequence[str], folds: Sequence[int], seeds: Sequence[int]
) -> list[PlannedRun]:
    """Returns the classifiers to train if every choice falls on the arm that adds most runs; see `runs`."""
    chosen: dict[tuple[str, int], str] = {}
    for choices in dict.fromkeys(arm.choices for arm in arms.values() if arm.choices):
        # Arms that choose among the same ones choose the same.
        choosing = [(arm.name, fold) for arm in arms.values() if arm.choices == choices for fold in folds]
        options = [chosen | dict.fromkeys(choosing, name) for name in choices]
        chosen = max(options, key=lambda option: len(runs(arms, names, folds, seeds, option)))
    return runs(arms, names, folds, seeds, chosen)


def classifier_config(
    config: ExperimentConfig, run: PlannedRun, site: Site, count: int | None = None
) -> ClassifierConfig:
    """Returns the configuration of a classifier's run.

    Args:
      config: of the experiment.
      run: the planned run.
      site: its dataset.
      count: how many images of the list to add; None if the arm adds none, or all images of its own list.
    """
    arm = run.arm
    source = [("train.initial_weights", str(site.run(run.fold, arm.start, run.seed)))] if arm.start else []
    settings = [
        *arm.settings,
        *source,
        ("seed", run.seed),
        ("data.path", str(site.data)),
        ("data.fold", run.fold),
        ("data.generated", str(site.image_list(run.fold, arm)) if arm.added else ""),
        ("data.generated_count", -1 if count is None else count),
        ("train.report", False),
    ]
    return override(config.classifier, settings)


def generator_configs(
    config: ExperimentConfig, name: str, fold: int, site: Site, classes: Sequence[str]
) -> dict[str, GeneratorConfig]:
    """Returns the configurations of a generator's runs by class; none of a generator that is trained already.

    A class-conditional generator is a single run for all classes, under the key "".

    Raises:
      ValueError: the generator is of an unknown kind, or sets a field that does not exist.
    """
    if trained_run(config, name):
        return {}
    place = [("data.path", str(site.data)), ("data.fold", fold), ("seed", config.seed), ("train.report", False)]
    base = override(_base_of_generator(config, name), place)
    if base.learned.conditional:
        return {"": base}
    return {label: override(base, [(f"{base.trainer}.label", label)]) for label in classes}


def _base_of_generator(config: ExperimentConfig, name: str) -> GeneratorConfig:
    """Returns the configuration of a generator, of no fold and class.

    Raises:
      ValueError: as for `generator_configs`.
    """
    trained = trained_run(config, name)
    if trained:
        return read_config(catalog.resolve(trained), "gan")
    own, kind = flatten_config(config.generators[name]), generator_kind(config, name)
    own.pop("trainer", None)
    bases: dict[str, GeneratorConfig | None] = {"gan": config.gan, "diffusion": config.diffusion}
    shared = bases.get(kind)
    if shared is None:
        raise ValueError(
            f"there is no config.{kind} to start from; a generator's trainer is one of {', '.join(GENERATORS)}, and "
            "configs/experiment.py sets both"
        )
    return override(shared, list(own.items()))


def preprocessing_of_generators(config: ExperimentConfig, names: Sequence[str]) -> dict[str, Any]:
    """Returns the entries of `pools.preprocessing` for images of the smallest of some generators.

    Args:
      names: of the generators; none for all that there are.
    """
    own = [_base_of_generator(config, name).data for name in names or config.generators]
    smallest = min(own, key=lambda data: data.image_size)
    return {"image_size": smallest.image_size, "resize": smallest.resize}


def generator_kind(config: ExperimentConfig, name: str) -> str:
    """Returns the kind of a generator, one of schema.GENERATORS."""
    return config.generators[name].get("trainer", "gan")


def trained_run(config: ExperimentConfig, name: str) -> str:
    """Returns the packed run that a generator is ("zoo:NAME" or a path), or "" if it is trained on every fold."""
    return config.generators[name].get("run", "")


def sampling(config: ExperimentConfig, name: str) -> dict[str, float]:
    """Returns the options by which a generator samples its pools; see generator_run.OPTIONS."""
    options = config.pool
    if generator_kind(config, name) == "diffusion":
        return {"guidance": options.guidance}
    return {"truncation": options.truncation}
