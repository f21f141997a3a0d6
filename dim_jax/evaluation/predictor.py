"""Inference on rows of a dataset over all devices: logits, features and Grad-CAM maps."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.augmentation.views import IDENTITY, trained_views
from dim_jax.data.backends import make_images
from dim_jax.data.batches import evaluation_plan
from dim_jax.evaluation.ensembles import mean_logits
from dim_jax.evaluation.frozen_networks import frozen_network
from dim_jax.models import make_classifier
from dim_jax.models.prepared_weights import prepare_weights
from dim_jax.runs.schema import ClassifierConfig
from dim_jax.steps.classifier import make_eval_step
from dim_jax.steps.grad_cam import PREDICTED
from dim_jax.training import hosts, parallel
from dim_jax.training.restored_variables import check_variables

if TYPE_CHECKING:
    from dim_jax.data.dataset import Dataset
    from dim_jax.data.frozen_features import FrozenFeatures
    from dim_jax.data.resident_images import ResidentImages
    from dim_jax.data.tf_pipeline import TfImages

    Images = TfImages | ResidentImages | FrozenFeatures


@dataclass(frozen=True)
class Predictions:
    """Outputs of a classifier for N images.

    Attributes:
      index: rows of the manifest, int32 (N,).
      label: true labels, int32 (N,).
      logits: float32 (N, C).
      features: input of the last layer, float32 (N, F); None for an ensemble.
      grad_cam: map of the predicted class in [0, 1], float16 (N, h, w); None for a model without feature maps.
      seconds_per_image: time on the devices, without compilation and decoding.
    """

    index: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    features: np.ndarray | None
    grad_cam: np.ndarray | None
    seconds_per_image: float


class Predictor:
    """Runs a classifier on rows of a dataset over all devices; compiles once.

    Attributes:
      model: the classifier.
      dataset: the dataset.
      images: decodes rows to pixels, or loads their features.
      pixels: replicated pixels of the resident backend; None if batches contain pixels.
      statistics: mean and std that images are normalised by.
      views: views of an image whose probabilities are averaged, as in augmentation.views.
    """

    views: tuple[int, ...] = (IDENTITY,)

    def __init__(self, model: Any, dataset: "Dataset", images: "Images", batch_size: int):
        """Args:
        model: returns (logits, features); exposes its last feature map, if any (models.feature_map).
        dataset: the dataset.
        images: as data.backends.make_images returns them.
        batch_size: global batch size, a multiple of the number of devices.
        """
        parallel.check_batch_size("config.train.eval_batch_size", batch_size)
        self.model, self.images, self.pixels = model, images, parallel.replicate(images.pixels)
        self.dataset, self._batch_size = dataset, batch_size
        self.statistics = images.statistics()
        one_image = jnp.zeros((1, *images.shape))
        self._prepare = parallel.jit_replicated(lambda variables: prepare_weights(model, variables, one_image))
        self._step = parallel.pmap_eval_step(make_eval_step(model))
        self._is_compiled = False

    def with_views(self, views: tuple[int, ...]) -> "Predictor":
        """Returns a predictor of the same images that averages over `views`; features and maps are of the image itself.

        The step of more than one view is another program, compiled at its first call.
        """
        if views == self.views:
            return self
        other = copy.copy(self)
        other.views, other._is_compiled = views, False
        return other

    def check_variables(self, state: Any, source: str | Path) -> dict[str, Any]:
        """Returns the variables of a restored `state` that the model takes; see restored_variables.check_variables."""
        image = jax.ShapeDtypeStruct((1, *self.images.shape), np.float32)
        expected = jax.eval_shape(self.model.init, jax.random.key(0), image)
        expected = {name: expected[name] for name in ("params", "batch_stats") if name in expected}
        return check_variables(state, expected, source)

    def __call__(self, variables: Any, rows: np.ndarray, explained: np.ndarray | None = None) -> Predictions:
        """Predicts rows; every host computes a part, and all hosts get all predictions.

        Args:
          variables: replicated `params` and `batch_stats`.
          rows: (N,) rows of the dataset.
          explained: (N,) classes of the Grad-CAM maps; None for the predicted classes.
        """
        class_of = {} if explained is None else dict(zip(rows.tolist(), explained.tolist(), strict=True))
        plan = evaluation_plan(rows, self._batch_size, jax.process_index(), jax.process_count())
        variables = {**variables, **self._prepare(variables)}
        parts, seconds = [], 0.0
        for batch in self.images.batches(plan):
            inputs: dict[str, np.ndarray] = {name: batch[name] for name in ("image", "index") if name in batch}
            inputs["explained"] = np.array([class_of.get(row, PREDICTED) for row in batch["index"].tolist()], np.int32)
            if not self._is_compiled:
                self._predict(variables, inputs)
                self._is_compiled = True
            started = time.perf_counter()
            outputs = self._predict(variables, inputs)
            seconds += time.perf_counter() - started
            parts.append((batch["mask"], *outputs))
        # Rows are in order, with padding last. Padding and unreadable files have mask 0.
        mask, *outputs = jax.tree.map(lambda *parts: hosts.gather_batches(parts)[: len(rows)], *parts)
        is_image = mask > 0
        logits, features, maps = jax.tree.map(lambda output: output[is_image], outputs)
        index = rows[is_image].astype(np.int32)
        return Predictions(
            index=index,
            label=self.dataset.labels[index],
            logits=logits,
            features=features,
            grad_cam=None if maps is None else maps.astype(np.float16),
            seconds_per_image=seconds / len(rows),
        )

    def _predict(self, variables: Any, inputs: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
        """Returns the logits, features and maps of a local batch as NumPy arrays."""

        def step(inputs: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
            outputs = self._step(variables, parallel.shard(inputs), self.statistics, self.pixels)
            return jax.tree.map(parallel.unshard, jax.block_until_ready(outputs))

        if self.views == (IDENTITY,):
            return step(inputs)
        explained = inputs["explained"]
        views = [np.full_like(explained, view) for view in self.views]
        logits = mean_logits([step({**inputs, "view": view})[0] for view in views])
        # Once more, because the map is of the class that all views together predict.
        explained = np.where(explained == PREDICTED, logits.argmax(-1), explained).astype(np.int32)
        _, features, maps = step({**inputs, "explained": explained, "view": np.full_like(explained, IDENTITY)})
        return logits, features, maps


def views_of(config: ClassifierConfig, workdir: str | Path, use_views: bool | None = None) -> tuple[int, ...]:
    """Returns the views over which a run's predictions are averaged.

    Args:
      config: configuration of the run.
      workdir: run directory, for the error message.
      use_views: whether to average; None for config.augment.test_time_views.

    Raises:
      ValueError: views are asked of a run that was trained without flips and turns.
    """
    augment = config.augment
    if not (getattr(augment, "test_time_views", False) if use_views is None else use_views):
        return (IDENTITY,)
    views = trained_views(bool(augment and augment.flip), bool(augment and augment.rotate))
    if views == (IDENTITY,):
        raise ValueError(f"{workdir} was trained without flips and turns, so it has no views to average; drop --views")
    return views


def make_predictor(config: ClassifierConfig, dataset: "Dataset") -> Predictor:
    """Returns a predictor with the model, preprocessing and batch size of a configuration."""
    data = config.data
    network = frozen_network(data.feature_network, dataset) if data.backend == "features" else None
    model = make_classifier(config.model.name, len(dataset.classes), **config.model.options)
    images = make_images(
        data.backend,
        dataset,
        data.image_size,
        data.resize,
        data.cache_gib,
        parallel.device_bytes(),
        network,
    )
    return Predictor(model, dataset, images, config.train.eval_batch_size)
