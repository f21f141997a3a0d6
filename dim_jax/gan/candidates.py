"""Candidates of a selection: generated images and the real ones they are judged by, as the networks see them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dim_jax.cli.progress import Progress
from dim_jax.data import images
from dim_jax.data.dataset import GENERATED_FILE, open_dataset, open_run_dataset
from dim_jax.evaluation.classifier_run import ClassifierRun, open_classifier_run
from dim_jax.evaluation.predictor import make_predictor
from dim_jax.gan import pools
from dim_jax.gan.selection_rules import CLASSIFIER, LITE0
from dim_jax.models.feature_nets import inception_features
from dim_jax.models.inception import NUM_LOGITS
from dim_jax.runs import files
from dim_jax.training import parallel
from dim_jax.weights import pretrained

if TYPE_CHECKING:
    from dim_jax.data.dataset import Dataset

THUMBNAIL = 32  # px
BATCH = 32


@dataclass(frozen=True)
class Candidates:
    """What is chosen from and by, all of one split.

    Attributes:
      pools: the generated images, one pool per class.
      dataset: the real images, and those of the pools in their order as its generated ones.
      classifier: the classifier that judges them.
      image_size: side in px at which real and generated images are compared, the smallest of the pools'.
    """

    pools: list[pools.Pool]
    dataset: "Dataset"
    classifier: ClassifierRun
    image_size: int


@dataclass(frozen=True)
class Inception:
    """What the network of FID says of the rows of the dataset, zero for those that are not needed.

    Attributes:
      logits: (N, 1008).
      features: (N, 2048).
      space: what to call the features beside a number.
    """

    logits: np.ndarray
    features: np.ndarray
    space: str


@dataclass(frozen=True)
class Seen:
    """What is known of the rows of the dataset, zero for those that are not needed.

    Attributes:
      probabilities: of every class, by the classifier, (N, C); of generated and validation images.
      features: (N, F).
      thumbnails: uint8 (N, THUMBNAIL, THUMBNAIL, 3).
      checkpoint_step: of the classifier.
      space: what to call the features beside a number.
      inception: None where its weights are not given; no image is chosen by it.
    """

    probabilities: np.ndarray
    features: np.ndarray
    thumbnails: np.ndarray
    checkpoint_step: int
    space: str
    inception: Inception | None = None


def gather(pool: str | Path, data: str | Path, classifier: str | Path) -> Candidates:
    """Opens what generated images are judged by, and checks that it belongs together.

    Args:
      pool: a folder of classes, or one class of it (pools.load).
      data: prepared data.
      classifier: run directory of a classifier; its fold is the one in use.

    Raises:
      FileNotFoundError: there is no pool, no data, no run, no checkpoint, or an image is gone.
      ValueError: the three are not of one split or do not have the same classes, the classifier has seen generated
        images, the generated images are smaller than what it takes, or a file is broken.
    """
    found, workdir = pools.load(pool), Path(classifier)
    run = open_classifier_run(workdir)
    config, trained_on = run.config, open_run_dataset(workdir, run.config)
    if files.read_json(workdir / GENERATED_FILE)["images"]:
        raise ValueError(
            f"{workdir} was trained on generated images too, so it cannot judge them; give a classifier that was "
            "trained without config.data.generated"
        )
    dataset = open_dataset(data, config["data"]["fold"])
    split, fold = dataset.split_sha256, config["data"]["fold"]
    if trained_on.split_sha256 != split:
        raise ValueError(
            f"{workdir} was trained on another split than fold {fold} of {data} ({trained_on.split_sha256[:12]}, "
            f"{split[:12]}); train a classifier on these data"
        )
    generated = []
    for each in found:
        if each.label not in dataset.classes:
            raise ValueError(
                f"{each.folder}: unknown class {each.label!r}; the classes of {data} are {', '.join(dataset.classes)}"
            )
        if each.split_sha256 != split:
            raise ValueError(
                f"{each.folder} is by a GAN ({each.model.workdir}) that was trained on another split than fold {fold} "
                f"of {data} ({each.split_sha256[:12]}, {split[:12]}), so it may have seen held-out images; train it on "
                "these data"
            )
        needed = config["data"]["image_size"]
        if each.image_size < needed:
            raise ValueError(
                f"{each.folder}: images of {each.image_size} px would be enlarged to the {needed} px of {workdir}, "
                f"which could tell them by their blur; generate images of {needed} px, or give a classifier of "
                f"{each.image_size} px"
            )
        label = dataset.classes.index(each.label)
        generated += [(image.path, label) for image in each.images]
    return Candidates(found, replace(dataset, generated=tuple(generated)), run, min(each.image_size for each in found))


def look(candidates: Candidates, features: str, inception_weights: str | Path = "") -> Seen:
    """Runs the networks over the generated images, and over the real ones that they are compared to.

    Args:
      features: LITE0 or CLASSIFIER.
      inception_weights: file of the network of FID (pretrained.inception_v3), or "" to do without.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it has diverged, the weights of EfficientNet-Lite0 are not installed, or the file is another one.
    """
    from scipy.special import softmax

    dataset = candidates.dataset
    # First of all: weights may be missing.
    extract = _lite0() if features == LITE0 else None
    extract_inception = _inception(inception_weights) if inception_weights else None
    classes = np.unique(dataset.labels[dataset.is_generated])
    train, held_out = dataset.rows("train"), dataset.rows("val")
    held_out = held_out[np.isin(dataset.labels[held_out], classes)]
    generated = np.flatnonzero(dataset.is_generated).astype(np.int32)
    judged, every = np.concatenate([held_out, generated]), np.concatenate([train, held_out, generated])
    run = candidates.classifier
    predictor = make_predictor(run.config, dataset)
    variables = parallel.replicate(predictor.check_variables(run.variables, run.checkpoint_folder))
    predicted = predictor(variables, judged if extract else every)
    logits = np.zeros((len(dataset), len(dataset.classes)))
    logits[predicted.index] = predicted.logits
    if not np.isfinite(predicted.logits).all():
        raise ValueError(f"{run.workdir} gives logits that are not finite; train the classifier again")
    found, thumbnails = _pixels(candidates, every, extract)
    if found is None:
        found = np.zeros((len(dataset), predicted.features.shape[1]))
        found[predicted.index] = predicted.features
    inception = None
    if extract_inception:
        compared = np.concatenate([train[np.isin(dataset.labels[train], classes)], generated])
        both, _ = _pixels(candidates, compared, extract_inception)
        space = f"{pretrained.inception_space(inception_weights)}, {_brought(candidates)}"
        inception = Inception(both[:, :NUM_LOGITS], both[:, NUM_LOGITS:], space)
    return Seen(softmax(logits, axis=1), found, thumbnails, run.step, _space(candidates, features), inception)


def _lite0() -> Callable[[np.ndarray], np.ndarray]:
    """Returns what turns uint8 pixels (BATCH, S, S, 3) into features (BATCH, 1280)."""
    try:
        return pretrained.pixel_features()
    except ValueError as error:
        raise ValueError(f"{error}; --features={CLASSIFIER} does without") from None


def _inception(weights: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what turns uint8 pixels (BATCH, S, S, 3) into logits and after them features (BATCH, 1008 + 2048)."""
    import jax
    import jax.numpy as jnp

    variables = pretrained.inception_v3(weights)
    compiled = jax.jit(lambda variables, images: jnp.concatenate(inception_features(variables, images), -1))
    return lambda pixels: np.asarray(compiled(variables, pixels.astype(np.float32) / 127.5 - 1))


def _pixels(
    candidates: Candidates, rows: np.ndarray, extract: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns features (None without `extract`) and thumbnails of all rows, zero for those not in `rows`.

    Real images are first brought to the size of the generated ones, or their sharpness alone would set them apart.
    """
    dataset = candidates.dataset
    thumbnails = np.zeros((len(dataset), THUMBNAIL, THUMBNAIL, 3), np.uint8)
    found, waiting = None, []
    progress = Progress("looking at images", len(rows))
    decoded = images.read_squares(
        [dataset.file(row) for row in rows], candidates.image_size, candidates.classifier.config["data"]["resize"]
    )
    for done, pixels in enumerate(decoded, start=1):
        thumbnails[rows[done - 1]] = images.resize(pixels, THUMBNAIL)
        if extract:
            waiting.append(pixels)
            if len(waiting) == BATCH or done == len(rows):
                # The last batch is filled up, so that one program serves all.
                batch = np.stack(waiting + waiting[:1] * (BATCH - len(waiting)))
                values = extract(batch)[: len(waiting)]
                found = np.zeros((len(dataset), values.shape[1])) if found is None else found
                found[rows[done - len(waiting) : done]] = values
                waiting = []
        progress.update(done)
    progress.close()
    return found, thumbnails


def _space(candidates: Candidates, features: str) -> str:
    if features == LITE0:
        return f"{pretrained.feature_space()}, {_brought(candidates)}"
    data = candidates.classifier.config["data"]
    return f"features of the classifier {candidates.classifier.workdir}, {data['image_size']} px ({data['resize']})"


def _brought(candidates: Candidates) -> str:
    return f"of images brought to {candidates.image_size} px ({candidates.classifier.config['data']['resize']}) before"
