"""Pools of generated images: reproducible files, provenance in every file, and verification on reading."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dim_jax.data import images
from dim_jax.gan import generation, pool_writer, pools
from dim_jax.gan.gan_run import GanRun
from dim_jax.runs import files
from dim_jax.runs.config_flags import load_file
from dim_jax.runs.configuration import parse_config

MODEL = {"workdir": "runs/gan", "checkpoint_step": 7, "model_sha256": "ab" * 32, "split_sha256": "cd" * 32}


def pixels(number, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, size, size, 3)).astype(np.uint8)


def write_pool(root, label="normal", seeds=(3, 1), images=None, **changes):
    writer = pool_writer.PoolWriter(root, label, **{**MODEL, **changes})
    return writer.list(writer.write(pixels(len(seeds)) if images is None else images, seeds))


def test_a_pool_is_read_back_as_it_was_written(tmp_path):
    folder = write_pool(tmp_path / "pool", seeds=(42, 7), sampling={"truncation": 0.7})
    (pool,) = pools.load(tmp_path / "pool")
    assert folder == tmp_path / "pool" / "normal" and (folder / "seed00042.png").is_file()
    assert (pool.label, pool.image_size, pool.sampling, pool.split_sha256) == (
        "normal", 8, {"truncation": 0.7}, "cd" * 32,
    )  # fmt: skip
    assert pool.model == pools.Model("runs/gan", 7, "ab" * 32)
    assert [image.seed for image in pool.images] == [7, 42]
    np.testing.assert_array_equal(images.read_image(pool.images[1].path), pixels(2)[0])
    assert pools.load(folder) == [pool]


def test_a_pool_records_the_features_of_the_discriminator_and_pools_from_before_have_none(tmp_path):
    folder = write_pool(tmp_path / "pool", discriminator_features=("efficientnet_lite0",))
    assert pools.load(folder)[0].discriminator_features == ("efficientnet_lite0",)
    record = files.read_json(folder / "pool.json")
    del record["discriminator_features"]
    files.write_json(folder / "pool.json", record)
    assert pools.load(folder)[0].discriminator_features is None
    files.write_json(folder / "pool.json", record | {"discriminator_features": "efficientnet_lite0"})
    with pytest.raises(ValueError, match="'discriminator_features' must be a list of names"):
        pools.load(folder)


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


@pytest.mark.parametrize("change", [
    {"model_sha256": "ef" * 32}, {"split_sha256": "ef" * 32}, {"sampling": {"truncation": 0.5}},
    {"kind": "diffusion", "sampling": {"steps": 18, "guidance": 1.0}},
])  # fmt: skip
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
    writers = [pool_writer.PoolWriter(tmp_path, "normal", **MODEL) for _ in range(2)]
    first, second = (writer.write(pixels(2), seeds) for writer, seeds in zip(writers, ((0, 1), (8, 9)), strict=True))
    writers[0].list(first | second)
    (pool,) = pools.load(tmp_path)
    assert [image.seed for image in pool.images] == [0, 1, 8, 9]
    (tmp_path / "normal" / "seed00009.png").unlink()
    with pytest.raises(ValueError, match=r"lacks seed00009\.png, which another host wrote"):
        writers[0].list(first | second)


class Generator:
    """In place of a Synthesizer: one image per seed."""

    def __init__(self, model_hash):
        self.model_hash = model_hash

    def images(self, seeds, label, truncation):
        for seed in seeds:
            yield pixels(1, seed=seed)[0]


def generate_at_once(monkeypatch, out, ranges, models=None):
    """Generates (first seed, number) of every range at the same time, and returns the errors."""
    models = models or ["ab" * 32] * len(ranges)

    def open_run(workdir):
        generator = Generator(models[int(Path(workdir).name)])
        return GanRun(workdir, 7, generator, ("normal",), "cd" * 32, "normal", "squash", ())

    def generate(number):
        first, num = ranges[number]
        try:
            generation.generate_pool(f"runs/{number}", out, num, first)
        except ValueError as error:
            return str(error)
        return None

    monkeypatch.setattr(generation, "open_run", open_run)
    with ThreadPoolExecutor(len(ranges)) as pool:
        return [error for error in pool.map(generate, range(len(ranges))) if error]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), min_size=2, max_size=4))
def test_calls_into_one_pool_at_once_list_every_image(tmp_path_factory, ranges):
    out = tmp_path_factory.mktemp("pools") / "pool"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert not generate_at_once(monkeypatch, out, ranges)
    (pool,) = pools.load(out)
    assert {image.seed for image in pool.images} == {
        seed for first, num in ranges for seed in range(first, first + num)
    }
    assert {image.path for image in pool.images} == set((out / "normal").glob("*.png"))
    assert [path.name for path in out.iterdir()] == ["normal"]


def test_of_two_models_that_generate_into_one_pool_at_once_one_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "pool"
    (error,) = generate_at_once(monkeypatch, out, [(0, 8), (4, 8)], ["ab" * 32, "ef" * 32])
    assert "generate into another --out" in error
    (pool,) = pools.load(out)
    assert {image.path for image in pool.images} == set((out / "normal").glob("*.png"))


def test_a_folder_of_other_images_is_not_generated_into(tmp_path):
    folder = tmp_path / "slides" / "normal"
    folder.mkdir(parents=True)
    Image.fromarray(pixels(1)[0]).save(folder / "seed00001.png")
    before = (folder / "seed00001.png").read_bytes()
    with pytest.raises(ValueError, match=r"seed00001\.png is in no pool of this model"):
        write_pool(tmp_path / "slides")
    (folder / "seed00001.png").rename(folder / "kept.png")
    with pytest.raises(ValueError, match=r"kept\.png is in no pool of this model"):
        write_pool(tmp_path / "slides")
    write_pool(tmp_path / "pool")
    (tmp_path / "pool" / "normal" / "seed00002.png").write_bytes(before)
    with pytest.raises(ValueError, match=r"seed00002\.png is not of this pool"):
        write_pool(tmp_path / "pool", seeds=(2,))
    assert (tmp_path / "pool" / "normal" / "seed00002.png").read_bytes() == before


def test_the_images_of_an_interrupted_call_are_written_again(tmp_path):
    writer = pool_writer.PoolWriter(tmp_path, "normal", **MODEL)
    writer.write(pixels(2), (3, 1))  # and killed before the list
    (pool,) = pools.load(write_pool(tmp_path))
    assert [image.seed for image in pool.images] == [1, 3]


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


def data_of_classifier(size, resize, **options):
    """config.data of a classifier."""
    config = parse_config(load_file("classifier").to_dict())
    return replace(config.data, image_size=size, resize=resize, **options)


def test_a_pool_records_the_size_and_the_policy_of_its_images(tmp_path):
    write_pool(tmp_path, resize="crop")
    (pool,) = pools.load(tmp_path)
    record = pools.preprocessing([pool])
    assert record == {"image_size": 8, "resize": "crop"}
    pools.check_preprocessing(record, "list", data_of_classifier(8, "crop"))
    pools.check_preprocessing(record, "list", data_of_classifier(4, "crop"))  # made smaller, as real images are
    pools.check_preprocessing({}, "list of an earlier version", data_of_classifier(299, "pad"))
    with pytest.raises(ValueError, match=r"list: images of 8 px would be enlarged to the 16 px"):
        pools.check_preprocessing(record, "list", data_of_classifier(16, "crop"))
    pools.check_preprocessing(record, "list", data_of_classifier(16, "crop", enlarge_generated=True))
    with pytest.raises(ValueError, match=r"list: .* config\.data\.resize=crop, those of the classifier by pad"):
        pools.check_preprocessing(record, "list", data_of_classifier(8, "pad"))
    write_pool(tmp_path, "polyp", resize="pad")
    with pytest.raises(ValueError, match="made square in different ways"):
        pools.preprocessing(pools.load(tmp_path))


def test_images_of_another_policy_are_not_mixed_in(tmp_path):
    write_pool(tmp_path, resize="crop")
    with pytest.raises(ValueError, match="another --out"):
        write_pool(tmp_path, seeds=(9,), resize="pad")
    write_pool(tmp_path / "earlier")
    write_pool(tmp_path / "earlier", seeds=(9,), resize="pad")  # an earlier version's pool records none
    (pool,) = pools.load(tmp_path / "earlier")
    assert pool.resize == "pad"


def test_small_generated_images_are_recognised_in_a_list_that_records_no_size(tmp_path):
    write_pool(tmp_path)
    (pool,) = pools.load(tmp_path)
    Image.fromarray(pixels(1, size=4)[0]).save(tmp_path / "real.png")
    paths = [*(image.path for image in pool.images), tmp_path / "real.png"]
    assert pools.marked_images(paths) == {"image_size": 8} and pools.marked_images(paths[-1:]) == {}
