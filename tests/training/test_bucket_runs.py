"""Runs in a bucket end like local ones, also where they are killed, on two processes, or with images in a bucket."""

import json
import shutil
import tempfile
from pathlib import Path

import bucket_servers
import jax
import killed_bucket_runs
import numpy as np
import pytest
import toy_task
from toy_task import assert_ends_alike, lines
from two_hosts import on_two_hosts

from dim_jax import evaluate, predict, report, train
from dim_jax.cli import command_line
from dim_jax.data import bucket_images
from dim_jax.data.preparation import prepare_dataset
from dim_jax.runs import bucket_copies
from dim_jax.runs.buckets import BucketFolder
from dim_jax.training import checkpoints, loop

ROOT = Path(__file__).parents[2]
CLASSIFIER = [
    f"--config={ROOT / 'configs' / 'classifier.py'}:test", "--config.model.stages=((32,),)",
    "--config.train.tensorboard=False",
]  # fmt: skip
URL = f"s3://{bucket_servers.BUCKET}"


@pytest.fixture(scope="module")
def server():
    with bucket_servers.s3() as address:
        yield address


@pytest.fixture(autouse=True)
def found(server, monkeypatch):
    bucket_servers.use_s3(server, monkeypatch)


@pytest.fixture(scope="module")
def local(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "a"
    assert command_line.run(train.main, [*CLASSIFIER, f"--config.data.path={data}", f"--workdir={run}"]) == 0
    return run


def named(names):
    """The names without those of arrays, which Orbax chooses at random."""
    return {name for name in names if "/arrays/" not in name}


def fetched(url, path):
    bucket_copies.BucketCopy(BucketFolder(url), path).download()
    return path


def test_a_run_in_a_bucket_is_that_of_a_folder_bit_for_bit_for_all_commands(data, local, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bucket_copies, "SECONDS", 0.2)
    url, bucket = f"{URL}/runs/a", BucketFolder(f"{URL}/runs/a")
    assert command_line.run(train.main, [*CLASSIFIER, f"--config.data.path={data}", f"--workdir={url}"]) == 0
    out = capsys.readouterr().out
    assert f"--workdir={url}" in out and f"report: {url}/report.html" in out
    assert_ends_alike(fetched(url, tmp_path / "a"), local)
    names = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
    assert named(bucket.list()) == named(name for name in names if not name.startswith("."))
    for split in ("val", "test"):
        ours, theirs = (dict(np.load(run / "eval" / split / "predictions.npz")) for run in (tmp_path / "a", local))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)

    before = bucket.list()
    assert command_line.run(evaluate.main, [f"--workdir={url}", "--split=train"]) == 0
    assert command_line.run(report.main, [url]) == 0
    assert set(bucket.list()) - set(before) >= {"eval/train/predictions.npz", "eval/train/metrics.json"}
    assert named(before) <= named(bucket.list())
    assert f"{url}/report.html" in capsys.readouterr().out
    options = [f"--workdir={url}", f"--out={URL}/predictions", "--overlays=1", str(data / "images")]
    assert command_line.run(predict.main, options) == 0
    answers = BucketFolder(f"{URL}/predictions")
    assert {"predictions.csv", "predictions.json"} < set(answers.list())
    assert json.loads(answers.read("predictions.json"))["workdir"] == url
    copies = f"{tempfile.gettempdir()}/dim_jax-".encode()
    for folder in (bucket, answers):
        assert [name for name in named(folder.list()) if copies in folder.read(name)] == []

    another = [*CLASSIFIER, f"--config.data.path={data}", "--config.seed=7", f"--workdir={url}"]
    assert command_line.run(train.main, another) == 2
    assert f"{url} holds a run of another configuration" in capsys.readouterr().err
    bucket.delete(name for name in bucket.list() if name.startswith(("best", "eval", "report", "card")))
    bucket.delete(
        name
        for name in bucket.list()
        if name.startswith(f"checkpoints/{checkpoints.steps(local / loop.CHECKPOINTS)[-1]}/")
    )
    assert command_line.run(train.main, [f"--workdir={url}"]) == 0
    assert lines(fetched(url, tmp_path / "again")) == lines(local)
    assert named(bucket.list()) >= named(before)


def test_a_run_that_is_killed_and_taken_over_ends_like_one_that_is_not(tmp_path):
    kill_and_compare(tmp_path, np.random.default_rng(0), kills=2)


@pytest.mark.slow
def test_twenty_kills_of_a_run_in_a_bucket_change_nothing(tmp_path):
    kill_and_compare(tmp_path, np.random.default_rng(1), kills=20)


def kill_and_compare(folder, rng, kills):
    toy_task.fit(folder / "whole", toy_task.make_task(), toy_task.LONG_SCHEDULE)
    number, url, killed = 0, f"{URL}/killed-{kills}-0", 0
    while killed < kills:
        if killed_bucket_runs.start(url, rng.uniform(0.1, 6)):
            number += 1
            url = f"{URL}/killed-{kills}-{number}"
        else:
            killed += 1
    killed_bucket_runs.start(url)
    for name in {f"{URL}/killed-{kills}-{done}" for done in range(number + 1)}:
        assert_ends_alike(fetched(name, folder / name.rpartition("/")[2]), folder / "whole")
        assert not any(path.startswith(".") for path in BucketFolder(name).list())


def upload(folder, url):
    bucket = BucketFolder(url)
    for path in folder.rglob("*.png"):
        bucket.upload(path.relative_to(folder).as_posix(), path)
    return bucket


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "dim_jax" / "images"
    forget()


def forget():
    """Makes this process a new one for the cache of images."""
    bucket_images._fetch.cache_clear()
    for lock in bucket_images._used:
        lock.release()
    bucket_images._used.clear()


def class_folders(folder):
    """Twelve images of each of two classes, in class folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(24):
        path = folder / ("normal", "polyp")[number % 2] / f"image{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    return folder


def test_images_in_a_bucket_are_cached_followed_and_bounded(tmp_path, cache, monkeypatch, capsys):
    bucket = upload(class_folders(tmp_path / "images"), f"{URL}/images")
    place = bucket_images.fetch(bucket.url)
    assert place == cache / "s3" / "slides" / "images" and len(list(place.rglob("*.png"))) == 24
    prepared = prepare_dataset(bucket.url, tmp_path / "data", image_size=32)
    record = json.loads((prepared / "manifest.json").read_text())
    assert record["root"] == bucket.url
    assert json.loads((prepared / "data_report.json").read_text())["options"]["source"] == bucket.url
    forget()
    shutil.rmtree(cache)  # as on another machine
    assert prepare_dataset(bucket.url, tmp_path / "data", image_size=32) == prepared
    assert "nothing to do" in capsys.readouterr().out
    forget()
    fresh = BucketFolder(bucket.url)
    fresh.delete(["normal/image0.png"])
    fresh.write("normal/image2.png", fresh.read("normal/image4.png"))
    bucket_images.fetch(bucket.url)
    assert not (place / "normal" / "image0.png").exists()
    assert (place / "normal" / "image2.png").read_bytes() == (place / "normal" / "image4.png").read_bytes()
    with pytest.raises(ValueError, match="before its images changed"):
        prepare_dataset(bucket.url, tmp_path / "data", image_size=32)

    size = sum(entry.size for entry in bucket.list().values())
    monkeypatch.setenv(bucket_images.LIMIT, str(1.5 * size / 2**30))
    other = upload(tmp_path / "images", f"{URL}/others")
    with pytest.raises(ValueError, match=r"others has 0\.000 GiB.* in use; set DIM_JAX_IMAGE_CACHE_GIB to more"):
        bucket_images.fetch(other.url)  # this process uses the first folder
    forget()
    bucket_images.fetch(other.url)
    assert not place.exists() and len(list(cache.rglob("*.png"))) == 24
    with pytest.raises(FileNotFoundError, match="no such folder in the bucket"):
        bucket_images.fetch(f"{URL}/nothing")


def test_a_run_with_its_images_in_a_bucket_is_trained_and_evaluated_anywhere(tmp_path, cache):
    images = upload(class_folders(tmp_path / "images"), f"{URL}/raw")
    url = f"{URL}/runs/raw"
    options = [*CLASSIFIER, "--config.train.num_epochs=1", f"--config.data.path={images.url}"]
    assert command_line.run(train.main, [*options, f"--workdir={url}"]) == 0
    forget()
    shutil.rmtree(cache)
    assert command_line.run(evaluate.main, [f"--workdir={url}", "--split=test"]) == 0
    assert command_line.run(train.main, [*options, f"--workdir={url}"]) == 0
    run = fetched(url, tmp_path / "run")
    assert json.loads((run / "manifest.json").read_text())["root"] == images.url
    assert json.loads((run / "config.json").read_text())["data"]["path"] == images.url


@pytest.mark.slow
def test_two_processes_of_two_devices_end_in_a_bucket_with_the_bits_of_the_same_on_a_folder(data, tmp_path):
    options = [*CLASSIFIER, f"--config.data.path={data}"]
    for workdir in (f"{URL}/runs/two", tmp_path / "two"):
        first, second = on_two_hosts("train", *options, f"--workdir={workdir}")
        assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert_ends_alike(fetched(f"{URL}/runs/two", tmp_path / "fetched"), tmp_path / "two")
    ended = on_two_hosts("evaluate", f"--workdir={URL}/runs/two", "--split=train")
    assert [code for code, *_ in ended] == [0, 0], ended
    assert "eval/train/metrics.json" in BucketFolder(f"{URL}/runs/two").list()
