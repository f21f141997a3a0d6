"""Frozen features in place of pixels: computed once per image, and a linear model trained on them."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.data import backends, frozen_features, images
from dim_jax.data import dataset as datasets
from dim_jax.data.preparation import prepare_dataset
from dim_jax.reporting import report_files
from dim_jax.runs import files
from dim_jax.weights import pretrained

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'classifier.py'}:linear"
SIZE = 16


class Network:
    """A fake frozen network: the features of an image are the mean colours of its rows; counts its images."""

    def __init__(self):
        self.num_images = 0

    def load(self):
        def extract(pixels):
            self.num_images += len(pixels)
            return pixels.astype(np.float32).mean(2).reshape(len(pixels), -1)

        return extract

    def features(self, dataset, size=SIZE):
        network = frozen_features.FrozenNetwork("mean colours", self.load)
        return backends.make_images("features", dataset, size, "squash", 1.0, network=network)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=32, scale=0.03)


@pytest.fixture
def folder(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "data")


def test_features_are_computed_once_per_image_and_cached_for_later_runs(folder, tmp_path):
    network, dataset = Network(), datasets.open_dataset(folder)
    first = network.features(dataset)
    batches = -(-len(dataset) // frozen_features.BATCH)
    assert network.num_images == batches * frozen_features.BATCH
    for row in (0, len(dataset) - 1):
        pixels = images.resize(images.read_image(dataset.file(row)), SIZE)
        np.testing.assert_allclose(first.pixels[row], pixels.mean(1).ravel(), rtol=1e-5)
    datasets.save(dataset, folder, tmp_path / "run")
    again = network.features(datasets.open_dataset(tmp_path / "run"))
    assert network.num_images == batches * frozen_features.BATCH
    np.testing.assert_array_equal(again.pixels, first.pixels)
    network.features(dataset, 24)
    assert network.num_images == 2 * batches * frozen_features.BATCH


def test_features_of_generated_images_are_added_to_the_cache(folder, tmp_path):
    network, dataset = Network(), datasets.open_dataset(folder)
    network.features(dataset)
    num_images = network.num_images
    picture = tmp_path / "generated.png"
    files.write_bytes(picture, images.png_bytes(images.read_image(dataset.file(0))[::-1]))
    more = dataclasses.replace(dataset, generated=((picture, 1), (dataset.file(2), 0)))
    features = network.features(more)
    assert network.num_images == num_images + frozen_features.BATCH
    assert features.pixels.shape == (len(dataset) + 2, SIZE * 3)
    np.testing.assert_array_equal(features.pixels[-1], features.pixels[2])


def test_statistics_are_those_of_the_real_training_images_only(folder):
    dataset = datasets.open_dataset(folder)
    features = Network().features(dataclasses.replace(dataset, generated=((dataset.file(0), 1),)))
    features.pixels[:, 5] = 7
    mean, std = features.statistics()
    training = features.pixels[dataset.rows("train")]
    np.testing.assert_allclose(mean, training.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, np.where(np.arange(SIZE * 3) == 5, 1, training.std(0)), rtol=1e-4)
    assert mean.dtype == std.dtype == np.float32


def test_a_damaged_cache_is_named_and_an_unwritable_one_is_not_an_error(folder, monkeypatch):
    network, dataset = Network(), datasets.open_dataset(folder)
    network.features(dataset)
    (path,) = folder.glob("features-*.npz")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"features-.*\.npz .*delete the file"):
        network.features(dataset)
    path.unlink()

    def refuse(path, data):
        raise PermissionError("read-only")

    monkeypatch.setattr(files, "write_bytes", refuse)
    assert len(network.features(dataset).pixels) == len(dataset)
    assert not path.exists()


def test_a_linear_model_is_trained_evaluated_and_reported(folder, tmp_path, monkeypatch, capsys):
    network, run = Network(), tmp_path / "run"
    monkeypatch.setattr(pretrained, "feature_space", lambda _: "mean colours")
    monkeypatch.setattr(pretrained, "pixel_features", lambda _: network.load())
    arguments = [CONFIG, f"--config.data.path={folder}", "--config.train.num_epochs=60", "--config.data.image_size=16"]
    assert command_line.run(train.main, [*arguments, f"--workdir={run}"]) == 0
    metrics = files.read_json(run / "eval" / "val" / "metrics.json")
    losses = [line["loss"] for line in map(json.loads, (run / "metrics.jsonl").open()) if line["split"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
    assert metrics["grad_cam_check"] is None
    with np.load(run / "eval" / "val" / "predictions.npz") as predictions:
        assert set(predictions) == {"index", "label", "logits", "features"}
        standardised = predictions["features"]
    assert standardised.shape == (metrics["num_images"], SIZE * 3) and abs(standardised.mean()) < 0.5
    assert "mean colours" in files.read_json(run / "environment.json")["features"]
    page = Path(report_files.write_report([run])).read_text()
    assert "input of this model is features, not images" in page and "without Grad-CAM maps" not in page


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.data.backend=resident"], "do not fit: linear takes features"),
        (["--config.augment.flip=True"], "config.augment.flip changes images"),
        (["--config.data.mean=(0.5,0.5,0.5)", "--config.data.std=(0.1,0.1,0.1)"], "config.data.mean changes images"),
    ],
)
def test_options_that_need_pixels_are_refused(arguments, expected, folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert command_line.run(train.main, [CONFIG, f"--config.data.path={folder}", f"--workdir={run}", *arguments]) == 2
    assert re.search(expected, capsys.readouterr().err)
    assert not run.exists()


def test_the_features_backend_is_refused_where_pixels_are_needed(folder):
    with pytest.raises(ValueError, match="features has no pixels; choose tf or resident"):
        backends.make_images("features", datasets.open_dataset(folder), 32, "squash", 1.0)
