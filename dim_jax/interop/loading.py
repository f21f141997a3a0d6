"""Trained networks in Python: `dim_jax.load("zoo:ebhi-seg").predict(images)` and `.generate(seeds)`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dim_jax.data import images as image_files
from dim_jax.data.field_statistics import FieldStatistics, describe
from dim_jax.evaluation.ensembles import Classifier, is_ensemble
from dim_jax.evaluation.predictor import views_of
from dim_jax.gan.gan_run import GanRun, open_gan_run
from dim_jax.interop.inference_program import classifier_program, size_of_input
from dim_jax.prediction.new_images import fit_on_validation, open_image_classifier, usual_fields
from dim_jax.runs import configuration
from dim_jax.zoo import catalog

BATCH = 16  # images are computed in batches of this size, the last one padded, so that one program serves all

Image = np.ndarray | str | Path


@dataclass(frozen=True)
class Answers:
    """A classifier's answers for N images.

    Attributes:
      classes: names of the C classes.
      probabilities: float32 (N, C).
      distances: distance of each image from the training images, float64 (N,); None where these are unknown.
      usual_distance: distances up to this are usual; None where they are unknown.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray
    distances: np.ndarray | None
    usual_distance: float | None

    @property
    def predicted(self) -> list[str]:
        """Name of the most probable class of each image."""
        return [self.classes[index] for index in self.probabilities.argmax(1).tolist()]


class LoadedClassifier:
    """A trained classifier or an ensemble, with its preprocessing; compiled at the first call.

    Attributes:
      classes: names of the classes, in the order of the probabilities.
    """

    def __init__(self, classifier: Classifier, views: bool | None, adjust: bool):
        self.classes = classifier.classes
        self._classifier = classifier
        member_views = [views_of(run.config, run.workdir, views) for run in classifier.members]
        adjustment, temperature, _ = fit_on_validation(
            classifier, sum(map(len, member_views)), adjust, calibrate=False, coverage=None
        )
        self._sizes = list(dict.fromkeys(map(size_of_input, classifier.members)))
        self._usual: FieldStatistics | None = usual_fields(classifier.workdir)
        program = classifier_program(classifier, member_views, adjustment, temperature, with_map=False)
        self._make: Callable[[], Any] = program.make
        self._program: Any = None

    def predict(self, images: Sequence[Image]) -> Answers:
        """Classifies images.

        Args:
          images: N images of any size: uint8 RGB arrays (H, W, 3), or paths of image files.

        Raises:
          FileNotFoundError: a file does not exist.
          ValueError: an array is not an RGB image, or a file cannot be read.
        """
        squares = [
            np.stack([_square(image, number, *size) for number, image in enumerate(images)])
            if len(images)
            else np.zeros((0, size[0], size[0], 3), np.uint8)
            for size in self._sizes
        ]
        if self._program is None:
            self._program = jax.jit(self._make())
        parts = [np.zeros((0, len(self.classes)), np.float32)]
        for start in range(0, len(images), BATCH):
            batch = [part[start : start + BATCH] for part in squares]
            count = len(batch[0])
            padded = [np.concatenate([part, np.repeat(part[-1:], BATCH - count, 0)]) for part in batch]
            parts.append(np.asarray(self._program(*padded)[0])[:count])
        usual = self._usual
        return Answers(
            self.classes,
            np.concatenate(parts),
            None if usual is None else usual.distances(describe(squares[0])),
            None if usual is None else usual.limit,
        )


class LoadedGenerator:
    """A trained generator.

    Attributes:
      classes: names of the classes that it generates.
    """

    def __init__(self, run: GanRun):
        self.classes = (run.label,) if run.label is not None else run.classes
        self._run = run

    def generate(self, seeds: Sequence[int], label: str = "", truncation: float = 1.0) -> np.ndarray:
        """Generates one image per seed; the same seed gives the same image as in `python -m dim_jax.generate`.

        Args:
          seeds: N integers, from 0 to 2**31 - 1.
          label: the class; "" where there is one only.
          truncation: scale of the latents, above 0; below 1 images vary less.

        Returns:
          uint8 (N, S, S, 3).

        Raises:
          ValueError: the generator does not know the class, or an argument is out of range.
        """
        label = label or (self.classes[0] if len(self.classes) == 1 else "")
        if label not in self.classes:
            raise ValueError(f"label={label!r}: the classes are {', '.join(self.classes)}; choose one of them")
        return self._run.synthesizer.images(seeds, self._run.classes.index(label), truncation)


def load(model: str | Path, *, views: bool | None = None, adjust: bool = False) -> LoadedClassifier | LoadedGenerator:
    """Opens a trained network.

    Args:
      model: "zoo:NAME" (`python -m dim_jax.zoo.catalog` lists them), a run directory, a packed run, or an ensemble.
      views: of a classifier: average over the flips and turns of training; None for as the run was configured.
      adjust: of a classifier: adjust the logits for the imbalance of the classes, as chosen on validation images.

    Raises:
      FileNotFoundError: there is no run, no checkpoint, or no adjustment.
      ValueError: there is no such model, or its files are damaged.
    """
    folder = catalog.resolve(model)
    if not is_ensemble(folder) and configuration.read_config(folder, "classifier", "gan").trainer == "gan":
        if views is not None or adjust:
            raise ValueError(f"{model} is a generator; views and adjust are for classifiers")
        return LoadedGenerator(open_gan_run(folder))
    return LoadedClassifier(open_image_classifier(folder), views, adjust)


def _square(image: Image, number: int, size: int, resize: str) -> np.ndarray:
    if isinstance(image, (str, Path)):
        return image_files.read_square(image, size, resize)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(
            f"images[{number}] is {array.dtype} of shape {array.shape}; give uint8 RGB of shape (H, W, 3), or a path"
        )
    return image_files.resize(array, size, resize)
