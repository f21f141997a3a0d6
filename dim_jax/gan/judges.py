"""Feature spaces in which generated images are compared with real ones, and which of them may judge a pool.

A generator whose discriminator learned in the features of a network does well in these features whatever its images are
like (Kynkäänniemi et al., "The role of ImageNet classes in Fréchet inception distance", ICLR 2023), so such a space is
refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dim_jax.cli.progress import Progress
from dim_jax.data import images
from dim_jax.evaluation import frozen_networks
from dim_jax.evaluation.classifier_run import ClassifierRun
from dim_jax.gan.pools import Pool
from dim_jax.gan.selection_rules import CLASSIFIER, FEATURES, INCEPTION, LITE0
from dim_jax.models.efficientnet_lite import PUBLISHED
from dim_jax.models.feature_nets import inception_features
from dim_jax.weights import pretrained

BATCH = 32

Extract = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Judge:
    """A named feature space.

    Attributes:
      name: one of selection_rules.FEATURES, or INCEPTION.
      space: description of the features, with the digest of the weights or the run.
      extract: features (BATCH, F) of uint8 pixels (BATCH, S, S, 3).
      side: the side S in px that `extract` takes; None for any.
    """

    name: str
    space: str
    extract: Extract
    side: int | None = None


def classifier_network(run: ClassifierRun) -> str | None:
    """Returns the ImageNet network that a classifier's features are made by or began as, None if there is none."""
    config = run.config
    if config.data.backend == "features":
        return frozen_networks.architecture(config.data.feature_network)
    return config.model.name if config.model.name in PUBLISHED else None


def classifier_space(run: ClassifierRun) -> str:
    """Describes the features of a classifier."""
    data = run.config.data
    return f"features of the classifier {run.workdir}, {data.image_size} px ({data.resize})"


def check_space(features: str, run: ClassifierRun, class_pools: Sequence[Pool]) -> None:
    """Checks that a space may judge the pools.

    Args:
      features: one of selection_rules.FEATURES.
      run: the classifier.
      class_pools: the pools.

    Raises:
      ValueError: the discriminator of a pool's GAN used the network of these features.
    """
    network = classifier_network(run) if features == CLASSIFIER else features
    for pool in class_pools:
        if network and network in (pool.discriminator_features or ()):
            others = [name for name in FEATURES if name != features and _reason(name, run, class_pools) is None]
            raise ValueError(
                f"--features={features}: the discriminator of {pool.model.workdir}, which generated {pool.folder}, "
                f"learned in the features of {network}, so they cannot judge its images; choose --features="
                f"{' or '.join(others) or 'classifier, with a --classifier of another network'}"
            )


def unrecorded(class_pools: Sequence[Pool]) -> list[str]:
    """Returns a warning for every pool that does not record which features its discriminator used."""
    return [
        f"{pool.folder} does not record which feature networks the discriminator of {pool.model.workdir} used (it is "
        "of an earlier version), so metrics in the features of an ImageNet network may be too good; generate it again"
        for pool in class_pools
        if pool.discriminator_features is None
    ]


def unused_spaces(run: ClassifierRun, class_pools: Sequence[Pool], inception_weights: str | Path) -> dict[str, str]:
    """Returns the names of the spaces that do not judge the pools, with the reasons."""
    reasons = {name: _reason(name, run, class_pools) for name in FEATURES}
    if not inception_weights:
        reasons[INCEPTION] = "its weights were not given (--inception-weights)"
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(name: str, run: ClassifierRun, class_pools: Sequence[Pool]) -> str | None:
    """Returns why a space does not judge the pools, None if it does."""
    network = classifier_network(run) if name == CLASSIFIER else name
    users = {pool.model.workdir for pool in class_pools if network in (pool.discriminator_features or ())}
    if users:
        return f"the discriminator of {', '.join(sorted(users))} learned in the features of {network}"
    if name == CLASSIFIER and run.config.data.backend == "features":
        return f"its features are those of {network}"
    if name == LITE0 and any(pool.discriminator_features is None for pool in class_pools):
        return "a pool does not record whether its discriminator used these features"
    return None


def open_judges(
    names: Iterable[str],
    run: ClassifierRun,
    inception_weights: str | Path = "",
) -> list[Judge]:
    """Loads the networks of spaces.

    Args:
      names: LITE0, LITE2, CLASSIFIER or INCEPTION.
      run: the classifier.
      inception_weights: weight file of the Inception network of FID.

    Raises:
      FileNotFoundError: the weight file does not exist.
      ValueError: the weights of a network are not installed, or the weight file is of another network.
    """
    judges = []
    for name in names:
        if name == CLASSIFIER:
            judges.append(Judge(name, classifier_space(run), _classifier(run), run.config.data.image_size))
        elif name == INCEPTION:
            extract = _inception(inception_weights)  # first: its error says what the file should be
            judges.append(Judge(name, pretrained.inception_space(inception_weights), extract))
        else:
            judges.append(Judge(name, pretrained.feature_space(name), pretrained.pixel_features(name)))
    return judges


def _classifier(run: ClassifierRun) -> Extract:
    """Returns the function from pixels to the input of the classifier's last layer."""

    @jax.jit
    def features(variables: dict[str, Any], pixels: jax.Array) -> jax.Array:
        outputs: Any = run.model.apply(variables, (pixels.astype(jnp.float32) / 255 - run.mean) / run.std)
        return outputs[1]

    return lambda pixels: np.asarray(features(run.variables, pixels))


def inception_outputs(weights: str | Path) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a function from uint8 pixels (N, S, S, 3) to logits (N, 1008) and features (N, 2048) of Inception.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: it is of another network.
    """
    variables = pretrained.inception_v3(weights)
    compiled = jax.jit(lambda variables, pixels: inception_features(variables, pixels))

    def outputs(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = compiled(variables, pixels.astype(np.float32) / 127.5 - 1)
        return np.asarray(logits), np.asarray(features)

    return outputs


def _inception(weights: str | Path) -> Extract:
    """Returns the function from pixels to the features of FID."""
    outputs = inception_outputs(weights)
    return lambda pixels: outputs(pixels)[1]


def resized_squares(paths: Sequence[Path], sides: Sequence[int], policy: str) -> Iterable[np.ndarray]:
    """Yields the pixels of images that are resized to several sides in turn.

    Args:
      paths: files.
      sides: sides in px, such as (64, 16, 64) for 64 px with the detail of 16 px.
      policy: how images are made square (data.images.resize).
    """
    for pixels in images.read_squares(paths, sides[0], policy):
        for side in sides[1:]:
            pixels = images.resize(pixels, side)
        yield pixels


def judge_features(judge: Judge, paths: Sequence[Path], sides: Sequence[int], policy: str) -> np.ndarray:
    """Returns the features of images in a space, (N, F); for `sides` and `policy` see `resized_squares`."""
    if judge.side not in (None, sides[-1]):
        sides = (*sides, judge.side)
    return extract_in_batches(judge.extract, resized_squares(paths, sides, policy), len(paths), judge.name)


def extract_in_batches(extract: Extract, squares: Iterable[np.ndarray], count: int, title: str) -> np.ndarray:
    """Runs a network on images in batches of one size, so that all of them share one compiled program.

    Args:
      extract: features (BATCH, F) of uint8 pixels (BATCH, S, S, 3).
      squares: `count` images, uint8 (S, S, 3).
      count: number of images.
      title: name of the network, for the progress display.

    Returns:
      (count, F) float64; (0, 0) without images.
    """
    values: list[np.ndarray] = []
    batch: list[np.ndarray] = []
    progress = Progress(f"extracting features ({title})", count)
    for done, pixels in enumerate(squares, start=1):
        batch.append(pixels)
        if len(batch) == BATCH or done == count:
            values.append(extract(np.stack(batch + batch[:1] * (BATCH - len(batch))))[: len(batch)])
            batch = []
        progress.update(done)
    progress.close()
    return np.concatenate(values).astype(np.float64) if values else np.zeros((0, 0))
