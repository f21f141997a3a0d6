"""Masks, overlays, thumbnails and changed copies are left out where their images are, and named elsewhere."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.data import class_folders, derived_images

LABELS = ("benign", "malignant")
AFFIXES = (
    "{}_mask", "{}-Mask", "{} mask 2", "{}.gt", "mask_{}", "Maske-{}", "{}Mask", "{}_GT", "{}_overlay", "{}_heatmap",
    "{}_segmentation", "overlay_{}", "{}_thumb", "thumbnail_{}", "{}_aug_3", "{}_hflip", "{}_rot90", "{}_normalized",
    "{}.png_mask", "{}_gradcam",
)  # fmt: skip
FOLDERS = (
    "masks", "Masken", "masks png", "gt", "heatmaps", "overlay", "Overlays_cam", "thumbs", "thumbnails", "previews",
    "augmented", "Augmented Images", "synthetic", "stain_normalized", "macenko",
)  # fmt: skip
STEMS = st.sampled_from(["tile1", "case (3)", "GT12-1-400-003", "40", "a.b"])


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"pixels")


@settings(max_examples=60)
@given(st.lists(STEMS, min_size=1, max_size=3, unique=True), st.sampled_from(AFFIXES), st.sampled_from(["", "other/"]))
def test_files_named_after_an_image_of_their_class_are_left_out(stems, affix, folder):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        originals = {f"{label}/{stem}.png" for label in LABELS for stem in stems}
        derived = {f"{label}/{folder}{affix.format(stem)}.png" for label in LABELS for stem in stems}
        put(root, *originals, *derived)
        listing = class_folders.read(root)
        assert {item.path for item in listing.images} == originals and set(listing.ignored) == derived
        assert sum("of the images beside them are left out" in warning for warning in listing.warnings) == 1


@settings(max_examples=40)
@given(STEMS, st.sampled_from(FOLDERS), st.sampled_from(["", "images/", "P1/"]))
def test_folders_of_derived_images_beside_images_are_left_out(stem, folder, place):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        originals = {f"{label}/{place}{stem}.png" for label in LABELS}
        derived = {f"{label}/{folder}/{stem}.jpg" for label in LABELS}
        put(root, *originals, *derived)
        listing = class_folders.read(root, class_folder=1)
        assert {item.path for item in listing.images} == originals
        assert listing.warnings[0].startswith("files taken for ")


@pytest.mark.parametrize("names, words", [
    (("a/overlays/1.png", "b/2.png"), "files named like overlays"),
    (("a/1_heatmap.png", "b/2.png"), "files named like overlays"),
    (("a/mask_1.png", "b/2.png"), "files named like masks"),
    (("a/augmented/1.png", "b/augmented/2.png"), "files named like changed copies"),
])  # fmt: skip
def test_images_that_are_only_named_so_are_kept_and_named(tmp_path, names, words):
    put(tmp_path, *names)
    listing = class_folders.read(tmp_path)
    assert {item.path for item in listing.images} == set(names)
    assert any(warning.startswith(words) and names[0] in warning for warning in listing.warnings)


@pytest.mark.parametrize("name", ["augmented", "Thumbnails", "overlays", "Masken", "a_overlay"])
def test_a_class_folder_named_so_is_refused(tmp_path, name):
    put(tmp_path, "a/1.png", "b/1.png", f"{name}/1.png")
    with pytest.raises(ValueError, match=rf"the folder {name} in .* looks like a folder of .*--class-folder=1"):
        class_folders.read(tmp_path)
    assert len(class_folders.read(tmp_path, class_folder=1).images) == 3


def test_folders_of_the_system_are_not_read(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/a/2.png", "__MACOSX/a/1.png")
    listing = class_folders.read(tmp_path)
    assert [item.path for item in listing.images] == ["a/1.png", "b/1.png"]
    assert listing.notes == ["folders of the system are left out: #recycle, __MACOSX, a/@eaDir"]


@pytest.mark.parametrize("paths, shown", [
    (["a/40X/1.png", "a/100X/1.png", "b/100X/2.png"], "40x (1), 100x (2)"),
    (["a/x20/1.png", "a/x40/1.png"], "20x (1), 40x (1)"),
    (["a/Normal_100x_71.jpg", "b/OSCC_400x_3.jpg"], "100x (1), 400x (1)"),
    (["a/200x/1.png", "b/200x/1.png"], ""),
    (["a/tile_x10_y20.png", "a/tile_x20_y40.png", "b/224x224.png", "b/12x_1.png"], ""),
])  # fmt: skip
def test_several_magnifications_are_counted(paths, shown):
    text = derived_images.magnifications(paths)
    assert f"by their paths: {shown};" in text if shown else not text
