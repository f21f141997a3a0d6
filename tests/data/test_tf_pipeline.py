"""The `tf` backend: pixels equal to Pillow's, the batch contract, and the cache."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dim_jax.data import images, phantom
from dim_jax.data.dataset import Dataset
from dim_jax.data.manifest import Manifest, Row
from dim_jax.data.splits import Fold, Split
from dim_jax.data.tf_pipeline import TfImages

pytest.importorskip("tensorflow")

SIZE = 16
NUM_REAL, NUM_GENERATED = 9, 3


def texture(height, width, seed=0):
    """Returns an image with tissue-like contrast on all scales, down to single pixels."""
    rng = np.random.default_rng(seed)
    noise = sum(ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (s, s, 0)) * s * 50 for s in (0.4, 2, 8))
    return np.clip(noise + 150, 0, 255).astype(np.uint8)


def make_dataset(paths, num_generated=0):
    real = len(paths) - num_generated
    rows = tuple(Row(path.name, "ab"[n % 2], "", "0" * 64, 1, 1) for n, path in enumerate(paths[:real]))
    fold = Fold(("train",) * real, (0.5,) * 3, (0.2,) * 3)
    manifest = Manifest(paths[0].parent, ("a", "b"), rows)
    return Dataset(manifest, Split("group", 0, (fold,)), 0, tuple((path, 1) for path in paths[real:]))


@pytest.fixture
def data(tmp_path):
    """Images of different sizes and formats, all different."""
    paths = []
    for number in range(NUM_REAL + NUM_GENERATED):
        path = tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}"
        Image.fromarray(texture(20 + 3 * number, 40 - number, number)).save(path)
        paths.append(path)
    return make_dataset(paths, NUM_GENERATED)


def expected_pixels(dataset, rows, size=SIZE, policy="squash"):
    """Returns the pixels of rows by Pillow; padding is black."""
    black = np.zeros((size, size, 3), np.uint8)
    resized = [images.resize(images.read_image(dataset.file(r)), size, policy) if r >= 0 else black for r in rows]
    return np.stack(resized).astype(int)


def assert_pixels(batch, expected):
    np.testing.assert_allclose(batch["image"].astype(int), expected, rtol=0, atol=1)


def arrays(*batches):
    return [np.array(rows, np.int32) for rows in batches]


@pytest.fixture
def decoded(monkeypatch):
    """Numbers of the decoded files, in any order; prefetched files are added when TensorFlow has decoded them."""
    import tensorflow as tf

    numbers, read = [], TfImages._read

    def counting(self, path):
        tf.numpy_function(lambda name: numbers.append(int(Path(name.decode()).stem)), [path], [])
        return read(self, path)

    monkeypatch.setattr(TfImages, "_read", counting)
    return numbers


KINDS = {
    "jpeg": {"suffix": "jpg", "quality": 92, "subsampling": 0},
    "jpeg 4:2:0": {"suffix": "jpg", "quality": 75, "subsampling": 2},
    "progressive jpeg": {"suffix": "jpg", "quality": 80, "progressive": True},
    "png": {"suffix": "png"},
}
# Height and width: reduced (much, slightly, anisotropically), unchanged, enlarged, and elongated with ties in rounding.
SHAPES = [(300, 400), (33, 31), (32, 90), (32, 32), (9, 12), (20, 50), (25, 10), (401, 57)]


@pytest.mark.parametrize("policy", images.POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_equal_pillows_within_one_level(tmp_path, kind, policy):
    options = dict(KINDS[kind])
    suffix = options.pop("suffix")
    paths = []
    for number, (height, width) in enumerate(SHAPES):
        for mode in ("RGB", "L"):
            paths.append(tmp_path / f"{number}{mode}.{suffix}")
            Image.fromarray(texture(height, width, number)).convert(mode).save(paths[-1], **options)
    dataset = make_dataset(paths)
    rows = np.arange(len(paths))
    (batch,) = TfImages(dataset, 32, policy).batches([rows])
    assert_pixels(batch, expected_pixels(dataset, rows, 32, policy))


def test_phantom_pixels_equal_pillows_within_one_level(tmp_path):
    paths = []
    for number, label in enumerate(phantom.CLASSES):
        field = phantom.draw(phantom.PhantomImage(label, "case0001", number), 96)
        for suffix in ("png", "jpg"):
            paths.append(tmp_path / f"{label}.{suffix}")
            Image.fromarray(field).save(paths[-1])
    dataset = make_dataset(paths)
    rows = np.arange(len(paths))
    for size in (24, 75):
        (batch,) = TfImages(dataset, size).batches([rows])
        assert_pixels(batch, expected_pixels(dataset, rows, size))


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
def test_batches_keep_the_contract(data, cache_gib):
    plan = arrays([0, 9, 3, 11], [5, -1, 8, -1], [-1, -1, -1, -1])
    batches = list(TfImages(data, SIZE, cache_gib=cache_gib).batches(plan))
    assert len(batches) == 3
    for rows, batch in zip(plan, batches, strict=True):
        assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
            "image": ("uint8", (4, SIZE, SIZE, 3)),
            "label": ("int32", (4,)),
            "mask": ("float32", (4,)),
            "is_generated": ("bool", (4,)),
            "index": ("int32", (4,)),
        }
        np.testing.assert_array_equal(batch["index"], rows)
        assert_pixels(batch, expected_pixels(data, rows))
    assert [batch["mask"].tolist() for batch in batches] == [[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert [batch["label"].tolist() for batch in batches] == [[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert [batch["is_generated"].sum() for batch in batches] == [2, 0, 0]
    assert batches[0]["is_generated"].tolist() == [False, True, False, True]
    assert not any(batch["image"][batch["mask"] == 0].any() for batch in batches)


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
def test_repeated_rows_of_a_batch_have_the_right_images(data, cache_gib):
    plan = arrays([3, 3, 10, 3], [10, 4, 4, -1], [3, 10, 4, 3])
    batches = TfImages(data, SIZE, cache_gib=cache_gib).batches(plan)
    for rows, batch in zip(plan, batches, strict=True):
        assert_pixels(batch, expected_pixels(data, rows))


def test_with_a_cache_every_file_is_decoded_once(data, decoded):
    pipeline = TfImages(data, SIZE)
    plan = arrays([0, 1, 2, 3], [3, 2, 4, 4], [9, 0, -1, -1], [1, 9, 4, 0])
    first = list(pipeline.batches(plan))
    assert sorted(decoded) == [0, 1, 2, 3, 4, 9]
    for row in range(len(data)):
        data.file(row).unlink()
    again = list(pipeline.batches(plan[::-1]))[::-1]
    assert len(decoded) == 6
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_changing_a_batch_does_not_change_the_cache(data):
    pipeline = TfImages(data, SIZE)
    plan = arrays([0, 1])
    for _ in range(2):
        (batch,) = pipeline.batches(plan)
        assert_pixels(batch, expected_pixels(data, plan[0]))
        batch["image"][:] = 7


def test_without_a_cache_files_are_decoded_every_time_to_equal_pixels(data, decoded):
    plan = arrays([0, 1, 1, 9], [9, 0, -1, -1])
    cached = list(TfImages(data, SIZE).batches(plan))
    del decoded[:]
    streamed = list(TfImages(data, SIZE, cache_gib=0).batches(plan))
    assert sorted(decoded) == [0, 0, 1, 1, 9, 9]
    for ours, theirs in zip(cached, streamed, strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_the_cache_is_used_if_and_only_if_the_whole_dataset_fits(data, decoded):
    dataset_gib = len(data) * SIZE * SIZE * 3 / 2**30
    for cache_gib, times in ((dataset_gib, 1), (dataset_gib * 0.999, 2)):
        pipeline = TfImages(data, SIZE, cache_gib=cache_gib)
        del decoded[:]
        for _ in range(2):
            list(pipeline.batches(arrays([0, 1])))
        assert len(decoded) == 2 * times


def test_files_are_opened_only_when_they_are_needed(data):
    data.file(5).unlink()
    plan = arrays([0, 1], [2, 3])
    for rows, batch in zip(plan, TfImages(data, SIZE).batches(plan), strict=True):
        assert_pixels(batch, expected_pixels(data, rows))


def test_a_plan_is_read_as_batches_are_consumed(data):
    """The plan of a whole run is not iterated before the first batch."""

    class Endless:
        def __iter__(self):
            step = 0
            while True:
                yield np.array([step % 5, (step + 1) % 5], np.int32)
                step += 1

    stream = TfImages(data, SIZE, cache_gib=0).batches(Endless())
    for step in range(3):
        assert_pixels(next(stream), expected_pixels(data, [step % 5, (step + 1) % 5]))
    stream.close()


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_evaluation_during_training_gives_the_right_pixels(data, cache_gib, before):
    pipeline = TfImages(data, SIZE, cache_gib=cache_gib)
    plan = arrays([0, 1, 2], [2, 3, 10], [3, 4, 5], [6, 7, 8], [9, 5, 4])
    evaluation = arrays([3, 6, 10], [7, 11, -1])
    training = pipeline.batches(plan)
    for rows in plan[:before]:
        assert_pixels(next(training), expected_pixels(data, rows))
    evaluating = pipeline.batches(evaluation)
    for number, rows in enumerate(plan[before:]):
        if number < len(evaluation):
            assert_pixels(next(evaluating), expected_pixels(data, evaluation[number]))
        assert_pixels(next(training), expected_pixels(data, rows))


def test_an_evaluation_before_a_training_stream_decodes_gives_the_right_pixels(data):
    """The training stream starts with cached rows, and other rows are cached before it has to decode."""
    pipeline = TfImages(data, SIZE)
    list(pipeline.batches(arrays([0, 1])))
    plan = arrays([1, 0], [2, 3], [4, 5])
    training = pipeline.batches(plan)
    assert_pixels(next(training), expected_pixels(data, plan[0]))
    list(pipeline.batches(arrays([2, 4])))
    for rows in plan[1:]:
        assert_pixels(next(training), expected_pixels(data, rows))
    (again,) = pipeline.batches(arrays([2, 3, 4, 5]))
    assert_pixels(again, expected_pixels(data, [2, 3, 4, 5]))


def test_an_iterator_closed_early_leaves_a_valid_cache(data):
    pipeline = TfImages(data, SIZE)
    plan = arrays([0, 1], [2, 3], [4, 5])
    stream = pipeline.batches(plan)
    next(stream)
    stream.close()
    for rows, batch in zip(plan, pipeline.batches(plan), strict=True):
        assert_pixels(batch, expected_pixels(data, rows))


@pytest.mark.parametrize("cache_gib", [4.0, 0.0])
@pytest.mark.parametrize("row", [2, 3])  # a PNG and a JPEG
@pytest.mark.parametrize("damage", ["cut off", "empty", "text"])
def test_a_file_damaged_after_preparation_is_named(data, cache_gib, row, damage):
    path = data.file(row)
    encoded = path.read_bytes()
    path.write_bytes({"cut off": encoded[: len(encoded) // 2], "empty": b"", "text": b"no image" * 20}[damage])
    pipeline = TfImages(data, SIZE, cache_gib=cache_gib)
    stream = pipeline.batches(arrays([0, 1], [4, row]))
    assert_pixels(next(stream), expected_pixels(data, [0, 1]))
    with pytest.raises(ValueError, match=rf"{path}: "):
        next(stream)
    path.write_bytes(encoded)
    (batch,) = pipeline.batches(arrays([4, row]))
    assert_pixels(batch, expected_pixels(data, [4, row]))


def test_a_file_that_only_pillow_reads_is_refused_by_name(data):
    """Preparation converts such files to PNG; one added later must not be decoded to other pixels."""
    path = data.file(2)
    Image.fromarray(texture(30, 30)).save(path, format="TIFF")
    with pytest.raises(ValueError, match=rf"{path}: cannot be decoded .*prepare the data again"):
        list(TfImages(data, SIZE).batches(arrays([2])))


def test_a_missing_file_is_named(data):
    data.file(4).unlink()
    with pytest.raises(FileNotFoundError, match=str(data.file(4))):
        list(TfImages(data, SIZE).batches(arrays([4])))
