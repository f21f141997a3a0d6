"""Pools: equal files for equal images, provenance in every file, and nothing taken on trust when they are read."""

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


def make(root, label="normal", seeds=(3, 1), images=None, **changes):
    writer = pools.Writer(root, label, **{**MODEL, **changes})
    return writer.list(writer.write(pixels(len(seeds)) if images is None else images, seeds))


def test_a_pool_is_read_back_as_it_was_written(tmp_path):
    folder = make(tmp_path / "pool", seeds=(42, 7), truncation=0.7)
    (pool,) = pools.load(tmp_path / "pool")
    assert folder == tmp_path / "pool" / "normal" and (folder / "seed00042.png").is_file()
    assert (pool.label, pool.image_size, pool.truncation, pool.split_sha256) == ("normal", 8, 0.7, "cd" * 32)
    assert pool.model == pools.Model("runs/gan", 7, "ab" * 32)
    assert [image.seed for image in pool.images] == [7, 42]
    np.testing.assert_array_equal(images.read_image(pool.images[1].path), pixels(2)[0])
    assert pools.load(folder) == [pool]


def test_every_file_says_that_it_is_synthetic_and_whence(tmp_path):
    make(tmp_path, label="Übergang", seeds=(5,))
    (pool,) = pools.load(tmp_path)
    with Image.open(pool.images[0].path) as image:
        found = dict(image.info)
    expected = {"synthetic": "true", "generator": "dim_jax", "model": "ab" * 32, "class": "Übergang", "seed": "5"}
    assert expected.items() <= found.items()


def test_equal_images_of_equal_seeds_are_equal_files(tmp_path):
    contents = [(make(tmp_path / name) / "seed00003.png").read_bytes() for name in "ab"]
    assert contents[0] == contents[1]
    other = make(tmp_path / "c", images=pixels(2, seed=1))
    assert (other / "seed00003.png").read_bytes() != contents[0]


def test_more_images_of_the_same_model_join_those_that_are_there(tmp_path):
    make(tmp_path, seeds=(0, 1))
    make(tmp_path, seeds=(1, 2))
    (pool,) = pools.load(tmp_path)
    assert [image.seed for image in pool.images] == [0, 1, 2]


@pytest.mark.parametrize("change", [{"model_sha256": "ef" * 32}, {"split_sha256": "ef" * 32}, {"truncation": 0.5}])
def test_images_of_another_origin_are_not_mixed_in(tmp_path, change):
    folder = make(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def never():
        raise AssertionError("an image was drawn in vain")
        yield

    with pytest.raises(ValueError, match="another --out"):
        make(tmp_path, seeds=(9,), images=never(), **change)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@given(st.lists(st.text(max_size=20), min_size=1, max_size=8, unique=True))
def test_any_class_name_gives_a_folder_of_its_own(labels):
    names = [pools.folder_name(label) for label in labels]
    assert len(set(names)) == len(names)
    for name in names:
        assert name and "/" not in name and "\\" not in name and name not in (".", "..") and not name.startswith(".")


def test_hostile_class_names_stay_inside_and_are_read_back(tmp_path):
    root = tmp_path / "pool"
    for label in ("../x", "a/b", "a_b", "/etc"):
        assert make(root, label).parent == root
    assert [pool.label for pool in pools.load(root)] == ["../x", "/etc", "a/b", "a_b"]
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize("given_seeds", [(), (-1, 2), (4, 4)])
def test_seeds_that_name_no_file_each_are_refused(tmp_path, given_seeds):
    with pytest.raises(ValueError, match="seeds"):
        make(tmp_path, seeds=given_seeds)


def test_the_images_of_two_writers_are_listed_by_one(tmp_path):
    writers = [pools.Writer(tmp_path, "normal", **MODEL) for _ in range(2)]
    first, second = (writer.write(pixels(2), seeds) for writer, seeds in zip(writers, ((0, 1), (8, 9)), strict=True))
    writers[0].list(first | second)
    (pool,) = pools.load(tmp_path)
    assert [image.seed for image in pool.images] == [0, 1, 8, 9]
    (tmp_path / "normal" / "seed00009.png").unlink()
    with pytest.raises(ValueError, match=r"lacks seed00009\.png, which another host wrote"):
        writers[0].list(first | second)


def test_images_that_are_not_square_and_alike_are_refused(tmp_path):
    with pytest.raises(ValueError, match="seed 2 of normal"):
        make(tmp_path, seeds=(1, 2), images=[pixels(1)[0], pixels(1, 16)[0]])
    assert not (tmp_path / "normal" / "pool.json").exists()


@pytest.mark.parametrize("change, error, message", [
    (lambda content: content.update(format=2), ValueError, "format 2"),
    (lambda content: content.pop("split_sha256"), ValueError, "'split_sha256' is missing"),
    (lambda content: content.update(image_size="8"), ValueError, "'image_size'"),
    (lambda content: content.update(images=[]), ValueError, "no images"),
    (lambda content: content["model"].pop("sha256"), ValueError, "'model': 'sha256'"),
    (lambda content: content["images"][0].update(seed=True), ValueError, "image 0: 'seed'"),
    (lambda content: content["images"][0].update(seed=3), ValueError, "seed twice"),
    (lambda content: content["images"].append(content["images"][0]), ValueError, "path twice"),
    (lambda content: content["images"][0].update(path="../real.png"), ValueError, "image 0: path '../real.png' leaves"),
    (lambda content: content["images"][0].update(path="/etc/passwd"), ValueError, "leaves"),
    (lambda content: content["images"][0].update(path="link.png"), ValueError, "leaves"),
    (lambda content: content["images"][0].update(path="seed00009.png"), FileNotFoundError, "seed00009.png is listed"),
    (lambda content: content["images"][0].update(sha256="00"), ValueError, "seed00001.png was changed"),
    (lambda content: content.update(image_size=16), ValueError, "8x8 pixels, its pool 16x16"),
])  # fmt: skip
def test_a_broken_pool_is_one_line_that_says_where(tmp_path, change, error, message):
    folder = make(tmp_path / "pool")
    Image.fromarray(pixels(1)[0]).save(tmp_path / "real.png")
    (folder / "link.png").symlink_to(tmp_path / "real.png")
    content = files.read_json(folder / "pool.json")
    change(content)
    files.write_json(folder / "pool.json", content)
    with pytest.raises(error, match=message) as caught:
        pools.load(tmp_path / "pool")
    assert "\n" not in str(caught.value)


def test_a_real_image_among_the_generated_ones_is_refused(tmp_path):
    folder = make(tmp_path)
    Image.fromarray(pixels(1)[0]).save(folder / "seed00001.png")
    content = files.read_json(folder / "pool.json")
    content["images"][0]["sha256"] = hashlib.sha256((folder / "seed00001.png").read_bytes()).hexdigest()
    files.write_json(folder / "pool.json", content)
    with pytest.raises(ValueError, match="may be real"):
        pools.load(tmp_path)


def test_classes_of_different_splits_are_refused(tmp_path):
    make(tmp_path, "normal")
    make(tmp_path, "polyp", split_sha256="ef" * 32)
    with pytest.raises(ValueError, match="different splits"):
        pools.load(tmp_path)


def test_a_folder_without_a_pool_says_how_to_make_one(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"dim_jax\.generate"):
            pools.load(folder)
