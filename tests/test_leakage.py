"""Nothing of a validation or test image may reach training: not its pixels, not its label, not its share in a mean."""

import shutil

import jax
import numpy as np
from PIL import Image

from dim_jax import checkpoints, command_line, loop, train
from dim_jax.data import images, manifest, splits
from dim_jax.prepare import prepare


def final_params(data, run):
    arguments = ["--config=configs/classifier.py:test", "--config.train.global_batch_size=8"]
    arguments += ["--config.optimizer.warmup_epochs=0", f"--config.data.path={data}", f"--workdir={run}"]
    assert command_line.run(train.main, arguments) == 0
    return checkpoints.restore(run / loop.CHECKPOINTS).state


def test_training_does_not_notice_what_the_held_out_images_show(tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    data = prepare("phantom", tmp_path / "data", image_size=32, scale=0.03)
    spoiled = tmp_path / "spoiled"
    shutil.copytree(data, spoiled)
    dataset = manifest.load(spoiled)
    split = splits.load(spoiled, dataset)
    held_out = [*split.rows(0, "val"), *split.rows(0, "test")]
    for row in held_out:
        noise = np.random.default_rng(int(row)).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(noise).save(dataset.file(int(row)))
    clean, dirty = final_params(data, tmp_path / "a"), final_params(spoiled, tmp_path / "b")
    for ours, theirs in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The held-out images are not idle: the predictions on them do change.
    of = [np.load(tmp_path / run / "eval" / "test" / "predictions.npz")["logits"] for run in "ab"]
    assert not np.allclose(*of)


def test_normalisation_is_that_of_the_training_images_alone(tmp_path):
    data = prepare("phantom", tmp_path / "data", image_size=32, scale=0.03)
    dataset = manifest.load(data)
    split = splits.load(data, dataset)

    def statistics(rows):
        pixels = [images.resize(images.read_image(dataset.file(int(row))), 32) / 255 for row in rows]
        return np.mean(pixels, axis=(0, 1, 2)), np.std(pixels, axis=(0, 1, 2))

    mean, std = statistics(split.rows(0, "train"))
    np.testing.assert_allclose(split.folds[0].mean, mean, atol=1e-6)
    np.testing.assert_allclose(split.folds[0].std, std, atol=1e-5)
    everywhere, _ = statistics(range(len(dataset)))
    assert np.abs(everywhere - mean).max() > 1e-4
