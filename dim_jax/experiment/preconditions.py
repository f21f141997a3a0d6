"""What all runs of an experiment need of the data and of this machine, checked before the first one starts."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from dim_jax.cli.errors import is_reported
from dim_jax.data import splits
from dim_jax.data.dataset import Dataset
from dim_jax.experiment import added_images, plan
from dim_jax.experiment.arms import BALANCED, SHRUNK_COPIES, Arm
from dim_jax.experiment.stages import TRAINERS, Experiment
from dim_jax.gan import candidates, pools
from dim_jax.runs import configuration
from dim_jax.runs.configuration import RunConfig
from dim_jax.runs.schema import ClassifierConfig
from dim_jax.trainers import generator_images
from dim_jax.training import packed_runs, parallel
from dim_jax.zoo import catalog

LEAST_COMPARED = 2  # training images of a class whose generated images are selected


def check(experiments: Sequence[Experiment], runs: Sequence[Sequence[plan.PlannedRun]]) -> None:
    """Checks every fold, class, arm and generator of the runs that are not finished.

    Args:
      experiments: one per dataset.
      runs: the runs of each that are to be trained.

    Raises:
      ValueError: something is missing; the message lists everything, with the datasets and folds.
    """
    places: dict[str, list[str]] = {}
    for experiment, waiting in zip(experiments, runs, strict=True):
        for fold in sorted({run.fold for run in waiting}):
            arms = {run.arm.name: run.arm for run in waiting if run.fold == fold}
            for problem in dict.fromkeys(_problems(experiment, fold, list(arms.values()))):
                places.setdefault(problem, []).append(f"{experiment.site.name} fold {fold}")
    if places:
        lines = [f"{problem} ({', '.join(where)})" for problem, where in places.items()]
        raise ValueError(
            f"the experiment cannot be run to its end, for {len(lines)} reason{'s' if len(lines) > 1 else ''}: "
            f"{'; '.join(lines)}; give more images, leave out classes by config.data.exclude, arms by config.only, or "
            "folds by config.folds"
        )


def _problems(experiment: Experiment, fold: int, arms: Sequence[Arm]) -> Iterator[str]:
    dataset = experiment.dataset(fold)
    for label, count in zip(dataset.classes, added_images.training_counts(dataset), strict=True):
        if not count:
            yield f"class {label!r} has no training images"
    for split in splits.NAMES:
        if not len(dataset.rows(split)):
            yield f"there are no {split} images"
    for arm in arms:
        run = plan.PlannedRun(arm, fold, experiment.config.seeds[0])
        config = plan.classifier_config(experiment.config, run, experiment.site)
        yield from _of_config(f"arm {arm.name}", config)
        # An existing list is sufficient.
        if arm.added and not experiment.site.image_list(fold, arm).is_file():
            yield from _of_added(experiment, fold, arm, config)


def _of_config(name: str, config: RunConfig) -> Iterator[str]:
    """Yields what a run's configuration needs and this machine lacks."""
    size = config.train.global_batch_size
    yield from _errors(name, lambda: parallel.check_batch_size("config.train.global_batch_size", size))
    yield from _errors(name, lambda: TRAINERS[config.trainer].check_weights(config))


def _errors(name: str, check: Callable[[], object]) -> Iterator[str]:
    """Yields the message of a check that fails."""
    try:
        check()
    except (ValueError, FileNotFoundError) as error:
        if not is_reported(error):
            raise
        yield f"{name}: {error}"


def _of_added(experiment: Experiment, fold: int, arm: Arm, config: ClassifierConfig) -> Iterator[str]:
    """Yields what is missing for the images that an arm adds."""
    dataset, per_class = experiment.dataset(fold), experiment.config.pool.images
    try:
        classes = experiment.minority_classes(fold)
    except ValueError as error:
        yield f"arm {arm.name} adds images, but {error}"
        return
    if arm.added == SHRUNK_COPIES:
        record = experiment.preprocessing_of_generators()
        yield from _errors(f"arm {arm.name}", partial(pools.check_preprocessing, record, "shrunk copies", config.data))
    if not arm.generator:
        return
    name, users = f"generator {arm.generator}", [config]
    most = added_images.most_per_class(dataset, classes, arm)
    if arm.count != BALANCED and max(most.values()) > per_class:
        yield (
            f"arm {arm.name} adds up to {max(most.values())} images of a class, but config.pool.images={per_class} "
            "makes only so many of each"
        )
    if not arm.is_unselected:
        counts = added_images.training_counts(dataset)
        for label in classes:
            count = counts[dataset.classes.index(label)]
            if 0 < count < LEAST_COMPARED:
                yield f"class {label!r} has {count} training image, too few to select generated ones"
        features = experiment.config.pool.features
        yield from _errors(f"arm {arm.name}", lambda: candidates.check_features(features))
        users.append(plan.classifier_config(experiment.config, experiment.judge(fold), experiment.site))
    configs = plan.generator_configs(experiment.config, arm.generator, fold, experiment.site, classes)
    trained = plan.trained_run(experiment.config, arm.generator)
    if trained:
        yield from _errors(name, lambda: _check_trained(trained, classes, dataset))
    for of_generator in configs.values():
        yield from _of_config(name, of_generator)
        yield from _errors(name, partial(generator_images.label_to_train, of_generator, dataset))
    record = plan.preprocessing_of_generators(experiment.config, [arm.generator])
    for user in users:
        yield from _errors(name, partial(pools.check_preprocessing, record, "its pool", user.data))


def _check_trained(source: str, classes: Sequence[str], dataset: Dataset) -> None:
    """Raises ValueError unless a trained generator generates all of `classes` and was trained on other images."""
    folder = catalog.resolve(source)
    generated = configuration.read_config(folder, "gan").classes or ()
    for label in classes:
        if label not in generated:
            raise ValueError(
                f"{source} generates {', '.join(generated) or 'no class that it names'}, not the minority class "
                f"{label!r}; a smaller config.minority_share leaves out the larger ones of these classes"
            )
    packed_runs.check_held_out(source, folder, dataset.held_out)
