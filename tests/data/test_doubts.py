"""Pictures that hardly show tissue are named; tissue is not."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_inputs.corpus import tissue
from PIL import Image

from dim_jax.data import doubts, images, phantom
from dim_jax.data.preparation import prepare_dataset
from dim_jax.runs import files

ALIKE = ("a narrow range", "nearly one colour", "nearly black", "one colour")
SEEDS = st.integers(0, 999)


def doubt(pixels):
    return doubts.of_pixels(Image.fromarray(np.ascontiguousarray(pixels)))


@given(SEEDS, st.integers(24, 96))
def test_tissue_is_not_doubtful(seed, side):
    assert doubt(tissue(seed, side)) == ""


def test_phantom_tissue_is_not_doubtful():
    fields = [phantom.draw(phantom.PhantomImage(name, "case0001", 1), 64) for name in phantom.CLASSES]
    assert [doubt(field) for field in fields] == [""] * len(fields)


@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(1, 90))
def test_one_colour_is_named(colour, side):
    assert doubt(np.full((side, side, 3), colour, np.uint8)) == "one colour"


@given(SEEDS, st.integers(40, 225), st.integers(2, 20))
def test_a_narrow_range_is_named_at_any_brightness(seed, level, levels):
    field = level + tissue(seed, 64).astype(float) * levels / 255
    assert doubt(field.astype(np.uint8)).startswith(
        ("a narrow range", "nearly one colour", "nearly black", "one colour")
    )


@given(SEEDS, st.integers(8, 64))
def test_darkness_is_named(seed, factor):
    assert doubt(tissue(seed, 64) // factor).startswith(("nearly black", "nearly one colour", "one colour"))


@given(SEEDS, st.integers(0, 240), st.integers(1, 7))
def test_a_speck_on_one_colour_is_named(seed, level, speck):
    field = np.full((96, 96, 3), level, np.uint8)
    field[10 : 10 + speck, 40 : 40 + speck] = tissue(seed, 32)[:speck, :speck]
    assert doubt(field).startswith(ALIKE)


@given(SEEDS, st.integers(2, 30))
def test_masks_are_named(seed, count):
    levels = np.linspace(0, 255, count).astype(np.uint8)
    regions = levels[(tissue(seed, 64)[..., 0].astype(int) * count // 256).clip(0, count - 1)]
    colours = len(np.unique(regions))
    expected = f"{colours} colours only, like a mask"
    assert doubt(np.repeat(regions[..., None], 3, -1)) in (expected, "one colour", "nearly one colour")


@given(SEEDS, st.integers(0, 15))
def test_transparent_images_are_named(seed, opacity):
    pixels = np.dstack([tissue(seed, 40), np.full((40, 40), opacity, np.uint8)])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert images.inspect(buffer.getvalue(), "a").doubt.startswith("fully transparent")


def test_the_report_counts_and_names_doubtful_images(tmp_path, capsys):
    for label in ("a", "b"):
        for number in range(6):
            path = tmp_path / "slides" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(tissue(number + 6 * (label == "b"))).save(path)
    Image.new("RGB", (32, 32), "white").save(tmp_path / "slides" / "a" / "blank.png")
    Image.fromarray(tissue(50) // 16).save(tmp_path / "slides" / "b" / "dark.png")
    data = prepare_dataset(tmp_path / "slides", tmp_path / "data", image_size=16)
    assert files.read_json(data / "data_report.json")["doubtful"] == [
        {"path": "a/blank.png", "doubt": "one colour"},
        {"path": "b/dark.png", "doubt": "nearly black (most is below level 15 of 255)"},
    ]
    output = capsys.readouterr().out
    assert "doubtful: 2\n  a/blank.png (one colour)" in output
    assert "WARNING: 1 image is doubtful (nearly black): b/dark.png" in output


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_tiny_images_are_judged(size):
    assert doubt(np.zeros((*size, 3), np.uint8)) == "one colour"
