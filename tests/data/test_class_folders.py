"""Layouts of image folders: what is read as what, and what is refused."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.data import class_folders
from dim_jax.data.listing import ListedImage, class_order

PARTS = {
    "train": ("train", "Train", "TRAINING", "train_set", "traindata"),
    "val": ("val", "valid", "Validation", "dev", "val_images"),
    "test": ("test", "Testing", "TEST set"),
}


def put(root, *names):
    """Writes files, and empty folders for names that end in a slash."""
    for name in names:
        if str(name).endswith("/"):
            (root / name).mkdir(parents=True)
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"pixels")


@settings(max_examples=30)
@given(
    st.fixed_dictionaries({part: st.sampled_from(words) for part, words in PARTS.items()}),
    st.sampled_from(["{part}/{label}/{number}.png", "{label}/{part}/{number}.png", "{part}/{label}/P{number}/x.jpg"]),
    st.sampled_from(["", "images", "img"]),
    st.sampled_from(["", "mask", "Labels", "annotations", "ground_truth", "png masks"]),
)
def test_folders_of_a_split_are_the_split_and_masks_are_left_out(words, pattern, images, masks):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        expected = {}
        for part, word in words.items():
            for label in ("benign", "malignant"):
                for number in range(2):
                    path = Path(pattern.format(part=word, label=label, number=number))
                    expected[str(path.parent / images / path.name)] = (label, part)
                    put(root, path.parent / images / path.name)
                    if masks:
                        put(root, path.parent / masks / path.name)
        listing = class_folders.read(root, class_folder=1)
        assert {item.path: (item.label, item.split) for item in listing.images} == expected
        assert listing.has_split and len(listing.ignored) == (len(expected) if masks else 0)
        assert any("taken for masks" in warning for warning in listing.warnings) == bool(masks)
        pooled = class_folders.read(root, "kfold", class_folder=1)
        assert {item.split for item in pooled.images} == {""} and not pooled.has_split


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=3, unique=True), st.integers(1, 3), st.booleans()
)
def test_the_class_is_the_folder_of_that_number(labels, depth, has_direct_images):
    """Folders above the class have two names each, so that any of them could be the class."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tops = [""] if depth == 1 else ["x", "y"] if depth == 2 else ["x/1", "x/2", "y/1", "y/2"]
        put(root, *(f"{top}/{label}/tile.png".lstrip("/") for top in tops for label in labels))
        if depth == 1:
            assert {item.label for item in class_folders.read(root).images} == set(labels)
        else:
            with pytest.raises(ValueError, match=r"--class-folder=1 if x, y are the classes, with --class-folder=2"):
                class_folders.read(root)
            if has_direct_images:  # then the folders below are no classes
                put(root, "x/0.png", "y/0.png")
                assert {item.label for item in class_folders.read(root).images} == {"x", "y"}
                return
        for number in (depth, -1):
            assert {item.label for item in class_folders.read(root, class_folder=number).images} == set(labels)


folder_names = st.sampled_from(["a", "b", "train", "val", "test", "mask", "images", "a_mask", "P1", "phantom"])
file_names = st.sampled_from(["1.png", "2.png", "1_mask.png", "x.txt", "labels.csv"])


@settings(max_examples=60)
@given(
    st.sets(st.tuples(st.lists(folder_names, max_size=4), file_names).map(lambda path: "/".join((*path[0], path[1]))))
)
def test_any_tree_is_listed_or_refused_in_one_line(names):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        put(root, *names)
        for options in ({}, {"class_folder": 1}, {"class_folder": -1}, {"split": "kfold"}, {"has_group_regex": True}):
            try:
                listing = class_folders.read(root, **options)
            except ValueError as error:
                assert "\n" not in str(error)
                continue
            assert {item.path for item in listing.images} | set(listing.ignored) == names
            assert not {item.path for item in listing.images} & set(listing.ignored)
            assert all(f"/{item.label}/" in f"/{item.path}" for item in listing.images)


@pytest.mark.parametrize("names, message", [
    (("train/a/1.png", "train/b/1.png"), "look like a split without val and test"),
    (("train/a/1.png", "test/a/1.png", "docs/1.png"), r"images outside them \(docs\)"),
    (("a/train/1.png", "a/test/1.png", "b/1.png"), "in no such folder"),
    (("train/1.png", "val/2.png", "test/a/3.png"), "train/1.png, val/2.png below .*: in the folder of a split"),
    (("images/a/1.png", "masks/a/1.png"), "looks like a folder of masks.*--source=.*images"),
    (("a/1.png", "b/1.png", "annotations/1.png"), "looks like a folder of masks.*move it elsewhere"),
    (("a/1.png", "a_mask/1.png", "b/1.png", "b_mask/1.png"), "folder a_mask .*looks like a folder of masks"),
    (("all/a/1.png", "all/b/1.png"), "--class-folder=2 if the inner folders are"),
    (("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "test/a/1.png", "test/b/"), "'b' has .*test/b;"),
    (("a/train/1.png", "a/val/1.png", "a/test/1.png", "b/train/1.png", "b/val/1.png", "b/test/"), "'b' has .*b/test;"),
])  # fmt: skip
def test_folders_that_may_mean_something_else_are_refused(tmp_path, names, message):
    put(tmp_path, *names)
    with pytest.raises(ValueError, match=message) as caught:
        class_folders.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [
    ("train/1.png", "car/1.png"),  # one class may be called so
    ("a/P1/1.png", "a/2.png", "b/3.png"),
    ("a/40x/1.png", "b/40x/1.png"),
    ("a/images/1.png", "b/images/1.png"),
    ("label/1.png", "b/1.png"),
    ("with_mask/1.png", "without_mask/2.png"),
])  # fmt: skip
def test_the_first_folder_is_the_class_where_nothing_else_is_meant(tmp_path, names):
    put(tmp_path, *names)
    listing = class_folders.read(tmp_path, class_folder=1 if names[0].startswith("label") else None)
    assert [(item.path, item.label) for item in listing.images] == [
        (name, name.split("/")[0]) for name in sorted(names)
    ]
    assert not listing.has_split and not listing.ignored and not listing.warnings


def test_nested_folders_are_named_where_groups_are_read_from_the_paths(tmp_path):
    put(tmp_path, "a/P1/1.png", "a/P2/1.png", "b/P3/1.png")
    listing = class_folders.read(tmp_path, has_group_regex=True)
    assert {item.label for item in listing.images} == {"a", "b"}
    assert "a/P1, a/P2, b/P3" in listing.warnings[0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["Adenocarcinoma", "High-grade IN", "Low-grade IN", "Normal", "Polyp", "Serrated adenoma"],
            ["Normal", "Polyp", "Serrated adenoma", "Low-grade IN", "High-grade IN", "Adenocarcinoma"],
        ),
        (["cancer", "healthy"], ["healthy", "cancer"]),
        (["cancer", "lymphoma", "normal"], ["cancer", "lymphoma", "normal"]),  # one tells no severity: sorted
        (["adenocarcinoma", "carcinoma", "normal"], ["adenocarcinoma", "carcinoma", "normal"]),  # two are equal
    ],
)
def test_classes_are_in_clinical_order_where_their_names_tell_it(names, expected):
    listed = [ListedImage(f"{name}/1.png", name) for name in names]
    assert list(class_order(listed, None)) == expected
    assert list(class_order(listed, names)) == names  # an order that is given counts
