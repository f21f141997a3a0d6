"""Pools of generated images: reproducible files, provenance in every file, and verification on reading."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dim_jax.data import images
from dim_jax.gan import pools
from dim_jax.runs import files

MODEL = {"workdir": "runs/gan", "checkpoint_step": 7, "model_sha256": "ab" * 32, "split_sha256": "cd" * 32}


def pixels(number, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, size, size, 3)).astype(np.uint8)


def write_pool(root, label="normal", seeds=(3, 1), images=None, **changes):
    writer = pools.PoolWriter(root, label, **{**MODEL, **changes})
    return writer.list(writer.write(pixels(len(seeds)) if images is None else images, seeds))


def test_a_pool_is_read_back_as_it_was_written(tmp_path):
    folder = write_pool(tmp_path / "pool", seeds=(42, 7), truncation=0.7)
    (pool,) = pools.load(tmp_path / "pool")
    assert folder == tmp_path / "pool" / "normal" and (folder / "seed00042.png").is_file()
    assert (pool.label, pool.image_size, pool.truncation, pool.split_sha256) == ("normal", 8, 0.7, "cd" * 32)
    assert pool.model == pools.Model("runs/gan", 7, "ab" * 32)
    assert [image.seed for image in pool.images] == [7, 42]
    np.testing.assert_array_equal(images.read_image(pool.images[1].path), pixels(2)[0])
    assert pools.load(folder) == [pool]


def test_every_png_carries_its_provenance(tmp_path):
    write_pool(tmp_path, label="Übergang", seeds=(5,))
    (pool,) = pools.load(tmp_path)
    with Image.open(pool.images[0].path) as image:
        texts = dict(image.info)
    expected = {"synthetic": "true", "generator": "dim_jax", "model": "ab" * 32, "class": "Übergang", "seed": "5"}
    assert expected.items() <= texts.items()


def test_equal_images_of_equal_seeds_are_equal_files(tmp_path):
    pngs = [(write_pool(tmp_path / name) / "seed00003.png").read_bytes() for name in "ab"]
    assert pngs[0] == pngs[1]
    other = write_pool(tmp_path / "c", images=pixels(2, seed=1))
    assert (other / "seed00003.png").read_bytes() != pngs[0]


def test_more_images_of_the_same_model_are_added(tmp_path):
    write_pool(tmp_path, seeds=(0, 1))
    write_pool(tmp_path, seeds=(1, 2))
    (pool,) = pools.load(tmp_path)
    assert [image.seed for image in pool.images] == [0, 1, 2]


@pytest.mark.parametrize("change", [{"model_sha256": "ef" * 32}, {"split_sha256": "ef" * 32}, {"truncation": 0.5}])
def test_images_of_another_origin_are_not_mixed_in(tmp_path, change):
    folder = write_pool(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def no_images():
        raise AssertionError("an image was generated in vain")
        yield

    with pytest.raises(ValueError, match="another --out"):
        write_pool(tmp_path, seeds=(9,), images=no_images(), **change)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8, unique=True))
def test_class_names_give_distinct_safe_folder_names(labels):
    names = [pools.folder_name(label) for label in labels]
    assert len(set(names)) == len(names)
    for name in names:
        assert name and "/" not in name and "\\" not in name and name not in (".", "..") and not name.startswith(".")


def test_hostile_class_names_stay_inside_the_pool_and_are_read_back(tmp_path):
    root = tmp_path / "pool"
    for label in ("../x", "a/b", "a_b", "/etc"):
        assert write_pool(root, label).parent == root
    assert [pool.label for pool in pools.load(root)] == ["../x", "/etc", "a/b", "a_b"]
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize("seeds", [(), (-1, 2), (4, 4)])
def test_missing_negative_or_repeated_seeds_are_refused(tmp_path, seeds):
    with pytest.raises(ValueError, match="seeds"):
        write_pool(tmp_path, seeds=seeds)


def test_the_images_of_two_writers_are_listed_by_one(tmp_path):
    writers = [pools.PoolWriter(tmp_path, "normal", **MODEL) for _ in range(2)]
    first, second = (writer.write(pixels(2), seeds) for writer, seeds in zip(writers, ((0, 1), (8, 9)), strict=True))
    writers[0].list(first | second)
    (pool,) = pools.load(tmp_path)
    assert [image.seed for image in pool.images] == [0, 1, 8, 9]
    (tmp_path / "normal" / "seed00009.png").unlink()
    with pytest.raises(ValueError, match=r"lacks seed00009\.png, which another host wrote"):
        writers[0].list(first | second)


def test_images_of_different_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seed 2 of normal"):
        write_pool(tmp_path, seeds=(1, 2), images=[pixels(1)[0], pixels(1, 16)[0]])
    assert not (tmp_path / "normal" / "pool.json").exists()


@pytest.mark.parametrize("change, error, message", [
    (lambda record: record.update(format=2), ValueError, "format 2"),
    (lambda record: record.pop("split_sha256"), ValueError, "'split_sha256' is missing"),
    (lambda record: record.update(image_size="8"), ValueError, "'image_size'"),
    (lambda record: record.update(images=[]), ValueError, "no images"),
    (lambda record: record["model"].pop("sha256"), ValueError, "'model': 'sha256'"),
    (lambda record: record["images"][0].update(seed=True), ValueError, "image 0: 'seed'"),
    (lambda record: record["images"][0].update(seed=3), ValueError, "seed twice"),
    (lambda record: record["images"].append(record["images"][0]), ValueError, "path twice"),
    (lambda record: record["images"][0].update(path="../real.png"), ValueError, "image 0: path '../real.png' leaves"),
    (lambda record: record["images"][0].update(path="/etc/passwd"), ValueError, "leaves"),
    (lambda record: record["images"][0].update(path="link.png"), ValueError, "leaves"),
    (lambda record: record["images"][0].update(path="seed00009.png"), FileNotFoundError, "seed00009.png is listed"),
    (lambda record: record["images"][0].update(sha256="00"), ValueError, "seed00001.png was changed"),
    (lambda record: record.update(image_size=16), ValueError, "8x8 pixels, its pool 16x16"),
])  # fmt: skip
def test_a_broken_pool_gives_one_line_with_the_place(tmp_path, change, error, message):
    folder = write_pool(tmp_path / "pool")
    Image.fromarray(pixels(1)[0]).save(tmp_path / "real.png")
    (folder / "link.png").symlink_to(tmp_path / "real.png")
    record = files.read_json(folder / "pool.json")
    change(record)
    files.write_json(folder / "pool.json", record)
    with pytest.raises(error, match=message) as caught:
        pools.load(tmp_path / "pool")
    assert "\n" not in str(caught.value)


def test_a_real_image_among_the_generated_ones_is_refused(tmp_path):
    folder = write_pool(tmp_path)
    Image.fromarray(pixels(1)[0]).save(folder / "seed00001.png")
    record = files.read_json(folder / "pool.json")
    record["images"][0]["sha256"] = hashlib.sha256((folder / "seed00001.png").read_bytes()).hexdigest()
    files.write_json(folder / "pool.json", record)
    with pytest.raises(ValueError, match="may be real"):
        pools.load(tmp_path)


def test_classes_of_different_splits_are_refused(tmp_path):
    write_pool(tmp_path, "normal")
    write_pool(tmp_path, "polyp", split_sha256="ef" * 32)
    with pytest.raises(ValueError, match="different splits"):
        pools.load(tmp_path)


def test_a_folder_without_a_pool_gives_the_command_that_makes_one(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"dim_jax\.generate"):
            pools.load(folder)
