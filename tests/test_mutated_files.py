"""Property tests of all file readers on randomly mutated files: a file is read correctly or refused with one line.

The readers of PyTorch files and of metrics.jsonl are tested in test_torch_files.py and test_metrics_file.py.
"""

import copy
import io
import json
import math
import os

import numpy as np
import pytest
from hostile_inputs import EVIL
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_runs import make_data, make_run

from dim_jax.data import images, packed_pixels, splits, tables
from dim_jax.data import manifest as manifests
from dim_jax.gan import pool_writer, pools
from dim_jax.reporting import report_files
from dim_jax.runs import config_flags, configuration, fields, files
from dim_jax.weights import safetensor_files, torch_files

# Few examples by default, many behind the marker.
EXAMPLES = pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.slow)])


def property_of(examples, *strategies):
    """Returns a decorator that checks a function as a hypothesis property at once, with that many examples."""

    def run(function):
        settings(max_examples=examples, deadline=None)(given(*strategies)(function))()

    return run


def refused_or_read(read, *arguments):
    """Returns the result of a reader, or None if it refuses its input with a ValueError or OSError."""
    try:
        return read(*arguments)
    except (ValueError, OSError) as error:
        assert str(error).strip()
        return None


mutations = st.lists(
    st.tuples(
        st.sampled_from(["flip", "delete", "insert", "repeat", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.integers(1, 64),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes) -> bytes:
    changed = bytearray(data)
    for kind, place, value, length in changes:
        at = int(place * len(changed))
        if kind == "flip" and changed:
            changed[at] ^= value or 1
        elif kind == "delete":
            del changed[at : at + length]
        elif kind == "insert":
            changed[at:at] = bytes([value]) * length
        elif kind == "repeat":
            changed[at:at] = changed[at : at + length]
        elif kind == "cut":
            del changed[at:]
    return bytes(changed)


# --- images ----------------------------------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)


def encoded(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[images.EXIF_ORIENTATION] = 6
WHOLE_IMAGES = [
    encoded("PNG"), encoded("PNG", "P"), encoded("PNG", "LA"), encoded("PNG", "1"), encoded("JPEG"),
    encoded("JPEG", "CMYK"), encoded("JPEG", progressive=True, exif=EXIF), encoded("TIFF"),
    encoded("TIFF", compression="tiff_lzw"), encoded("GIF"), encoded("BMP"), encoded("WEBP"),
    encoded("WEBP", lossless=True), encoded("PPM"), encoded("JPEG2000"),
]  # fmt: skip


@EXAMPLES
def test_a_changed_image_is_read_as_8_bit_colours_or_refused(examples):
    @property_of(5 * examples, st.sampled_from(WHOLE_IMAGES), mutations)
    def holds(data, changes):
        try:
            inspected = images.inspect(mutated(data, changes), "a.png")
        except ValueError as error:
            assert str(error).startswith("a.png: ") and "\n" not in str(error)
            return
        height, width, channels = inspected.pixels.shape
        assert inspected.pixels.dtype == np.uint8 and channels == 3 and 0 < height * width <= images.MOST_PIXELS


# --- tables and lists ------------------------------------------------------------------------------------------------


@EXAMPLES
def test_a_changed_manifest_csv_lists_images_or_is_refused(examples, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"pixels")
    table = tmp_path / "manifest.csv"
    whole = 'path,label,group,split\r\na/1.png,a,"case, 1",train\r\nb/1.png,b,,test\r\n'.encode("utf-8-sig")
    texts = st.text(alphabet='path,label;\t"\n\r\0 ./ab1ü\ufeff', max_size=60).map(str.encode)

    @property_of(4 * examples, mutations.map(lambda changes: mutated(whole, changes)) | texts | st.binary(max_size=60))
    def holds(data):
        table.write_bytes(data)
        result = refused_or_read(tables.read, table)
        for item in result.images if result else ():
            assert (tmp_path / item.path).is_file() and item.label and ".." not in item.path
            assert item.split in ("", *splits.NAMES)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.sampled_from(["../x", "/etc", "NaN"])
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def places(value, path=()):
    """Yields the paths of all values within a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def changed(draw, whole):
    """A JSON value in which some values are replaced, removed or repeated."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([place for place in places(value) if place] or [("",)]))
        place = value
        for key in path:
            place = place[key]
        if not isinstance(place, dict | list) or not place:
            return draw(anything)
        kind = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if kind == "remove":
            del place[last]
        elif kind == "repeat" and isinstance(place, list):
            place.append(copy.deepcopy(place[last]))
        else:
            place[last] = draw(anything)
    return value


@EXAMPLES
@pytest.mark.parametrize("name", [manifests.FILE_NAME, splits.FILE_NAME])
def test_a_changed_manifest_or_split_is_read_as_such_or_refused(name, examples, tmp_path):
    make_data(tmp_path)
    whole = json.loads((tmp_path / name).read_text())
    manifest = manifests.load(tmp_path)

    @property_of(2 * examples, changed(whole))
    def holds(data):
        (tmp_path / name).write_text(json.dumps(data))
        if name == manifests.FILE_NAME:
            loaded = refused_or_read(manifests.load, tmp_path)
            if loaded:
                assert len(loaded.labels) == len(loaded) and len(loaded.fingerprint) == 64
                assert all(loaded.file(row).is_relative_to(loaded.root) for row in range(len(loaded)))
                refused_or_read(packed_pixels.read, loaded, 12, "squash")
        else:
            split = refused_or_read(splits.load, tmp_path, manifest)
            for fold in split.folds if split else ():
                assert len(fold.assignment) == len(manifest) and set(fold.assignment) <= set(splits.NAMES)
                assert all(0 <= mean <= 1 and 0 < std <= 1 for mean, std in zip(fold.mean, fold.std, strict=True))


@EXAMPLES
def test_a_changed_pool_is_read_as_such_or_refused(examples, tmp_path):
    origin = {"workdir": "runs/gan", "checkpoint_step": 7, "model_sha256": "ab" * 32, "split_sha256": "cd" * 32}
    writer = pool_writer.PoolWriter(tmp_path / "pool", "normal", **origin)
    folder = writer.list(writer.write(NOISE[None, :8, :8].repeat(2, 0), (3, 1)))
    whole = json.loads((folder / "pool.json").read_text())

    @property_of(examples, changed(whole))
    def holds(data):
        (folder / "pool.json").write_text(json.dumps(data))
        for pool in refused_or_read(pools.load, tmp_path / "pool") or ():
            assert all(image.path.is_relative_to(tmp_path) and image.seed >= 0 for image in pool.images)
            assert math.isfinite(pool.sampling["truncation"]) and pool.image_size == 8


@EXAMPLES
def test_a_changed_list_of_generated_images_is_read_as_such_or_refused(examples, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    whole = {"images": [{"path": "a.png", "label": "x"}, {"path": "./a.png", "label": "y"}], "split_sha256": "ab"}

    @property_of(examples, changed(whole))
    def holds(data):
        (tmp_path / "selected.json").write_text(json.dumps(data))
        for path, label in (
            refused_or_read(manifests.load_generated, tmp_path / "selected.json", ("x", "y"), "ab") or ()
        ):
            assert path.is_file() and label in (0, 1)


@EXAMPLES
def test_any_bytes_are_read_as_json_or_refused(examples, tmp_path):
    whole = json.dumps({"a": [1, 2.5, None, True], "ü": {"b": "\\ud83e"}}).encode()

    @property_of(2 * examples, mutations.map(lambda changes: mutated(whole, changes)) | st.binary(max_size=40))
    def holds(data):
        (tmp_path / "a.json").write_bytes(data)
        value = refused_or_read(files.read_json, tmp_path / "a.json")
        json.dumps(value, ensure_ascii=False).encode("utf-8")


# --- configurations --------------------------------------------------------------------------------------------------


@EXAMPLES
def test_any_override_is_taken_or_refused(examples, tmp_path):
    config = f"--config={os.path.dirname(__file__)}/../configs/classifier.py:test"
    ready = config_flags.parse_flags([config, f"--workdir={tmp_path}"])[0]
    names = sorted(configuration.all_names(ready))
    texts = st.text(alphabet="0123456789.-+eE_()[]{}',:naifTrueFls \0ü", max_size=12)

    @property_of(max(examples // 4, 10), st.sampled_from(names) | st.text(max_size=8), texts | scalars.map(str))
    def holds(name, text):
        parsed = refused_or_read(config_flags.parse_flags, [config, f"--config.{name}={text}", f"--workdir={tmp_path}"])
        if parsed:
            fields.check_plain(parsed[0])


# --- arrays and weights ----------------------------------------------------------------------------------------------


@EXAMPLES
def test_changed_arrays_and_weights_are_read_or_refused(examples, tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=NOISE.astype(np.float32), label=np.arange(5))
    npz, safe, pth = tmp_path / "a.npz", tmp_path / "a.safetensors", tmp_path / "a.pth"
    weights = safetensor_files.encode({"a.weight": np.ones((3, 4), np.float32), "b": np.zeros(2, np.int64)})
    whole = {npz: buffer.getvalue(), safe: weights}

    @property_of(4 * examples, st.sampled_from(list(whole)), mutations)
    def holds(path, changes):
        path.write_bytes(mutated(whole[path], changes))
        if path == npz:
            arrays = refused_or_read(files.read_arrays, path, ("logits", "label", "gone"))
        else:
            arrays = refused_or_read(safetensor_files.read, path)
            pth.write_bytes(path.read_bytes())
            refused_or_read(torch_files.read, pth)
        assert arrays is None or all(isinstance(array, np.ndarray) for array in arrays.values())


# --- the report ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_a_page_is_written_for_any_mutation_of_a_run_directory(examples, tmp_path):
    run = make_run(tmp_path / "run")
    names = ["config.json", "environment.json", "data_report.json", "eval/test/metrics.json", "split.json"]
    whole = {name: json.loads((run / name).read_text()) for name in names}
    mutations_of_files = st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), changed(whole[name])))

    @property_of(examples, mutations_of_files)
    def holds(change):
        name, record = change
        (run / name).write_text(json.dumps(record))
        try:
            page = report_files.render_report([run])
        finally:
            (run / name).write_text(json.dumps(whole[name]))
        assert page.startswith("<!DOCTYPE html>")


names_of_classes = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(EVIL),
    min_size=3, max_size=3, unique=True,
)  # fmt: skip


@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_no_name_of_a_class_becomes_part_of_a_page(examples, tmp_path):
    runs = iter(range(10**6))

    @property_of(examples, names_of_classes)
    def holds(names):
        page = report_files.render_report([make_run(tmp_path / f"{next(runs)}", classes=tuple(names))])
        # The only control characters of a page are its line ends.
        assert not set(page) & {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))}
        assert "<script" not in page.lower().replace("&lt;script", "")
