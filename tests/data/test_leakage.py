"""Nothing of a validation or test image may reach training: not its pixels, not its label, not its share in a mean."""

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
    arguments += ["--config.optimizer.warmup_epochs=0", f"--config.data.path={data}", f"--workdir={run}"]
    assert command_line.run(train.main, arguments) == 0
    return checkpoints.restore(run / loop.CHECKPOINTS).state


def test_training_does_not_notice_what_the_held_out_images_show(tmp_path, monkeypatch, request):
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
    monkeypatch.setattr(manifest, "changed_files", lambda manifest: [])  # they would be refused
    clean, dirty = final_params(data, tmp_path / "a"), final_params(spoiled, tmp_path / "b")
    for ours, theirs in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The held-out images are not idle: the predictions on them do change.
    of = [np.load(tmp_path / run / "eval" / "test" / "predictions.npz")["logits"] for run in "ab"]
    assert not np.allclose(*of)


def test_normalisation_is_that_of_the_training_images_alone(tmp_path):
    data = prepare_dataset("phantom", tmp_path / "data", image_size=32, scale=0.03)
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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=32, scale=0.03)


def exchange(folder, first, second):
    """Lets one image of each of two parts change places."""
    content = files.read_json(folder / "split.json")
    parts = content["folds"][0]["assignment"]
    one, other = parts.index(first), parts.index(second)
    parts[one], parts[other] = parts[other], parts[one]
    files.write_json(folder / "split.json", content)


def test_a_split_is_known_by_its_images_and_their_parts(prepared, tmp_path):
    data, opened = prepared, datasets.open_dataset(prepared)
    known = opened.split_sha256
    datasets.save(opened, data, tmp_path / "run")
    assert datasets.open_dataset(tmp_path / "run").split_sha256 == known
    # Elsewhere, under other names: the same images are held out.
    for name in ("moved", "renamed", "exchanged", "other pixels"):
        shutil.copytree(data, tmp_path / name)
    assert datasets.open_dataset(tmp_path / "moved").split_sha256 == known
    content = files.read_json(tmp_path / "renamed" / "manifest.json")
    row = content["rows"][0]
    target = (tmp_path / "renamed" / "images" / row["path"]).with_name("new.png")
    (tmp_path / "renamed" / "images" / row["path"]).rename(target)
    row["path"] = str(target.relative_to(tmp_path / "renamed" / "images"))
    files.write_json(tmp_path / "renamed" / "manifest.json", content)
    bound = files.read_json(tmp_path / "renamed" / "split.json")
    bound["manifest"] = manifest.load(tmp_path / "renamed").fingerprint
    files.write_json(tmp_path / "renamed" / "split.json", bound)
    assert datasets.open_dataset(tmp_path / "renamed").split_sha256 == known
    # Another image is held out, or one of them is another image.
    exchange(tmp_path / "exchanged", "train", "test")
    assert datasets.open_dataset(tmp_path / "exchanged").split_sha256 != known
    content = files.read_json(tmp_path / "other pixels" / "manifest.json")
    content["rows"][0]["sha256"] = "00" * 32
    files.write_json(tmp_path / "other pixels" / "manifest.json", content)
    bound = files.read_json(tmp_path / "other pixels" / "split.json")
    bound["manifest"] = manifest.load(tmp_path / "other pixels").fingerprint
    files.write_json(tmp_path / "other pixels" / "split.json", bound)
    assert datasets.open_dataset(tmp_path / "other pixels").split_sha256 != known


@pytest.mark.parametrize("change", ["none", "train", "val"])
def test_images_of_a_gan_that_saw_another_split_are_refused(change, prepared, tmp_path, monkeypatch, request, capsys):
    """What such a GAN saw may be held out here. A list that names no split is the user's own and passes."""
    monkeypatch.chdir(request.config.rootpath)
    data = shutil.copytree(prepared, tmp_path / "data")
    opened = datasets.open_dataset(data)
    Image.new("RGB", (32, 32)).save(tmp_path / "fake.png")
    content = {"images": [{"path": "fake.png", "label": opened.classes[0]}], "split_sha256": opened.split_sha256}
    files.write_json(tmp_path / "selected.json", content)
    if change != "none":
        exchange(data, change, "test")
    arguments = ["--config=configs/classifier.py:test", "--config.train.global_batch_size=8", "--dry-run"]
    arguments += [f"--config.data.path={data}", f"--workdir={tmp_path / 'run'}"]
    arguments += [f"--config.data.generated={tmp_path / 'selected.json'}"]
    assert command_line.run(train.main, arguments) == (0 if change == "none" else 2)
    assert ("another split" in capsys.readouterr().err) == (change != "none")
    files.write_json(tmp_path / "selected.json", {"images": content["images"]})
    assert command_line.run(train.main, arguments) == 0
    # A run's own list of what it was trained on is bound to the run's split.
    datasets.save(datasets.open_dataset(data, generated=tmp_path / "selected.json"), data, tmp_path / "saved")
    exchange(data, "train", "val")
    with pytest.raises(ValueError, match="another split"):
        datasets.open_dataset(data, generated=tmp_path / "saved" / "generated.json")
