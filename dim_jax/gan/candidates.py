"""Candidates of a selection: generated images, the real images they are compared with, and features of both."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dim_jax.data import images
from dim_jax.data.dataset import GENERATED_FILE, open_dataset, open_run_dataset
from dim_jax.evaluation.classifier_run import ClassifierRun, open_classifier_run
from dim_jax.evaluation.predictor import make_predictor
from dim_jax.gan import pools
from dim_jax.gan.judges import Extract, classifier_space, extract_in_batches, inception_outputs
from dim_jax.gan.selection_rules import CLASSIFIER
from dim_jax.models.inception import NUM_LOGITS
from dim_jax.runs import files
from dim_jax.runs.schema import CONFIGS
from dim_jax.training import parallel
from dim_jax.weights import pretrained

if TYPE_CHECKING:
    from dim_jax.data.dataset import Dataset

THUMBNAIL = 32  # px


@dataclass(frozen=True)
class Candidates:
    """Generated images, real images and a classifier, all of one split.

    Attributes:
      pools: the generated images, one pool per class.
      dataset: the real images; the images of the pools, in the pools' order, are its generated ones.
      classifier: the run of the classifier.
      image_size: side in px at which real and generated images are compared: the smallest of the pools' sizes.
    """

    pools: list[pools.Pool]
    dataset: "Dataset"
    classifier: ClassifierRun
    image_size: int


@dataclass(frozen=True)
class InceptionOutputs:
    """Outputs of the Inception network of FID, one row per row of the dataset; rows that are not compared are zero.

    Attributes:
      logits: (N, 1008).
      features: (N, 2048).
      space: description of the features, reported with every metric.
    """

    logits: np.ndarray
    features: np.ndarray
    space: str


@dataclass(frozen=True)
class CandidateFeatures:
    """Outputs of all networks, one row per row of the dataset; rows that are not needed are zero.

    Attributes:
      probabilities: class probabilities by the classifier, (N, C), for generated and validation images.
      features: (N, F).
      thumbnails: uint8 (N, THUMBNAIL, THUMBNAIL, 3).
      checkpoint_step: step of the classifier's checkpoint.
      space: description of the features, reported with every metric.
      inception: outputs of the Inception network, None without its weights; the selection does not depend on them.
    """

    probabilities: np.ndarray
    features: np.ndarray
    thumbnails: np.ndarray
    checkpoint_step: int
    space: str
    inception: InceptionOutputs | None = None


def open_candidates(pool: str | Path, data: str | Path, classifier: str | Path) -> Candidates:
    """Opens a pool, the prepared data and a classifier, and checks that they belong together.

    Args:
      pool: a folder of classes, or one class of it (pools.load).
      data: prepared data.
      classifier: run directory of a classifier; its fold is the one in use.

    Raises:
      FileNotFoundError: there is no pool, no data, no run or no checkpoint, or an image is missing.
      ValueError: the three differ in split or classes, the classifier was trained on generated images, the generated
        images are smaller than the classifier's input or made square in another way, or a file is broken.
    """
    class_pools, workdir = pools.load(pool), Path(classifier)
    run = open_classifier_run(workdir)
    config, training_data = run.config, open_run_dataset(workdir, run.config)
    if files.read_json(workdir / GENERATED_FILE)["images"]:
        raise ValueError(
            f"{workdir} was trained on generated images too, so it cannot judge them; give a classifier that was "
            "trained without config.data.generated"
        )
    dataset = open_dataset(data, config.data.fold)
    split, fold = dataset.split_sha256, config.data.fold
    if training_data.split_sha256 != split:
        raise ValueError(
            f"{workdir} was trained on another split than fold {fold} of {data} ({training_data.split_sha256[:12]}, "
            f"{split[:12]}); train a classifier on these data"
        )
    generated = []
    for class_pool in class_pools:
        folder, label = class_pool.folder, class_pool.label
        if label not in dataset.classes:
            raise ValueError(
                f"{folder}: unknown class {label!r}; the classes of {data} are {', '.join(dataset.classes)}"
            )
        if class_pool.split_sha256 != split:
            raise ValueError(
                f"{folder} is by {CONFIGS[class_pool.kind].NOUN} ({class_pool.model.workdir}) that was trained on "
                f"another split than fold {fold} of {data} ({class_pool.split_sha256[:12]}, {split[:12]}), so held-out "
                "images may have been among its training images; train it on these data"
            )
        pools.check_preprocessing(vars(class_pool), folder, config.data)
        generated += [(image.path, dataset.classes.index(label)) for image in class_pool.images]
    image_size = min(class_pool.image_size for class_pool in class_pools)
    return Candidates(class_pools, replace(dataset, generated=tuple(generated)), run, image_size)


def extract_features(candidates: Candidates, features: str, inception_weights: str | Path = "") -> CandidateFeatures:
    """Runs the networks on the generated images and on the real images that they are compared with.

    Args:
      features: feature space, one of selection_rules.FEATURES.
      inception_weights: weight file of the Inception network of FID (pretrained.inception_v3), or "" to skip it.

    Raises:
      FileNotFoundError: the weight file does not exist.
      ValueError: the classifier has diverged, the weights of an EfficientNet-Lite are not installed, or the weight file
        is of another network.
    """
    from scipy.special import softmax

    dataset = candidates.dataset
    # Before anything else: weights may be missing.
    extract = _network(features) if features != CLASSIFIER else None
    extract_inception = _inception(inception_weights) if inception_weights else None
    classes = np.unique(dataset.labels[dataset.is_generated])
    train, held_out = dataset.rows("train"), dataset.rows("val")
    generated = np.flatnonzero(dataset.is_generated).astype(np.int32)
    classified, every = np.concatenate([held_out, generated]), np.concatenate([train, held_out, generated])
    run = candidates.classifier
    predictor = make_predictor(run.config, dataset)
    variables = parallel.replicate(predictor.check_variables(run.variables, run.checkpoint_folder))
    predictions = predictor(variables, classified if extract else every)
    logits = np.zeros((len(dataset), len(dataset.classes)))
    logits[predictions.index] = predictions.logits
    if not np.isfinite(predictions.logits).all():
        raise ValueError(f"{run.workdir} gives logits that are not finite; train the classifier again")
    values, thumbnails = _features_and_thumbnails(candidates, every, extract)
    if values is None:
        values = np.zeros((len(dataset), predictions.features.shape[1]))
        values[predictions.index] = predictions.features
    inception = None
    if extract_inception:
        compared = np.concatenate([train[np.isin(dataset.labels[train], classes)], generated])
        outputs, _ = _features_and_thumbnails(candidates, compared, extract_inception)
        space = f"{pretrained.inception_space(inception_weights)}, {_resizing(candidates)}"
        inception = InceptionOutputs(outputs[:, :NUM_LOGITS], outputs[:, NUM_LOGITS:], space)
    probabilities, space = softmax(logits, axis=1), _space(candidates, features)
    return CandidateFeatures(probabilities, values, thumbnails, run.step, space, inception)


def check_features(features: str) -> None:
    """Raises ValueError if the weights of a feature space are not installed."""
    if features != CLASSIFIER:
        pretrained.lite_path(features)


def _network(features: str) -> Extract:
    """Returns a function from uint8 pixels (BATCH, S, S, 3) to the features of an EfficientNet-Lite."""
    try:
        return pretrained.pixel_features(features)
    except ValueError as error:
        raise ValueError(f"{error}; or use --features={CLASSIFIER}, which does not need them") from None


def _inception(weights: str | Path) -> Extract:
    """Returns a function from uint8 pixels (BATCH, S, S, 3) to logits and features, joined to (BATCH, 1008 + 2048)."""
    outputs = inception_outputs(weights)
    return lambda pixels: np.concatenate(outputs(pixels), -1)


def _features_and_thumbnails(
    candidates: Candidates, rows: np.ndarray, extract: Extract | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns features (None without `extract`) and thumbnails of all rows, zero for those not in `rows`.

    Real images are first resized to the size of the generated ones, or their sharpness alone would set them apart.
    """
    dataset = candidates.dataset
    thumbnails = np.zeros((len(dataset), THUMBNAIL, THUMBNAIL, 3), np.uint8)
    paths = [dataset.file(row) for row in rows]
    decoded = images.read_squares(paths, candidates.image_size, candidates.classifier.config.data.resize)

    def squares() -> Iterator[np.ndarray]:
        for row, pixels in zip(rows, decoded, strict=True):
            thumbnails[row] = images.resize(pixels, THUMBNAIL)
            yield pixels

    if extract is None:
        for _ in squares():
            pass
        return None, thumbnails
    values = extract_in_batches(extract, squares(), len(rows), "selection")
    features = np.zeros((len(dataset), values.shape[1]))
    features[rows] = values
    return features, thumbnails


def _space(candidates: Candidates, features: str) -> str:
    if features != CLASSIFIER:
        return f"{pretrained.feature_space(features)}, {_resizing(candidates)}"
    return classifier_space(candidates.classifier)


def _resizing(candidates: Candidates) -> str:
    # Stored in selected.json: the same words as in earlier selections.
    return f"of images brought to {candidates.image_size} px ({candidates.classifier.config.data.resize}) before"
