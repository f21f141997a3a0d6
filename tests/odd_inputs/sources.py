"""Sources that change, or move, after they were prepared."""

import shutil
from collections.abc import Callable
from pathlib import Path

from dim_jax.data import manifest as manifests
from dim_jax.data import source_record
from odd_inputs.corpus import Result, odd_input, run, snapshot, write_classes, write_image
from odd_inputs.tables import lines_of, text


def prepare(folder: Path, *options: object) -> Result:
    """Runs `prepare` on folder/slides into folder/data."""
    return run("prepare", f"--source={folder / 'slides'}", f"--out={folder / 'data'}", "--image-size=32", *options)


def write_table(folder: Path) -> Path:
    """Writes twelve images and a table of them with six groups, and returns the table."""
    slides = write_classes(folder / "slides", 6)
    lines = [f"{line},P{number // 2}" for number, line in enumerate(lines_of(slides))]
    table = slides / "manifest.csv"
    table.write_text(text(["path,label,group", *lines]))
    return table


def changed_source(name: str, change: Callable[[Path], object], *words: str, has_table: bool = True) -> None:
    """Adds a change of the source after `prepare`, which the same command must name and change nothing."""

    @odd_input("sources", name)
    def check(folder: Path) -> str:
        if has_table:
            write_table(folder)
        else:
            write_classes(folder / "slides", 6)
        prepare(folder).succeeded()
        prepare(folder).warned("already prepared", "nothing to do")
        change(folder / "slides")
        before = snapshot(folder)
        outcome = prepare(folder).refused(*words, "--overwrite", "another --out")
        assert snapshot(folder) == before
        prepare(folder, "--overwrite").succeeded()
        prepare(folder).warned("already prepared", "nothing to do")
        return outcome


def replaced(old: str, new: str) -> Callable[[Path], object]:
    def change(slides: Path) -> None:
        table = slides / "manifest.csv"
        table.write_text(table.read_text().replace(old, new))

    return change


def without_a_file(slides: Path) -> None:
    (slides / "benign" / "tile03.png").unlink()
    replaced("benign/tile03.png,benign,P1\n", "")(slides)


changed_source(
    "corrected_labels",
    replaced("0.png,benign", "0.png,malignant"),
    "1 label was changed (benign/tile00.png from benign to malignant)",
)
changed_source("changed_groups", replaced(",P1\n", ",P7\n"), "2 groups were changed (benign/tile02.png from P1 to P7")
changed_source("removed_image_and_line", without_a_file, "1 image is gone (benign/tile03.png)")
changed_source("changed_image", lambda slides: write_image(slides / "benign" / "tile01.png", 77), "1 file was changed")
changed_source(
    "added_images",
    lambda slides: [write_image(slides / "benign" / f"more{index}.png", 50 + index) for index in range(5)],
    "5 images were added (benign/more0.png",
    has_table=False,
)
changed_source(
    "removed_images",
    lambda slides: (slides / "benign" / "tile01.png").unlink(),
    "1 image is gone (benign/tile01.png)",
    has_table=False,
)
changed_source(
    "image_moved_to_another_class",
    lambda slides: (slides / "benign" / "tile01.png").rename(slides / "malignant" / "late.png"),
    "1 image was moved (benign/tile01.png to malignant/late.png)",
    has_table=False,
)


@odd_input("sources")
def table_that_only_looks_changed(folder: Path) -> str:
    """Line ends, the order of lines and another spelling of a group do not matter."""
    table = write_table(folder)
    prepare(folder).succeeded()
    lines = table.read_text().replace(",P1\n", ",p-01\n").splitlines()
    table.write_text("\r\n".join([lines[0], *reversed(lines[1:]), ""]), encoding="utf-16")
    return prepare(folder).warned("already prepared", "nothing to do")


@odd_input("sources")
def listed_image_that_is_gone(folder: Path) -> str:
    write_table(folder)
    prepare(folder).succeeded()
    (folder / "slides" / "benign" / "tile00.png").unlink()
    return prepare(folder).refused("1 file is gone (", "line 2", "tile00.png does not exist")


@odd_input("sources")
def prepared_folder_that_lost_a_file(folder: Path) -> str:
    write_table(folder)
    prepare(folder).succeeded()
    (folder / "data" / "manifest.json").unlink()
    outcome = prepare(folder).refused("is damaged", "--overwrite")
    prepare(folder, "--overwrite").succeeded()
    return outcome


@odd_input("sources")
def prepared_folder_with_files_of_the_user(folder: Path) -> str:
    write_table(folder)
    prepare(folder).succeeded()
    (folder / "data" / "notes.txt").write_text("mine")
    before = snapshot(folder)
    outcome = prepare(folder, "--overwrite").refused("notes.txt", "move them")
    assert snapshot(folder) == before
    return outcome


@odd_input("sources")
def prepared_folder_without_a_record(folder: Path) -> str:
    """As earlier versions wrote it: nothing is claimed about the source."""
    write_table(folder)
    prepare(folder).succeeded()
    (folder / "data" / source_record.FILE_NAME).unlink()
    replaced(",benign", ",malignant")(folder / "slides")
    return prepare(folder).warned("already prepared", "is not known for data this old")


@odd_input("sources")
def images_that_were_moved(folder: Path) -> str:
    write_table(folder)
    prepare(folder).succeeded()
    moved = shutil.move(folder / "slides", folder / "elsewhere")
    outcome = run("prepare", f"--out={folder / 'data'}", f"--data-root={moved}").warned("12 of the same SHA-256")
    manifest = manifests.load(folder / "data")
    assert manifest.root == moved and not manifests.missing_files(manifest) and not manifests.changed_files(manifest)
    return outcome


@odd_input("sources")
def images_that_were_moved_and_changed(folder: Path) -> str:
    write_table(folder)
    prepare(folder).succeeded()
    moved = shutil.move(folder / "slides", folder / "elsewhere")
    write_image(moved / "benign" / "tile04.png", 500)
    before = snapshot(folder)
    outcome = run("prepare", f"--out={folder / 'data'}", f"--data-root={moved}").refused(
        "the SHA-256 of 1 of 12 differs (benign/tile04.png)"
    )
    assert snapshot(folder) == before
    return outcome
