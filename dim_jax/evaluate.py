"""Evaluates a checkpoint on every image of a split, exactly once: eval/<split>/predictions.npz and metrics.json."""

import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dim_jax.cli import command_line
from dim_jax.runs import files

if TYPE_CHECKING:
    from dim_jax.data.dataset import Dataset
    from dim_jax.data.frozen_features import FrozenFeatures
    from dim_jax.data.resident import ResidentImages
    from dim_jax.data.tf_pipeline import TfImages

    Images = TfImages | ResidentImages | FrozenFeatures

EXAMPLES = """  python -m dim_jax.evaluate --workdir=runs/a --split=test
  python -m dim_jax.evaluate --workdir=runs/a --split=val --checkpoint=newest"""
SPLITS = ("train", "val", "test")
CHECKED_MAPS = 64


@dataclass(frozen=True)
class Predictions:
    """What a model said of N images.

    Attributes:
      index: rows of the manifest, int32 (N,).
      label: true labels, int32 (N,).
      logits: float32 (N, C).
      features: what the logits were made of, float32 (N, F).
      grad_cam: where in the image the predicted class was found, in [0, 1], float16 (N, h, w); None for a model that
        has no map.
      seconds_per_image: time of the devices, compilation and decoding left out.
    """

    index: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    features: np.ndarray
    grad_cam: np.ndarray | None
    seconds_per_image: float


class Predictor:
    """Runs a model over rows of a dataset on all devices; compiles once.

    Attributes:
      model: the model.
      dataset: the data.
      images: turns rows into pixels or features.
      pixels: those that live on the devices, replicated, or None where batches bring theirs.
      statistics: mean and std that images are normalised by.
    """

    def __init__(self, model: Any, dataset: "Dataset", images: "Images", batch_size: int):
        """Args:
        model: returns (logits, features), and shows its last feature map, if it has one, as explain.grad_cam asks.
        dataset: the data.
        images: turns its rows into pixels (data.backends.make_images).
        batch_size: global batch size, a multiple of the number of devices.
        """
        import jax.numpy as jnp

        from dim_jax.models.layers import prepare
        from dim_jax.steps.classifier import make_eval_step
        from dim_jax.training import parallel

        parallel.check_batch_size("config.train.eval_batch_size", batch_size)
        self.model, self.images, self.pixels = model, images, parallel.replicate(images.pixels)
        self.dataset, self._batch_size = dataset, batch_size
        self.statistics = images.statistics()
        one_image = jnp.zeros((1, *images.shape))
        self._prepare = parallel.pmap_once(lambda variables: prepare(model, variables, one_image))
        self._step = parallel.pmap_eval_step(make_eval_step(model))
        self._is_compiled = False

    def fitting(self, state: Any, where: str | Path) -> dict[str, Any]:
        """Returns the variables of a restored `state` that the model takes; raises ValueError where they do not fit."""
        import jax

        from dim_jax.training.state import fitting

        image = jax.ShapeDtypeStruct((1, *self.images.shape), np.float32)
        expected = jax.eval_shape(self.model.init, jax.random.key(0), image)
        return fitting(state, {name: expected[name] for name in ("params", "batch_stats") if name in expected}, where)

    def __call__(self, variables: Any, rows: np.ndarray, explained: np.ndarray | None = None) -> Predictions:
        """Predicts `rows` (N,) with replicated `variables`; every host predicts its part, and all get the whole.

        Args:
          explained: (N,) the classes that the Grad-CAM maps are for; the predicted ones when None.
        """
        import jax

        from dim_jax.data.batches import evaluation_plan
        from dim_jax.steps.grad_cam import PREDICTED
        from dim_jax.training import parallel

        class_of = {} if explained is None else dict(zip(rows.tolist(), explained.tolist(), strict=True))
        plan = evaluation_plan(rows, self._batch_size, jax.process_index(), jax.process_count())
        variables = {**variables, **self._prepare(variables)}
        parts, seconds = [], 0.0
        for batch in self.images.batches(plan):
            given = {name: batch[name] for name in ("image", "index") if name in batch}
            given["explained"] = np.array([class_of.get(row, PREDICTED) for row in batch["index"].tolist()], np.int32)
            arguments = (variables, parallel.shard(given), self.statistics, self.pixels)
            if not self._is_compiled:
                jax.block_until_ready(self._step(*arguments))
                self._is_compiled = True
            started = time.perf_counter()
            found = jax.block_until_ready(self._step(*arguments))
            seconds += time.perf_counter() - started
            parts.append((batch["mask"], *jax.tree.map(parallel.unshard, found)))
        # The rows of the global batches lie in order, padding last; a file that cannot be read is no image either.
        mask, *outputs = jax.tree.map(lambda *parts: parallel.gather_batches(parts)[: len(rows)], *parts)
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


def open_run(workdir: str | Path, trainer: str = "classifier") -> tuple[dict[str, Any], "Dataset"]:
    """Returns the configuration and the dataset of a run.

    Raises:
      FileNotFoundError: `workdir` holds no run, or its images are gone.
      ValueError: a file of it is broken.
    """
    from dim_jax.data.dataset import open_dataset
    from dim_jax.runs import configuration

    config = configuration.read(workdir, trainer)
    data = config["data"]
    if not data["path"]:
        raise FileNotFoundError(
            f"{workdir} was imported without images; import it again with --data=DATA, or give new images to "
            "python -m dim_jax.predict"
        )
    return config, open_dataset(workdir, data["fold"], mean=data.get("mean", ()), std=data.get("std", ()))


def make_predictor(config: dict[str, Any], dataset: "Dataset") -> Predictor:
    """Returns a predictor with the model, preprocessing and batch size of a configuration."""
    from dim_jax.data.backends import make_images
    from dim_jax.data.frozen_features import FrozenNetwork
    from dim_jax.models import make_classifier
    from dim_jax.training import parallel
    from dim_jax.weights import pretrained

    data, network = config["data"], None
    if data["backend"] == "features":
        network = FrozenNetwork(pretrained.feature_space(), pretrained.pixel_features)
    model = make_classifier(num_classes=len(dataset.classes), **config["model"])
    images = make_images(
        data["backend"],
        dataset,
        data["image_size"],
        data["resize"],
        data["cache_gib"],
        parallel.device_bytes(),
        network,
    )
    return Predictor(model, dataset, images, config["train"]["eval_batch_size"])


def evaluate(
    workdir: str | Path, split: str, checkpoint: str = "best", predictor: Predictor | None = None
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run and writes eval/<split>/.

    Args:
      workdir: run directory.
      split: "train", "val" or "test".
      checkpoint: "best" by validation, or "newest".
      predictor: one that is compiled already, of the same run.

    Returns:
      The metrics, as metrics.classification_metrics gives them, with the checkpoint's step and the timings.

    Raises:
      FileNotFoundError: there is no run or no checkpoint.
      ValueError: the split is empty or unknown, or something is broken.
    """
    from dim_jax.evaluation.metrics import classification_metrics
    from dim_jax.training import compilation, loop, parallel

    started = time.perf_counter()
    compilation.speed_up()
    workdir = Path(workdir)
    if split not in SPLITS:
        raise ValueError(f"--split={split}: choose one of {', '.join(SPLITS)}")
    config, dataset = parallel.on_first_host(lambda: open_run(workdir))
    rows = dataset.rows(split)
    if not len(rows):
        raise ValueError(f"{workdir}: its split has no {split} images")
    folder = workdir / {"best": loop.BEST, "newest": loop.CHECKPOINTS}[checkpoint]
    restored = loop.restore(folder)
    if restored is None:
        raise FileNotFoundError(f"{folder} holds no checkpoint yet; train the run first")
    predictor = predictor or parallel.on_all_hosts(lambda: make_predictor(config, dataset))
    variables = predictor.fitting(restored.state, folder)
    predictions = predictor(parallel.replicate(variables), rows)
    checked = None if predictions.grad_cam is None else _check_grad_cam(predictor, variables, predictions)

    def write() -> dict[str, Any]:
        metrics = {
            "split": split,
            "checkpoint": checkpoint,
            "checkpoint_step": restored.step,
            **classification_metrics(predictions.label, predictions.logits, dataset.classes),
            "training_seconds_per_100_images": _training_seconds_per_100_images(workdir, config),
            "test_seconds_per_image": predictions.seconds_per_image,
            "evaluation_seconds": time.perf_counter() - started,
            "grad_cam_check": checked,
        }
        _write(workdir / "eval" / split, predictions, metrics)
        return metrics

    return parallel.on_first_host(write)


def _write(folder: Path, predictions: Predictions, metrics: dict[str, Any]) -> None:
    buffer, maps = io.BytesIO(), {} if predictions.grad_cam is None else {"grad_cam": predictions.grad_cam}
    np.savez_compressed(
        buffer,
        index=predictions.index,
        label=predictions.label,
        logits=predictions.logits,
        features=predictions.features,
        **maps,
    )
    files.write_bytes(folder / "predictions.npz", buffer.getvalue())
    files.write_json(folder / "metrics.json", metrics)


def _check_grad_cam(predictor: Predictor, variables: dict[str, Any], predictions: Predictions) -> dict[str, Any]:
    """Returns how the maps of some images change when the last block forgets what it learned."""
    from dim_jax.steps import grad_cam as explain
    from dim_jax.training import parallel

    chosen = np.unique(np.linspace(0, len(predictions.index) - 1, CHECKED_MAPS).astype(int))
    params = explain.shuffle_weights(variables["params"], predictor.model.last_block)
    shuffled = predictor(
        parallel.replicate({**variables, "params": params}),
        predictions.index[chosen],
        predictions.logits[chosen].argmax(-1),
    )
    correlation = explain.rank_correlation(predictions.grad_cam[chosen], shuffled.grad_cam)
    return {"images": len(chosen), "rank_correlation": correlation}


def _training_seconds_per_100_images(workdir: Path, config: dict[str, Any]) -> float | None:
    """The median over the logged dispatches, none of which holds a compilation."""
    from dim_jax.training import writers

    logged = [record.get("seconds_per_step") for record in writers.read(workdir)]
    seconds = [value for value in logged if writers.is_number(value) and value > 0]
    return 100 * float(np.median(seconds)) / config["train"]["global_batch_size"] if seconds else None


def summary(metrics: dict[str, Any]) -> str:
    """Returns the metrics as a short text with one line per class."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "g_mean", "mcc", "macro_auroc", "expected_calibration_error")
    head = ", ".join(f"{name} {metrics[name]:.4f}" for name in names if metrics[name] is not None)
    lines = [f"{metrics['split']} ({metrics['num_images']} images, step {metrics['checkpoint_step']}): {head}"]
    for entry in metrics["per_class"]:
        recall = "not in this split" if entry["recall"] is None else f"recall {entry['recall']:.4f}"
        lines.append(f"  {command_line.printable(entry['class']):<24} {entry['support']:5d} images  {recall}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    parser = command_line.parser("evaluate", __doc__, EXAMPLES)
    parser.add_argument("--workdir", type=command_line.path, required=True, help="run directory of a classifier")
    parser.add_argument("--split", default="test", choices=SPLITS, help="images to evaluate on (default: %(default)s)")
    parser.add_argument(
        "--checkpoint",
        default="best",
        choices=("best", "newest"),
        help="best by validation, or the last one (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    command_line.start_logging()
    from dim_jax.training import hosts as joining

    joining.join()
    command_line.say(summary(evaluate(options.workdir, options.split, options.checkpoint)))


if __name__ == "__main__":
    sys.exit(command_line.run(main))
