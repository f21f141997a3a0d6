"""Near-duplicates: copies are found, unrelated fields of one shape are not joined."""

import csv
import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from dim_jax.data import images, near_duplicates, phantom

REAL = Path(__file__).parents[3] / "shared" / "data"
JUDGED = Path(__file__).parents[1] / "golden" / "near_duplicate_pairs.csv"
SIDE = 128
TISSUES = [(label, case) for label in phantom.CLASSES for case in ("case0001", "case0002", "case0003")]


@cache
def tissue(number):
    label, case = TISSUES[number]
    return phantom.draw(phantom.PhantomImage(label, case, number), SIDE)


def pairs_of(pictures):
    """Returns the near-duplicates among pictures, uint8 of shape (H, W, 3) each, as a list of pairs."""
    signatures = [near_duplicates.signature(picture) for picture in pictures]
    digests = [str(number) for number in range(len(pictures))]
    return near_duplicates.near_pairs(signatures, digests, lambda row: pictures[row]).tolist()


def encoded_again(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return images.inspect(buffer.getvalue(), "copy").pixels


def cropped(pixels, left, top, right, bottom):
    """Returns the picture without the given shares of its sides."""
    height, width = pixels.shape[:2]
    rows = slice(round(height * top), height - round(height * bottom))
    return pixels[rows, round(width * left) : width - round(width * right)]


def restained(pixels, haematoxylin, eosin):
    """Returns the picture with its optical densities scaled, red as of haematoxylin and green as of eosin."""
    density = -np.log((pixels + 1.0) / 256) * np.array([haematoxylin, eosin, (haematoxylin + eosin) / 2])
    return (256 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)


def oriented(pixels, number):
    turned = np.rot90(pixels, number % 4)
    return np.ascontiguousarray(turned if number < 4 else turned.swapaxes(0, 1))


SHARES = st.floats(0, 0.05)
CHANGES = st.one_of(
    st.tuples(SHARES, SHARES, SHARES, SHARES).map(lambda shares: lambda pixels: cropped(pixels, *shares)),
    st.integers(50, 95).map(lambda quality: lambda pixels: encoded_again(pixels, quality)),
    st.floats(0.8, 1.2).map(lambda factor: lambda pixels: (pixels * factor).clip(0, 255).astype(np.uint8)),
    st.tuples(st.floats(0.8, 1.2), st.floats(0.8, 1.2)).map(lambda stains: lambda pixels: restained(pixels, *stains)),
    st.floats(0.5, 2).map(
        lambda factor: (
            lambda pixels: np.asarray(
                Image.fromarray(pixels).resize((round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)))
            )
        )
    ),
)


@given(st.integers(0, len(TISSUES) - 1), st.integers(0, 7), CHANGES)
def test_turned_and_changed_copies_are_found(number, orientation, change):
    assert pairs_of([tissue(number), change(oriented(tissue(number), orientation))]) == [[0, 1]]


def test_different_tissue_is_not_joined():
    assert pairs_of([tissue(number) for number in range(len(TISSUES))]) == []


def border(shape):
    """Returns where the background is in fields of one shape, bool of shape (SIDE, SIDE)."""
    rows, columns = np.indices((SIDE, SIDE)) / SIDE
    return {
        "corner": rows + columns < 0.7,
        "arc": (rows - 1.1) ** 2 + (columns - 1) ** 2 > 0.9,
        "stripe": rows < 0.3,
        "eyepiece": (rows - 0.5) ** 2 + (columns - 0.5) ** 2 > 0.22,
    }[shape]


@pytest.mark.parametrize("colour", [235, 0])
@pytest.mark.parametrize("shape", ["corner", "arc", "stripe", "eyepiece"])
def test_fields_that_only_share_where_the_background_is_are_not_joined(shape, colour):
    fields = [np.where(border(shape)[..., None], np.uint8(colour), tissue(number)) for number in range(len(TISSUES))]
    assert pairs_of(fields) == []
    assert pairs_of([fields[0], encoded_again(oriented(fields[0], 6), 60)]) == [[0, 1]]


def test_a_scale_bar_and_a_caption_join_nothing():
    fields = []
    for number in range(len(TISSUES)):
        picture = Image.fromarray(tissue(number))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((70, 112, 120, 118), "black")
        draw.text((4, 4), "400x 2014", fill="white")
        fields.append(np.asarray(picture))
    assert pairs_of(fields) == []


@pytest.mark.parametrize("step, width", [(12, 2), (16, 2), (20, 3)])
def test_a_grid_over_all_fields_joins_nothing_but_copies(step, width):
    fields = []
    for number in range(48):
        label = phantom.CLASSES[number % len(phantom.CLASSES)]
        field = phantom.draw(phantom.PhantomImage(label, f"case{number // 5:04d}", number), SIDE)
        for start in range(step // 2, SIDE, step):
            field[start : start + width] = field[:, start : start + width] = 255
        fields.append(field)
    copies = [encoded_again(oriented(field, number), 60) for number, field in enumerate(fields[:8])]
    assert pairs_of([*fields, *copies]) == [[number, 48 + number] for number in range(8)]


@pytest.mark.parametrize("value", [0, 200, 255])
def test_pictures_of_one_colour_are_no_near_duplicates(value):
    noise = np.random.default_rng(0).integers(0, 2, (2, 60, 60, 3), np.uint8)
    assert pairs_of([np.full((20, 20, 3), value, np.uint8)] * 2) == []
    assert pairs_of(list(np.minimum(value, 254).astype(np.uint8) + noise)) == []


def test_a_chain_of_overlapping_fields_is_joined():
    """Each shares tissue with the next, so no part of a split may divide them."""
    wide = phantom.draw(phantom.PhantomImage("low_grade_in", "case0001", 1), 160)
    fields = [np.ascontiguousarray(wide[:, start : start + 128]) for start in (0, 7, 14, 21, 28)]
    assert pairs_of([*fields, tissue(0)]) == [[row, row + 1] for row in range(4)]


@pytest.mark.parametrize("folder, name", [("oscc-224", "oscc"), ("ebhi-seg-224", "ebhi-seg")])
def test_real_images_are_joined_as_judged_by_eye(folder, name):
    with JUDGED.open(newline="") as file:
        judged = [row for row in csv.DictReader(file) if row["set"] == name]
    if not (REAL / folder).is_dir():
        pytest.skip("the real images are not here")
    names = sorted({row[key] for row in judged for key in ("first", "second")})
    pairs = pairs_of([images.read_image(REAL / folder / name) for name in names])
    same = {frozenset((row["first"], row["second"])) for row in judged if row["tissue"] == "same"}
    other = {frozenset((row["first"], row["second"])) for row in judged if row["tissue"] == "other"}
    joined = {frozenset((names[first], names[second])) for first, second in pairs}
    assert len(judged) >= 29 and joined <= same and not joined & other
    assert len(joined) >= 0.8 * len(same)


def test_many_copies_give_one_pair_less_and_exact_copies_none():
    copies = [encoded_again(oriented(tissue(0), number), 90) for number in range(8)]
    assert len(pairs_of(copies)) == 7
    signature = near_duplicates.signature(tissue(0))
    assert near_duplicates.near_pairs([signature, signature], ["a", "a"], None).shape == (0, 2)
    assert near_duplicates.near_pairs([], [], None).shape == (0, 2)
    assert near_duplicates.exact_pairs(["a", "b", "a", "a"]).tolist() == [[0, 2], [0, 3]]
