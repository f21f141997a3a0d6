"""The stages of an experiment. Finished stages are skipped, and unfinished ones are resumed."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dim_jax.cli.command_line import comma_separated, say
from dim_jax.data.dataset import Dataset, open_dataset
from dim_jax.data.preparation import PHANTOM, TFDS, prepare_dataset
from dim_jax.experiment import added_images, archive, lanes, plan
from dim_jax.experiment.arms import SHRUNK_COPIES, Arm
from dim_jax.experiment.plan import PlannedRun, Site
from dim_jax.gan import generation, pool_selection, pools
from dim_jax.gan.selection_rules import Rules
from dim_jax.runs import files
from dim_jax.runs.configuration import RunConfig
from dim_jax.runs.schema import ExperimentConfig
from dim_jax.trainers import classifier, diffusion, gan
from dim_jax.training import compilation
from dim_jax.zoo import catalog

TRAINERS: dict[str, Any] = {"classifier": classifier, "gan": gan, "diffusion": diffusion}

log = logging.getLogger(__name__)


def open_site(source: str, name: str, root: Path, config: ExperimentConfig) -> Site:
    """Opens a dataset for cross-validation, and prepares it first if that has not been done.

    Args:
      source: a prepared folder, a folder of images, "tfds:NAME" or "phantom".
      name: name of the dataset in tables.
      root: folder of all files of the experiment on this dataset.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the data are invalid, or were prepared with another number of folds.
    """
    options = config.data
    site = _site(source, name, root)
    is_phantom = source == PHANTOM
    is_gone = not is_phantom and not source.startswith(TFDS) and not Path(source).is_dir()
    if is_gone and not is_prepared(site.data):
        raise FileNotFoundError(f"config.data: {source}: no such folder")
    # If images that were prepared have moved, opening the data says so, unless they were found again.
    if not is_gone and not is_prepared(source):
        prepare_dataset(
            source,
            site.data,
            group_regex=options.group_regex or None,
            classes=comma_separated(options.classes) or None,
            exclude=comma_separated(options.exclude),
            image_size=max(part.data.image_size for part in (config.classifier, config.gan, config.diffusion) if part),
            split="kfold",
            folds=options.folds,
            seed=config.seed,
            scale=options.phantom_scale if is_phantom else 1.0,
            remedy="bring the images back as they were, or compare on them in another --workdir",
        )
    folds = len(open_dataset(site.data).split.folds)
    if folds != options.folds:
        raise ValueError(
            f"{site.data} has {folds} fold(s), config.data.folds is {options.folds}; prepare it with --split=kfold "
            f"--folds={options.folds}, or give the images themselves"
        )
    return site


def _site(source: str, name: str, root: Path) -> Site:
    """Returns the site of a dataset, whose images may not be prepared yet; see `open_site`."""
    return Site(name, root, Path(source) if is_prepared(source) else root / plan.DATA)


def is_prepared(source: str | Path) -> bool:
    """Returns whether `source` is a folder that `prepare` wrote."""
    return (Path(source) / "manifest.json").is_file()


class Experiment:
    """The stages of an experiment on one dataset.

    Attributes:
      config: configuration of the experiment.
      site: the dataset and its folders.
      arms: all arms.
    """

    def __init__(self, config: ExperimentConfig, site: Site, arms: dict[str, Arm]):
        self.config, self.site, self.arms = config, site, arms
        self._datasets: dict[int, Dataset] = {}

    def dataset(self, fold: int) -> Dataset:
        """Returns the dataset of real images with the split of `fold`."""
        if fold not in self._datasets:
            self._datasets[fold] = open_dataset(self.site.data, fold)
        return self._datasets[fold]

    def minority_classes(self, fold: int) -> list[str]:
        """Returns the classes whose images are generated in `fold`."""
        return added_images.minority_classes(self.dataset(fold), self.config.minority_share)

    def archived(self, run: PlannedRun) -> archive.Archived | None:
        """Returns the archived predictions of a run, or None if it is not finished."""
        config = plan.classifier_config(self.config, run, self.site)
        start = self.fingerprint_of_start(run)
        return archive.read(run.archive(self.site), config, run.arm.amount, self.dataset(run.fold), start)

    def start_of(self, run: PlannedRun) -> PlannedRun | None:
        """Returns the run whose weights a run starts from, if any."""
        arm = run.arm.start
        return PlannedRun(plan.trained_as(self.arms)[arm], run.fold, run.seed) if arm else None

    def fingerprint_of_start(self, run: PlannedRun) -> str:
        """Returns the fingerprint of the run whose weights a run starts from; "" if there is none."""
        start = self.start_of(run)
        if start is None:
            return ""
        config = plan.classifier_config(self.config, start, self.site)
        return archive.fingerprint(config, start.arm.amount, self.fingerprint_of_start(start))

    def train(self, run: PlannedRun) -> None:
        """Makes the trained network of a run; another process that works on it is waited for."""
        with lanes.claim(run.folder(self.site), wait=True):
            if not self.is_trained(run):
                self._train_classifier(run)

    def train_if_free(self, run: PlannedRun) -> bool:
        """Trains a run that is not finished, unless another process works on it or on what it starts from.

        Returns:
          Whether it was free.
        """
        start = self.start_of(run)
        if start is not None and not self.is_trained(start):
            with lanes.claim(start.folder(self.site)) as is_free:
                pass
            if not is_free:
                return False
        with lanes.claim(run.folder(self.site)) as is_free:
            if is_free and self.archived(run) is None:
                self._train_classifier(run)
        return is_free

    def wait_for(self, run: PlannedRun) -> None:
        """Returns when no other process works on a run, nor on what it starts from."""
        for needed in filter(None, (self.start_of(run), run)):
            with lanes.claim(needed.folder(self.site), wait=True):
                pass

    def is_trained(self, run: PlannedRun) -> bool:
        """Returns whether the trained network of a run is here, not only its predictions."""
        return (run.folder(self.site) / "eval" / "val" / "metrics.json").is_file()

    def _train_classifier(self, run: PlannedRun) -> None:
        """Makes what a run starts from and the images that it adds, trains it, and archives its predictions."""
        # Its predictions may have been copied from another machine; its weights are needed.
        start = self.start_of(run)
        if start is not None and not self.is_trained(start):
            self.train(start)
        count = self.add_images(run) if run.arm.added else None
        config = plan.classifier_config(self.config, run, self.site, count)
        folder = run.folder(self.site)
        self._train(config, folder)
        added = config.data.generated
        dataset = open_dataset(self.site.data, run.fold, added, config.data.generated_count)
        start, requested = self.fingerprint_of_start(run), self._num_requested(run)
        archive.write(run.archive(self.site), folder, config, run.arm.amount, dataset, start, requested)

    def _train(self, config: RunConfig, folder: Path) -> None:
        log.info("working on %s", folder)
        TRAINERS[config.trainer].train(config, folder, describe=False)
        compilation.clear_compiled_programs()

    def add_images(self, run: PlannedRun) -> int | None:
        """Makes the list of the images that a run adds, training the generator if needed.

        Returns:
          How many images of the list to add, or None for all. If fewer were selected than the arm asks for, all of
          them are added; the archive records how many.
        """
        arm = run.arm
        path = self.site.image_list(run.fold, arm)
        # An existing list is sufficient, even if the pool it was made from has been deleted.
        if not path.is_file():
            with lanes.claim(self.site.generator(run.fold, arm.generator or arm.added), wait=True):
                if not path.is_file():
                    self._list_images(arm, run.fold, path)
        if arm.own_list:
            return None
        return min(arm.count, len(files.read_json(path)["images"]))

    def _num_requested(self, run: PlannedRun) -> int:
        """Returns how many images a run adds where enough were selected."""
        arm = run.arm
        return sum(self._most_per_class(run.fold, [arm]).values()) if arm.own_list else arm.count

    def _list_images(self, arm: Arm, fold: int, path: Path) -> None:
        dataset, classes = self.dataset(fold), self.minority_classes(fold)
        if arm.is_copies:
            # Sharp and shrunk copies are of the same images.
            alike = [other for other in self._candidates() if other.is_copies and not other.own_list]
            most = self._most_per_class(fold, [arm] if arm.own_list else alike)
            copies = added_images.choose_copies(most, dataset, self.config.seed)
            if arm.added == SHRUNK_COPIES:
                added_images.write_shrunk_copies(path, copies, dataset, **self.preprocessing_of_generators())
            else:
                added_images.write_list(path, copies, dataset)
            return
        if arm.is_unselected:
            self._generate_pool(fold, arm.generator, classes)
            added_images.write_unselected(path, self.site.generator(fold, arm.generator) / "pool", classes, dataset)
            return
        selected = self.site.selected(fold, arm.generator)
        if not selected.is_file():
            self._generate_pool(fold, arm.generator, classes)
            self._select(fold, arm.generator, classes)
        if arm.own_list:
            added_images.write_first(path, selected, self._most_per_class(fold, [arm]), dataset)

    def preprocessing_of_generators(self) -> dict[str, Any]:
        """Returns the size and resize policy of generated images: of the smallest generator that an arm uses."""
        used = sorted({arm.generator for arm in self._candidates() if arm.generator})
        return plan.preprocessing_of_generators(self.config, used)

    def _candidates(self) -> list[Arm]:
        return [candidate for arm in self.arms.values() for candidate in arm.candidates()]

    def _most_per_class(self, fold: int, arms: Sequence[Arm]) -> dict[str, int]:
        """Returns for each minority class the largest number of images that any of `arms` adds."""
        dataset, classes = self.dataset(fold), self.minority_classes(fold)
        numbers = [added_images.most_per_class(dataset, classes, arm) for arm in arms]
        return {name: max(of_arm[name] for of_arm in numbers) for name in classes}

    def generator_folders(self, fold: int, name: str) -> dict[str, Path]:
        """Returns the run directories of a generator by the class that they generate ("" for all classes)."""
        trained = plan.trained_run(self.config, name)
        if trained:
            return {"": catalog.resolve(trained)}
        configs = plan.generator_configs(self.config, name, fold, self.site, self.minority_classes(fold))
        folder = self.site.generator(fold, name) / "runs"
        return {label: folder / (pools.folder_name(label) if label else "all") for label in configs}

    def _generate_pool(self, fold: int, name: str, classes: Sequence[str]) -> None:
        options, folder = self.config.pool, self.site.generator(fold, name)
        missing = [label for label in classes if not self._is_generated(folder / "pool" / pools.folder_name(label))]
        if not missing:
            return
        folders = self.generator_folders(fold, name)
        configs = plan.generator_configs(self.config, name, fold, self.site, classes)
        for label, config in configs.items():
            if label in ("", *missing):
                self._train(config, folders[label])
        sampling = plan.sampling(self.config, name)
        data = self.site.data if plan.trained_run(self.config, name) else ""
        sources = {"": missing} if "" in folders else {label: [label] for label in missing}
        for source, labels in sources.items():
            generation.generate_pool(
                folders[source], folder / "pool", options.images, labels=labels, sampling=sampling, data=data, fold=fold
            )
            compilation.clear_compiled_programs()

    def _is_generated(self, folder: Path) -> bool:
        path = folder / pools.FILE_NAME
        return path.is_file() and len(files.read_json(path)["images"]) >= self.config.pool.images

    def _select(self, fold: int, name: str, classes: Sequence[str]) -> None:
        options, folder, run = self.config.pool, self.site.generator(fold, name), self.judge(fold)
        # Its predictions may have been copied from another machine; the selection needs the trained network itself.
        if not self.is_trained(run):
            self.train(run)
        keep = self._max_selected(fold, name)
        rules = Rules(**{key: getattr(options, key) for key in vars(Rules())})
        out = self.site.selected(fold, name).parent
        selection = pool_selection.select_images(
            folder / "pool", self.site.data, run.folder(self.site), out, keep, rules, options.features, diagnosis=False
        )
        say(pool_selection.summary(selection))
        compilation.clear_compiled_programs()

    def judge(self, fold: int) -> PlannedRun:
        """Returns the run whose classifier checks the class of generated images."""
        judge = plan.trained_as(self.arms)[self.config.pool.judge]
        return PlannedRun(judge, fold, self.config.seeds[0])

    def _max_selected(self, fold: int, name: str) -> int:
        most = self._most_per_class(fold, [arm for arm in self._candidates() if arm.added == name])
        return max(most.values())

    def commands(self, run: PlannedRun) -> list[str]:
        """Returns the commands that reproduce a run, including those of the generator whose images it adds."""
        lines, name, start = [], run.arm.generator, self.start_of(run)
        if start is not None:
            lines.append(["train", f"--workdir={start.folder(self.site)}"])
        if name:
            options, folder = self.config.pool, self.site.generator(run.fold, name)
            folders, classes = self.generator_folders(run.fold, name), self.minority_classes(run.fold)
            sampling, trained = plan.sampling(self.config, name), plan.trained_run(self.config, name)
            lines += [["train", f"--workdir={path}"] for path in folders.values() if not trained]
            for label in classes:
                lines.append([
                    "generate", f"--workdir={folders.get(label) or folders['']}", f"--label={label}",
                    f"--num={options.images}", *(f"--{option}={value:g}" for option, value in sampling.items()),
                    *([f"--data={self.site.data}", f"--fold={run.fold}"] if trained else []),
                    f"--out={folder / 'pool'}",
                ])  # fmt: skip
            rules = [f"--{key.replace('_', '-')}={getattr(options, key):g}" for key in vars(Rules())]
            lines.append([
                "select", f"--pool={folder / 'pool'}", f"--data={self.site.data}",
                f"--classifier={self.judge(run.fold).folder(self.site)}",
                f"--keep={self._max_selected(run.fold, name)}",
                *rules, f"--features={options.features}", "--no-diagnosis",
                f"--out={self.site.selected(run.fold, name).parent}",
            ])  # fmt: skip
        lines.append(["train", f"--workdir={run.folder(self.site)}"])
        return [f"python -m dim_jax.{command} {shlex.join(options)}" for command, *options in lines]


def unopened(
    config: ExperimentConfig, arms: Mapping[str, Arm], run: Path, sources: Mapping[str, str]
) -> list[Experiment]:
    """Returns the experiments in the folder `run`, one for each dataset, whose data may not be prepared yet.

    Args:
      config, arms: of the experiment.
      run: its folder.
      sources: the sources of images by the name of their folder.
    """
    return [Experiment(config, _site(source, name, run / name), dict(arms)) for name, source in sources.items()]


def facts_of_selection(site: Site, folds: Sequence[int], name: str) -> list[dict[str, Any]]:
    """Returns one entry per fold and class for the selections of a generator's images that exist.

    "list" in an entry is the path of the list of the selected images, relative to the dataset's folder.
    """
    entries = []
    for fold in folds:
        path = site.selected(fold, name)
        if path.is_file():
            place = {"fold": fold, "list": path.relative_to(site.root).as_posix()}
            classes = files.read_json(path)["classes"]
            entries += [{**place, "class": label, **facts} for label, facts in classes.items()]
    return entries
