"""The runs of an experiment: classifiers and GANs to train, their configurations and their folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dim_jax.experiment.arms import BALANCED, COPIES, Arm
from dim_jax.gan.pool_selection import SELECTED
from dim_jax.runs.configuration import override
from dim_jax.runs.schema import ClassifierConfig, ExperimentConfig, GanConfig
from dim_jax.runs.workdir import flatten_config

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

    def generator(self, fold: int, name: str) -> Path:
        """Returns the folder of a generator: its runs, pool and selection."""
        return self.fold(fold) / name

    def selected(self, fold: int, name: str) -> Path:
        """Returns the list of the images selected from a generator's pool, in the folder of its selection."""
        return self.generator(fold, name) / "selected" / SELECTED

    def image_list(self, fold: int, arm: Arm) -> Path:
        """Returns the list of the images that an arm adds."""
        if arm.added == COPIES:
            return self.fold(fold) / "copies.json"
        folder = self.generator(fold, arm.generator)
        if arm.is_unselected:
            return folder / "unselected.json"
        return folder / "balanced.json" if arm.count == BALANCED else self.selected(fold, arm.generator)


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
        return site.fold(self.fold) / "runs" / self.arm.name / f"seed{self.seed}"

    def archive(self, site: Site) -> Path:
        """Returns the file of its predictions."""
        return site.root / "predictions" / f"fold{self.fold}" / self.arm.name / f"seed{self.seed}.npz"

    def __str__(self) -> str:
        return f"fold {self.fold}, seed {self.seed}, {self.arm.name}"


def trained_as(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """Returns for every candidate of every arm, by name, the arm it is trained as.

    Candidates that differ only after training (in post-hoc logit adjustment) share the training of the first one.
    """
    first: dict[str, Arm] = {}
    trained = {}
    for arm in arms.values():
        for candidate in arm.candidates():
            # The last setting of a field counts, and their order does not.
            training = (tuple(sorted(dict(candidate.settings).items(), key=repr)), candidate.added, candidate.count)
            trained[candidate.name] = first.setdefault(repr(training), candidate)
    return trained


def runs(arms: Mapping[str, Arm], names: Sequence[str], folds: Sequence[int], seeds: Sequence[int]) -> list[PlannedRun]:
    """Returns the classifiers to train, without repetition, ordered by seed, so that the first seed is complete first.

    Args:
      arms: all arms.
      names: those to train.
      folds, seeds: every arm is trained with each pair of them.
    """
    training = trained_as(arms)
    arms_to_train = [training[candidate.name] for name in names for candidate in arms[name].candidates()]
    return [PlannedRun(arm, fold, seed) for seed in seeds for fold in folds for arm in dict.fromkeys(arms_to_train)]


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
    settings = [
        *arm.settings,
        ("seed", run.seed),
        ("data.path", str(site.data)),
        ("data.fold", run.fold),
        ("data.generated", str(site.image_list(run.fold, arm)) if arm.added else ""),
        ("data.generated_count", -1 if count is None else count),
        ("train.report", False),
    ]
    return override(config.classifier, settings)


def gan_configs(
    config: ExperimentConfig, name: str, fold: int, site: Site, classes: Sequence[str]
) -> dict[str, GanConfig]:
    """Returns the configurations of a generator's runs by class.

    A class-conditional GAN is a single run for all classes, under the key "".
    """
    own = flatten_config(config.generators[name]).items()
    place = [("data.path", str(site.data)), ("data.fold", fold), ("seed", config.seed), ("train.report", False)]
    base = override(config.gan, [*own, *place])
    if base.gan.conditional:
        return {"": base}
    return {label: override(base, [("gan.label", label)]) for label in classes}
