"""Validation and test images do not reach training: neither pixels nor labels nor statistics."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from dim_jax import train
from dim_jax.cli import command_line
from dim_jax.data import dataset as datasets
from dim_jax.data import images, manifest, splits
from dim_jax.data.preparation import prepare_dataset
from dim_jax.runs import files
from dim_jax.training import checkpoints, loop


def final_params(data, run):
    arguments = ["--config=configs/classifier.py:test", "--config.train.global_batch_size=8"]
    arguments += ["--config.optimizer.warmup_epochs=0", "--config.train.report=False"]
    arguments += [f"--config.data.path={data}", f"--workdir={run}"]
    assert command_line.run(train.main, arguments) == 0
    return checkpoints.restore(run / loop.CHECKPOINTS).state


def test_training_is_independent_of_the_pixels_of_held_out_images(tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    data = prepare_dataset("phantom", tmp_path / "data", image_size=32, scale=0.03)
    spoiled = tmp_path / "spoiled"
    shutil.copytree(data, spoiled)
    dataset = manifest.load(spoiled)
    split = splits.load(spoiled, dataset)
    held_out = [*split.rows(0, "val"), *split.rows(0, "test")]
    for row in held_out:
        noise = np.random.default_rng(int(row)).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(noise).save(dataset.file(int(row)))
    monkeypatch.setattr(manifest, "changed_files", lambda manifest: [])  # changed files are refused otherwise
    clean, dirty = final_params(data, tmp_path / "a"), final_params(spoiled, tmp_path / "b")
    for ours, theirs in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The predictions on the held-out images do change.
    logits = [np.load(tmp_path / run / "eval" / "test" / "predictions.npz")["logits"] for run in "ab"]
    assert not np.allclose(*logits)


def test_normalisation_statistics_are_those_of_the_training_images_only(tmp_path):
    data = prepare_dataset("phantom", tmp_path / "data", image_size=32, scale=0.03)
    dataset = manifest.load(data)
    split = splits.load(data, dataset)

    def statistics(rows):
        pixels = [images.resize(images.read_image(dataset.file(int(row))), 32) / 255 for row in rows]
        return np.mean(pixels, axis=(0, 1, 2)), np.std(pixels, axis=(0, 1, 2))

    mean, std = statistics(split.rows(0, "train"))
    np.testing.assert_allclose(split.folds[0].mean, mean, atol=1e-6)
    np.testing.assert_allclose(split.folds[0].std, std, atol=1e-5)
    mean_of_all, _ = statistics(range(len(dataset)))
    assert np.abs(mean_of_all - mean).max() > 1e-4


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=32, scale=0.03)


def exchange(folder, first, second):
    """Exchanges one image of each of two parts of the split."""
    record = files.read_json(folder / "split.json")
    parts = record["folds"][0]["assignment"]
    one, other = parts.index(first), parts.index(second)
    parts[one], parts[other] = parts[other], parts[one]
    files.write_json(folder / "split.json", record)


def update_fingerprint(folder):
    """Binds the split in a folder to its changed manifest."""
    record = files.read_json(folder / "split.json")
    record["manifest"] = manifest.load(folder).fingerprint
    files.write_json(folder / "split.json", record)


def test_a_split_is_identified_by_its_images_and_their_parts(prepared, tmp_path):
    data, opened = prepared, datasets.open_dataset(prepared)
    expected = opened.split_sha256
    datasets.save(opened, data, tmp_path / "run")
    assert datasets.open_dataset(tmp_path / "run").split_sha256 == expected
    # In another folder or under other names, the same images are held out.
    for name in ("moved", "renamed", "exchanged", "other pixels"):
        shutil.copytree(data, tmp_path / name)
    assert datasets.open_dataset(tmp_path / "moved").split_sha256 == expected
    record = files.read_json(tmp_path / "renamed" / "manifest.json")
    row = record["rows"][0]
    target = (tmp_path / "renamed" / "images" / row["path"]).with_name("new.png")
    (tmp_path / "renamed" / "images" / row["path"]).rename(target)
    row["path"] = str(target.relative_to(tmp_path / "renamed" / "images"))
    files.write_json(tmp_path / "renamed" / "manifest.json", record)
    update_fingerprint(tmp_path / "renamed")
    assert datasets.open_dataset(tmp_path / "renamed").split_sha256 == expected
    # Another image is held out, or an image has other pixels.
    exchange(tmp_path / "exchanged", "train", "test")
    assert datasets.open_dataset(tmp_path / "exchanged").split_sha256 != expected
    record = files.read_json(tmp_path / "other pixels" / "manifest.json")
    record["rows"][0]["sha256"] = "00" * 32
    files.write_json(tmp_path / "other pixels" / "manifest.json", record)
    update_fingerprint(tmp_path / "other pixels")
    assert datasets.open_dataset(tmp_path / "other pixels").split_sha256 != expected


@pytest.mark.parametrize("change", ["none", "train", "val"])
def test_images_of_a_gan_trained_on_another_split_are_refused(change, prepared, tmp_path, monkeypatch, request, capsys):
    """Images that trained such a GAN may be held out here. A list without a split is the user's own and is accepted."""
    monkeypatch.chdir(request.config.rootpath)
    data = shutil.copytree(prepared, tmp_path / "data")
    opened = datasets.open_dataset(data)
    Image.new("RGB", (32, 32)).save(tmp_path / "fake.png")
    record = {"images": [{"path": "fake.png", "label": opened.classes[0]}], "split_sha256": opened.split_sha256}
    files.write_json(tmp_path / "selected.json", record)
    if change != "none":
        exchange(data, change, "test")
    arguments = ["--config=configs/classifier.py:test", "--config.train.global_batch_size=8", "--dry-run"]
    arguments += [f"--config.data.path={data}", f"--workdir={tmp_path / 'run'}"]
    arguments += [f"--config.data.generated={tmp_path / 'selected.json'}"]
    assert command_line.run(train.main, arguments) == (0 if change == "none" else 2)
    assert ("another split" in capsys.readouterr().err) == (change != "none")
    files.write_json(tmp_path / "selected.json", {"images": record["images"]})
    assert command_line.run(train.main, arguments) == 0
    # The list saved in a run directory names the split of the run.
    datasets.save(datasets.open_dataset(data, generated=tmp_path / "selected.json"), data, tmp_path / "saved")
    exchange(data, "train", "val")
    with pytest.raises(ValueError, match="another split"):
        datasets.open_dataset(data, generated=tmp_path / "saved" / "generated.json")
