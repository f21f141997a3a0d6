"""The images that a generator is trained on: all training images of the dataset, or those of one class."""

from pathlib import Path

import numpy as np

from dim_jax.data import images
from dim_jax.data.dataset import Dataset, open_dataset
from dim_jax.data.sampler import Sampler, make_sampler
from dim_jax.runs.schema import GeneratorConfig

MIN_IMAGES = 8


def open_data(config: GeneratorConfig, source: Path) -> tuple[Dataset, Sampler]:
    """Returns the dataset in the prepared folder `source`, and the sampler of the training images."""
    data = open_dataset(source, config.data.fold)
    sampler = make_sampler(
        data,
        seed=config.seed,
        global_batch_size=config.train.global_batch_size,
        class_balanced=config.learned.conditional,
        only_class=label_to_train(config, data),
    )
    return data, sampler


def label_to_train(config: GeneratorConfig, data: Dataset) -> int | None:
    """Returns the integer label of the class to train on, None for all classes.

    Raises:
      ValueError: there is no such class, or it has too few training images.
    """
    name, learned = config.trainer, config.learned
    if learned.conditional:
        return None
    if learned.label not in data.classes:
        raise ValueError(
            f"config.{name}.label={learned.label!r} is not a class of {config.data.path}; choose one of "
            f"{', '.join(data.classes)}, or all with --config.{name}.conditional=True"
        )
    label = data.classes.index(learned.label)
    count = int((data.labels[data.rows("train")] == label).sum())
    if count < MIN_IMAGES:
        raise ValueError(
            f"{learned.label!r} has {count} training images, too few for {config.NOUN} of its own (at least "
            f"{MIN_IMAGES}); train one over all classes with --config.{name}.conditional=True"
        )
    return label


def examples(data: Dataset, sampler: Sampler, config: GeneratorConfig, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns about `number` training images (N, S, S, 3) uint8 and their labels, the same in every process."""
    rows = np.unique([row for stratum in sampler.strata for row in stratum.rows])
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, number).astype(int))]
    options = config.data
    paths = [data.file(int(row)) for row in rows]
    return np.stack(list(images.read_squares(paths, options.image_size, options.resize))), data.labels[rows]
