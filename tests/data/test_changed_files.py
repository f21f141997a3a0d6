"""Image files changed after `prepare` are detected by content, not by time, and named."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from dim_jax.data import manifest as manifests
from dim_jax.data.dataset import open_dataset
from dim_jax.data.preparation import prepare_dataset


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two classes of twelve images; the first is a palette PNG, which is converted."""
    root = tmp_path_factory.mktemp("changes")
    for number in range(24):
        path = root / "source" / ("normal", "polyp")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8))
        image = coarse.resize((24, 24), Image.Resampling.BILINEAR)
        (image.quantize(64) if number == 0 else image).save(path)
    return prepare_dataset(root / "source", root / "data", image_size=16).parent


@pytest.fixture
def data(prepared, tmp_path):
    """A copy of the prepared data with other modification times, independent of the original."""
    folder = shutil.copytree(prepared, tmp_path / "copy", copy_function=shutil.copyfile)
    manifest = manifests.load(folder / "data")
    manifests.save(dataclasses.replace(manifest, root=folder / "source"), folder / "data")
    return folder / "data"


def flip(path):
    encoded = bytearray(path.read_bytes())
    encoded[len(encoded) // 2] ^= 1
    path.write_bytes(encoded)


def test_a_copy_with_other_times_is_the_same_data(data):
    assert open_dataset(data).rows("train").size
    assert manifests.changed_files(manifests.load(data)) == []


def test_files_with_the_same_size_and_time_are_not_read(prepared, monkeypatch):
    monkeypatch.setattr(manifests, "sha256", lambda *_: pytest.fail("it was read"))
    assert open_dataset(prepared / "data").rows("train").size


@pytest.mark.parametrize("keeps_times", [True, False])
def test_changed_files_are_refused_by_name(data, keeps_times):
    """One file has a flipped byte and the same size; the other is longer and may have the old time."""
    manifest = manifests.load(data)
    flipped, longer = (manifest.root / manifest.rows[row].path for row in (3, 5))
    flip(flipped)
    times = longer.stat().st_atime_ns, manifest.rows[5].modified_ns
    longer.write_bytes(longer.read_bytes() + b"\0")
    if keeps_times:
        os.utime(longer, ns=times)
    expected = rf"2 of the 24 images .* changed since they were prepared: {flipped}, {longer}; .*prepare the data again"
    with pytest.raises(ValueError, match=expected):
        open_dataset(data)


def test_a_converted_image_is_checked_by_its_source_if_that_exists(data):
    manifest = manifests.load(data)
    (converted,) = [row for row in manifest.rows if row.converted]
    source = manifest.root / converted.path.removesuffix(".png")
    flip(source)
    assert manifests.changed_files(manifest) == [source]
    source.unlink()
    assert manifests.changed_files(manifest) == []


def test_many_changed_files_are_counted_and_the_first_named(data):
    manifest = manifests.load(data)
    for row in manifest.rows:
        flip(manifest.root / (row.path.removesuffix(".png") if row.converted else row.path))
    with pytest.raises(ValueError, match=r"^24 of the 24 images .* and 4 more; bring the old files back"):
        open_dataset(data)


def test_files_of_an_older_manifest_are_compared_by_digest(data):
    manifest = manifests.load(data)
    rows = tuple(dataclasses.replace(row, size=-1, modified_ns=-1) for row in manifest.rows)
    older = dataclasses.replace(manifest, rows=rows)
    assert manifests.changed_files(older) == []
    changed = manifest.root / manifest.rows[7].path
    flip(changed)
    assert manifests.changed_files(older) == [changed]
