"""Equal batches from the input backends, and the packed pixels written by `prepare`."""

import dataclasses
import os
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from dim_jax import losses, prepare
from dim_jax.cli import command_line
from dim_jax.data import backends, images, packed_pixels
from dim_jax.data import dataset as datasets
from dim_jax.data.batches import TrainingPlan, evaluation_plan
from dim_jax.data.preparation import prepare_dataset
from dim_jax.data.sampler import make_sampler
from dim_jax.models.lrf_cnn import LRFCNN
from dim_jax.steps.classifier import Constants, make_eval_step, make_train_step
from dim_jax.training import parallel
from dim_jax.training.learning_rates import make_learning_rate
from dim_jax.training.optimizers import make_optimizer
from dim_jax.training.state import TrainState

ROOT = Path(__file__).parents[2]
SIZE = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Phantom images of 32 px, packed by `prepare` at that size."""
    return prepare_dataset("phantom", tmp_path_factory.mktemp("p") / "data", image_size=32, scale=0.03, pack="squash")


@pytest.fixture(scope="module")
def data(folder):
    dataset = datasets.open_dataset(folder)
    return dataclasses.replace(dataset, generated=((dataset.file(3), 1), (dataset.file(0), 2)))


def make(name, dataset, size=SIZE, resize="squash"):
    return backends.make_images(name, dataset, size, resize, cache_gib=1.0)


def images_of(source, batch):
    return batch["image"] if source.pixels is None else source.pixels[batch["index"]]


@pytest.mark.parametrize("resize", images.POLICIES)
def test_both_backends_give_the_same_batches(data, resize):
    """Rows, labels and masks are equal and pixels agree within one level, with generated images and padding."""
    pytest.importorskip("tensorflow")
    sampler = make_sampler(data, seed=3, global_batch_size=16, generated_weight=3)
    sources = [make(name, data, resize=resize) for name in ("tf", "resident")]
    plans = [TrainingPlan(sampler, 5, 12), evaluation_plan(data.rows("val"), 16)]
    for plan in plans:
        for tf_batch, batch in zip(*(source.batches(plan) for source in sources), strict=True):
            assert set(tf_batch) == {*batch, "image"}
            for name, values in batch.items():
                assert values.dtype == tf_batch[name].dtype
                np.testing.assert_array_equal(values, tf_batch[name], err_msg=name)
            is_image = batch["mask"] > 0
            ours, theirs = (
                images_of(*pair)[is_image].astype(int) for pair in zip(sources, (tf_batch, batch), strict=True)
            )
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1)


def test_packed_pixels_are_those_of_the_files(folder, data):
    pixels = packed_pixels.read(data.manifest, 32, "squash")
    for row in (0, len(pixels) // 2, len(pixels) - 1):
        np.testing.assert_array_equal(pixels[row], images.resize(images.read_image(data.file(row)), 32))
    loaded = make("resident", data, 32).pixels
    np.testing.assert_array_equal(loaded[: len(pixels)], pixels)
    np.testing.assert_array_equal(loaded[len(data) - 1], pixels[0])
    without = make("resident", dataclasses.replace(data, generated=()), 32).pixels
    assert without.shape == loaded.shape  # a few more images share the compiled program
    with np.load(folder / packed_pixels.FILE_NAME) as archive:
        assert archive["images"].dtype == np.uint8 and str(archive["resize"]) == "squash"


def test_image_files_are_not_read_if_their_pixels_are_packed(data, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} was read")

    real = dataclasses.replace(data, generated=())
    monkeypatch.setattr(images, "read_bytes", refuse)
    make("resident", real, 32)
    with pytest.raises(AssertionError, match="was read"):
        make("resident", real, 24)
    with pytest.raises(AssertionError, match="was read"):
        make("resident", real, 32, "pad")


def test_a_packed_file_of_other_data_or_a_damaged_one_is_refused(data, tmp_path):
    rows = data.manifest.rows[1:]
    other = dataclasses.replace(data.manifest, rows=rows)
    with pytest.raises(ValueError, match=r"packed\.npz: it holds the pixels of other data"):
        packed_pixels.read(other, 32, "squash")
    archive_bytes = bytearray(data.manifest.packed.read_bytes())
    archive_bytes[len(archive_bytes) // 2] ^= 1
    (tmp_path / "packed.npz").write_bytes(archive_bytes)
    with pytest.raises(ValueError, match=r"packed\.npz: .*prepare the data again"):
        packed_pixels.read(dataclasses.replace(data.manifest, packed=tmp_path / "packed.npz"), 32, "squash")
    (tmp_path / "packed.npz").write_bytes(archive_bytes[:1000])
    with pytest.raises(ValueError, match=r"packed\.npz: .*prepare the data again"):
        packed_pixels.read(dataclasses.replace(data.manifest, packed=tmp_path / "packed.npz"), 32, "squash")
    with zipfile.ZipFile(tmp_path / "packed.npz", "w") as archive:
        archive.writestr("something.txt", "else")
    with pytest.raises(ValueError, match=r"packed\.npz: .*prepare the data again"):
        packed_pixels.read(dataclasses.replace(data.manifest, packed=tmp_path / "packed.npz"), 32, "squash")


def test_a_run_directory_refers_to_the_packed_pixels(folder, data, tmp_path):
    datasets.save(dataclasses.replace(data, generated=()), folder, tmp_path / "run")
    assert datasets.open_dataset(tmp_path / "run").manifest.packed == folder / packed_pixels.FILE_NAME


def test_data_that_do_not_fit_into_a_device_are_refused_before_reading(data, monkeypatch):
    monkeypatch.setattr(backends, "ResidentImages", None)
    with pytest.raises(ValueError, match=r"use config\.data\.backend=tf"):
        backends.make_images("resident", data, 32, "squash", 1.0, device_bytes=32 * 32 * 3 * len(data))


def test_an_unknown_pack_policy_is_refused(tmp_path, capsys):
    arguments = ["--source=phantom", f"--out={tmp_path / 'data'}", "--pack=stretch"]
    assert command_line.run(prepare.main, arguments) == 2
    assert "--pack=stretch" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def network():
    model = LRFCNN(5, stem_width=4, stages=((6,),), attention_width=4, axis_name=parallel.AXIS)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))
    return model, variables


def test_a_step_that_gathers_images_equals_a_step_with_images_in_the_batch(data, network):
    model, variables = network
    optimizer = partial(make_optimizer, "sgd")
    step = make_train_step(
        model, losses.LOSSES["fafl"], optimizer, axis_name=parallel.AXIS,
        flip=True, rotate=True, stain_jitter=0.1,
    )  # fmt: skip
    dispatch = parallel.pmap_train_step(step)
    values = {"alpha0": 0.5, "beta0": 3, "m": 4, "tau": 1, "adaptive": 1}
    mean, std = data.channel_statistics()
    schedule = make_learning_rate("constant", 0.05, num_train_steps=2)
    constants = Constants(
        jax.random.key(3), mean, std, np.full(5, 9.0, np.float32), losses.hyper_parameters("fafl", values), schedule
    )
    source = make("resident", data)
    plan = TrainingPlan(make_sampler(data, seed=0, global_batch_size=16), 0, 2)
    batches = list(source.batches(plan))
    image_batches = [{**batch, "image": source.pixels[batch["index"]]} for batch in batches]
    results = []
    for step_batches, pixels in ((batches, parallel.replicate(source.pixels)), (image_batches, None)):
        params = variables["params"]
        state = TrainState(np.zeros((), np.int32), params, variables["batch_stats"], optimizer(schedule).init(params))
        state, metrics = dispatch(parallel.replicate(state), parallel.shard_steps(step_batches), constants, pixels)
        results.append((parallel.unreplicate(metrics), parallel.unreplicate(state.params)))
    for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)

    evaluate = parallel.pmap_eval_step(make_eval_step(model))
    inputs = {"explained": np.full(16, -1, np.int32), "index": batches[0]["index"]}
    replicated = parallel.replicate(dict(variables))
    gathered = evaluate(replicated, parallel.shard(inputs), (mean, std), parallel.replicate(source.pixels))
    in_batch = evaluate(replicated, parallel.shard({**inputs, "image": image_batches[0]["image"]}), (mean, std), None)
    for ours, theirs in zip(gathered, in_batch, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_resident_training_needs_no_tensorflow(folder, tmp_path):
    """Trains and evaluates in a process in which importing TensorFlow fails."""
    code = (
        "import sys\nsys.modules['tensorflow'] = None\n"
        "from dim_jax import train; from dim_jax.cli import command_line\n"
        "sys.exit(command_line.run(train.main, sys.argv[1:]))\n"
    )
    arguments = [
        f"--config={ROOT / 'configs' / 'classifier.py'}:test", f"--config.data.path={folder}",
        "--config.data.backend=resident", f"--workdir={tmp_path / 'run'}", "--config.train.tensorboard=True",
    ]  # fmt: skip
    one_device = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1"  # the last of two counts
    environment = {**os.environ, "XLA_FLAGS": one_device, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "eval" / "test" / "metrics.json").is_file()
    assert "decoding" not in done.stderr
