"""Decoding and resizing of images."""

import io

import numpy as np
import pytest
from PIL import Image

from dim_jax.data import images

COLOURS = np.array([[[200, 30, 90], [10, 220, 60]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_rgb_in_lossless_formats_is_read_unchanged(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS))
    np.testing.assert_array_equal(images.read_image(path), COLOURS)


def test_grey_modes_become_three_equal_channels(tmp_path):
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    for mode in ("L", "LA"):
        path = save(tmp_path / f"{mode}.png", Image.fromarray(grey).convert(mode))
        np.testing.assert_array_equal(images.read_image(path), np.repeat(grey[..., None], 3, -1))
    path = save(tmp_path / "1.png", Image.fromarray(grey > 150))
    np.testing.assert_array_equal(images.read_image(path)[..., 1], [[0, 0], [255, 255]])


def test_sixteen_bits_are_scaled_by_the_full_range(tmp_path):
    deep = np.array([[0, 257], [32896, 65535]], np.uint16)
    path = save(tmp_path / "deep.png", Image.fromarray(deep))
    np.testing.assert_array_equal(images.read_image(path)[..., 0], [[0, 1], [128, 255]])
    assert images.inspect(path.read_bytes(), "deep").conversion


def test_transparent_images_are_composited_over_white(tmp_path):
    alpha = np.array([[255, 0], [128, 255]], np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(np.dstack([COLOURS, alpha])))
    expected = COLOURS * (alpha[..., None] / 255) + 255 * (1 - alpha[..., None] / 255)
    np.testing.assert_allclose(images.read_image(path), expected, atol=1)


def test_palette_and_its_transparent_colour_are_resolved(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([9, 8, 7, 200, 100, 50])
    read = images.read_image(save(tmp_path / "p.png", palette, transparency=0))
    assert read.tolist() == [[[255] * 3, [200, 100, 50]], [[200, 100, 50], [255] * 3]]


def test_cmyk_is_converted(tmp_path):
    path = save(tmp_path / "c.tif", Image.new("CMYK", (4, 4), (0, 255, 255, 0)))
    assert images.read_image(path)[0, 0].tolist() == [255, 0, 0]


def test_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = save(tmp_path / "m.tif", frames[0], save_all=True, append_images=frames[1:])
    assert images.read_image(path)[0, 0].tolist() == [255, 0, 0]
    assert "first of several frames" in images.inspect(path.read_bytes(), "m").conversion


def test_exif_rotation_is_applied_and_needs_conversion(tmp_path):
    wide = Image.fromarray(np.full((4, 8, 3), 77, np.uint8))
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    path = save(tmp_path / "e.jpg", wide, exif=exif)
    assert images.read_image(path).shape == (8, 4, 3)
    assert images.inspect(path.read_bytes(), "e").conversion == "EXIF rotation"


@pytest.mark.parametrize("suffix, mode, plain", [
    ("jpg", "RGB", True), ("jpg", "L", True), ("png", "RGB", True), ("png", "L", True),
    ("jpg", "CMYK", False), ("png", "RGBA", False), ("png", "P", False), ("webp", "RGB", False), ("gif", "L", False),
])  # fmt: skip
def test_only_rgb_and_grey_jpeg_and_png_need_no_conversion(tmp_path, suffix, mode, plain):
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS).convert(mode))
    assert (images.inspect(path.read_bytes(), "a").conversion == "") == plain


def test_errors_of_broken_files_are_one_line_with_the_name(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    for name, encoded in {"zero": b"", "cut": buffer.getvalue()[:900], "text": b"not an image"}.items():
        (tmp_path / f"{name}.png").write_bytes(encoded)
        with pytest.raises(ValueError, match=f"{name}.png") as caught:
            images.read_image(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="absent"):
        images.read_image(tmp_path / "absent.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 100)
    with pytest.raises(ValueError, match="too large"):
        images.inspect(buffer.getvalue(), "bomb")


def test_policies_squash_crop_or_pad_a_wide_image():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 120
    squashed = images.resize(wide, 30, "squash")
    assert (squashed[:, 11:19] == 120).all() and (squashed[:, :9] == 0).all()
    assert (images.resize(wide, 10, "crop") == 120).all()
    padded = images.resize(wide, 30, "pad")
    assert (padded[:10] == 255).all() and (padded[20:] == 255).all()
    np.testing.assert_array_equal(padded[10:20], wide)


def test_resizing_antialiases():
    board = np.indices((64, 64)).sum(0) % 2 * 255
    shrunk = images.resize(np.repeat(board[..., None], 3, -1).astype(np.uint8), 8)
    assert abs(shrunk[2:6, 2:6].astype(int) - 127).max() <= 3


@pytest.mark.parametrize("policy", images.POLICIES)
@pytest.mark.parametrize("shape", [(1, 400), (7, 5), (33, 32), (224, 224)])
def test_every_policy_gives_a_square(policy, shape):
    assert images.resize(np.zeros((*shape, 3), np.uint8), 17, policy).shape == (17, 17, 3)


@pytest.mark.parametrize("policy", images.POLICIES)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_read_square_equals_read_image_and_resize(tmp_path, mode, policy):
    noise = np.random.default_rng(0).integers(0, 256, (40, 25, 4), np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(noise).convert("RGB" if mode == "P" else "RGBA").convert(mode))
    expected = images.resize(images.read_image(path), 16, policy)
    np.testing.assert_array_equal(images.read_square(path, 16, policy), expected)


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="'stretch'"):
        images.resize(COLOURS, 4, "stretch")
