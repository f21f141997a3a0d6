"""Layouts of folders that are not, or not only, one folder per class."""

import contextlib
from pathlib import Path

from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from odd_inputs.corpus import Result, odd_input, run, write_classes, write_image

CLASSES = ("benign", "malignant")


def prepare(folder: Path, *options: object) -> Result:
    """Runs `prepare` on folder/slides into folder/data."""
    return run("prepare", f"--source={folder / 'slides'}", f"--out={folder / 'data'}", "--image-size=32", *options)


def labels_by_part(folder: Path) -> dict[str, list[str]]:
    """Returns the labels in each part of the prepared split."""
    manifest = manifests.load(folder / "data")
    parts = splits.load(folder / "data", manifest).folds[0].assignment
    rows = list(zip(manifest.rows, parts, strict=True))
    return {name: [row.label for row, part in rows if part == name] for name in splits.NAMES}


def write_split(slides: Path, pattern: str, parts: tuple[str, ...]) -> None:
    """Writes six images of each class and part, four if it is not the first, in folders by a format string."""
    for place, part in enumerate(parts):
        for number, label in enumerate(CLASSES):
            for index in range(4 if place else 6):
                path = slides / pattern.format(part=part, label=label) / f"{part}{index}.png"
                write_image(path, 100 * place + 10 * number + index)


def split_layout(name: str, pattern: str, parts: tuple[str, ...]) -> None:
    """Adds folders that are a split, which must be read as that."""

    @odd_input("folders", name)
    def check(folder: Path) -> str:
        write_split(folder / "slides", pattern, parts)
        outcome = prepare(folder).warned("note: the split is that of the folders", *parts)
        assert labels_by_part(folder) == {
            part: [label for label in CLASSES for _ in range(4 if number else 6)]
            for number, part in enumerate(splits.NAMES)
        }
        return outcome


split_layout("folders_of_a_split", "{part}/{label}", ("train", "val", "test"))
split_layout("folders_of_a_split_in_other_words", "{part}/{label}", ("Training", "validation", "TEST"))
split_layout("folders_of_sets", "{part}/{label}", ("train_set", "valid_set", "test_set"))
split_layout("folders_of_a_split_in_every_class", "{label}/{part}", ("train", "dev", "test"))


@odd_input("folders")
def folders_of_training_and_test_images(folder: Path) -> str:
    write_split(folder / "slides", "{part}/{label}", ("train", "test"))
    outcome = prepare(folder).refused("look like a split without val", "--split=group")
    prepare(folder, "--split=group").warned("note", "not used as the split because of --split=group")
    assert manifests.load(folder / "data").classes == CLASSES
    return outcome


@odd_input("folders")
def images_beside_the_folders_of_a_split(folder: Path) -> str:
    write_split(folder / "slides", "{part}/{label}", ("train", "val", "test"))
    write_classes(folder / "slides", 2, ("extra",))
    return prepare(folder).refused("look like a split", "(extra)")


def masks(name: str, images: str, masks_at: str) -> None:
    """Adds images with masks, by format strings of their paths; the masks must be left out."""

    @odd_input("folders", name)
    def check(folder: Path) -> str:
        for number, label in enumerate(CLASSES):
            for index in range(6):
                write_image(folder / "slides" / images.format(label=label, index=index), 10 * number + index)
                write_image(folder / "slides" / masks_at.format(label=label, index=index), 100 + 10 * number + index)
        outcome = prepare(folder).warned("WARNING: files taken for masks of the images beside them are left out: 12 (")
        paths = [row.path for row in manifests.load(folder / "data").rows]
        assert paths == [images.format(label=label, index=index) for label in CLASSES for index in range(6)]
        return outcome


masks("folders_of_images_and_labels", "{label}/image/{index}.png", "{label}/label/{index}.png")
masks("folders_of_images_and_masks", "{label}/Images/{index}.png", "{label}/Masks/{index}.png")
masks("folder_of_annotations_beside_images", "{label}/{index}.png", "{label}/annotations/{index}.png")
masks("masks_by_name", "{label}/{label} ({index}).png", "{label}/{label} ({index})_mask.png")


@odd_input("folders")
def images_and_masks_at_the_top(folder: Path) -> str:
    for kind in ("images", "masks"):
        write_classes(folder / "slides" / kind, 3)
    return prepare(folder).refused("masks", "not like a class", f"--source={folder / 'slides' / 'images'}")


@odd_input("folders")
def nested_classes(folder: Path) -> str:
    for organ in ("colon", "lung"):
        write_classes(folder / "slides" / organ, 6)
    outcome = prepare(folder).refused("colon/benign", "--class-folder=1", "--class-folder=2")
    prepare(folder, "--class-folder=2").succeeded()
    assert manifests.load(folder / "data").classes == CLASSES
    return outcome


@odd_input("folders")
def folders_of_patients_in_every_class(folder: Path) -> str:
    for label in CLASSES:
        write_classes(folder / "slides" / label, 2, tuple(f"P{number}{label[0]}" for number in range(5)))
    outcome = prepare(folder).refused("--class-folder=1", "--group-regex")
    prepare(folder, "--class-folder=1", "--group-regex=^[^/]+/([^/]+)/").succeeded()
    manifest = manifests.load(folder / "data")
    assert manifest.classes == CLASSES and len({row.group for row in manifest.rows}) == 10
    return outcome


@odd_input("folders")
def loose_images_and_a_table_of_another_name(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    write_image(slides / "overview.png", 99)
    (slides / "labels.csv").write_text("path,label\n")
    result = prepare(folder)
    result.warned("WARNING", "in no class folder", "overview.png")
    return result.warned("WARNING: labels.csv not read", "--manifest")


@odd_input("folders")
def overlays_thumbnails_and_augmented_copies(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    for number, name in enumerate(("benign/tile00_overlay", "benign/thumbs/tile00", "malignant/augmented/tile00")):
        write_image(slides / f"{name}.png", 100 + number)
    result = prepare(folder)
    for kind in ("overlays", "thumbnails", "changed copies"):
        outcome = result.warned(f"WARNING: files taken for {kind} of the images beside them are left out: 1 (")
    assert len(manifests.load(folder / "data").rows) == 12
    return outcome


@odd_input("folders")
def folders_of_magnifications(folder: Path) -> str:
    for label in CLASSES:
        write_classes(folder / "slides" / label, 3, ("40X", "100X"))
    return prepare(folder, "--class-folder=1").warned("WARNING: the images are of several magnifications", "100x (6)")


@odd_input("folders")
def class_folder_linked_into_another(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    (slides / "benign" / "also").symlink_to(slides / "malignant")
    return prepare(folder).refused("benign/also/tile00.png and malignant/tile00.png", "in two classes")


@odd_input("folders")
def class_without_test_images(folder: Path) -> str:
    write_split(folder / "slides", "{part}/{label}", ("train", "val", "test"))
    for path in (folder / "slides" / "test" / "malignant").iterdir():
        path.unlink()
    return prepare(folder).refused("class 'malignant' has no images in", "test/malignant")


@odd_input("folders")
def whole_slides_and_dicom_files(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    for name in ("benign/slide.svs", "malignant/scan.dcm", "malignant/photo.HEIC", "malignant/tile"):
        (slides / name).write_bytes(b"\x89PNG\r\n" if name.endswith("tile") else b"pixels")
    result = prepare(folder)
    result.warned("WARNING: DICOM files are not read: 1 (")
    result.warned("WARNING: images by their contents", "malignant/tile")
    return result.warned("WARNING: whole slides are not read: 1 (benign/slide.svs); cut them into fields first")


@odd_input("folders")
def folder_called_phantom(folder: Path) -> str:
    """In the working folder, where the name means synthetic tissue."""
    write_classes(folder / "phantom", 6)
    with contextlib.chdir(folder):
        outcome = run("prepare", "--source=phantom", "--out=data").refused("write ./phantom")
        run("train", "--config=classifier:test", "--config.data.path=phantom", "--workdir=run").refused("./phantom")
        assert not Path("run").exists() and not Path("data").exists()
        run("prepare", "--source=./phantom", "--out=data", "--image-size=32").succeeded()
    assert manifests.load(folder / "data").classes == CLASSES
    return outcome
