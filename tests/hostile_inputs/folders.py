"""Image folders with unusual names, links, pipes and classes."""

import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from dim_jax.data import manifest as manifests
from dim_jax.runs import files
from hostile_inputs.corpus import EVIL, Case, World, hostile, write_pictures
from hostile_inputs.odd_images import PICTURE


def prepared(folder: Path, slides: Path, words: tuple[str, ...] = (), check=None, *options: str) -> Case:
    """Returns a case of `prepare` on `slides`; `check` gets the output folder."""
    out = folder / "out"
    arguments = (f"--source={slides}", f"--out={out}", "--image-size=16", *options)
    return Case("prepare", arguments, words, None if check is None else lambda: check(out))


def slides_of(folder: Path, world: World) -> Path:
    return shutil.copytree(world.slides, folder / "slides")


def a_slide(slides: Path) -> Path:
    return slides / "normal" / "0.png"


def copies(slides: Path, *names: str) -> None:
    for name in names:
        target = slides / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(a_slide(slides), target)


def paths_of(out: Path) -> set[str]:
    return {row.path for row in manifests.load(out).rows}


def lists(*names: str) -> Callable[[Path], None]:
    def check(out: Path) -> None:
        assert set(names) <= paths_of(out)

    return check


def has_the_twelve_only(out: Path) -> None:
    assert len(paths_of(out)) == 12


def left_out(name: str, reason: str) -> Callable[[Path], None]:
    """Returns a check that all images but one were prepared, and that the report gives the reason."""

    def check(out: Path) -> None:
        assert len(manifests.load(out)) == 12
        unreadable = files.read_json(out / "data_report.json")["unreadable"]
        assert [item["path"] for item in unreadable] == [name] and reason in unreadable[0]["reason"]

    return check


@hostile("folders")
def unicode_and_spaces(folder, world):
    slides = slides_of(folder, world)
    names = ("normal/caf\u00e9 \u4e2d\u6587 \U0001f9ec.png", "normal/ leading and trailing .png")
    copies(slides, *names)
    return prepared(folder, slides, (), lists(*names))


@hostile("folders")
def line_break_in_a_name(folder, world):
    slides = slides_of(folder, world)
    copies(slides, "normal/a\nb\r.png")
    return prepared(folder, slides, (), lists("normal/a\nb\r.png"))


@hostile("folders")
def leading_dashes(folder, world):
    slides = slides_of(folder, world)
    copies(slides, "-rf/--out=x.png", "-rf/-1.png")
    return prepared(folder, slides, (), lists("-rf/--out=x.png", "-rf/-1.png"))


@hostile("folders")
def names_as_long_as_can_be(folder, world):
    slides = slides_of(folder, world)
    plain, deep = "normal/" + "a" * 251 + ".png", "normal/" + "b" * 251 + ".tif"
    copies(slides, plain)
    Image.fromarray(PICTURE).save(slides / deep)

    def check(out):
        assert plain in paths_of(out)
        assert len([row for row in manifests.load(out).rows if row.converted]) == 1
        assert manifests.missing_files(manifests.load(out)) == []

    return prepared(folder, slides, (), check)


@hostile("folders")
def names_that_differ_in_capitals(folder, world):
    slides = slides_of(folder, world)
    for name in ("A.TIF", "a.tif", "a.tif.png"):
        Image.fromarray(PICTURE).save(slides / "normal" / name, "TIFF")

    def check(out):
        manifest = manifests.load(out)
        assert len(manifest) == 15 and len({manifest.file(row) for row in range(15)}) == 15

    return prepared(folder, slides, (), check)


@hostile("folders")
def hidden_files(folder, world):
    slides = slides_of(folder, world)
    copies(slides, "normal/.hidden.png", ".thumbnails/a.png", "normal/._0.png", "normal/.git/x.png")
    return prepared(folder, slides, (), has_the_twelve_only)


@hostile("folders")
def folder_linked_in_a_loop(folder, world):
    slides = slides_of(folder, world)
    (slides / "normal" / "loop").symlink_to(slides / "normal")
    (slides / "normal" / "up").symlink_to(slides)
    return prepared(folder, slides, (), has_the_twelve_only)


@hostile("folders")
def link_to_itself(folder, world):
    slides = slides_of(folder, world)
    (slides / "normal" / "odd.png").symlink_to("odd.png")
    return prepared(folder, slides, (), left_out("normal/odd.png", "symbolic links"))


@hostile("folders")
def link_to_nothing(folder, world):
    slides = slides_of(folder, world)
    (slides / "normal" / "odd.png").symlink_to("gone.png")
    return prepared(folder, slides, (), left_out("normal/odd.png", "No such file"))


@hostile("folders")
def link_to_an_image_elsewhere(folder, world):
    slides = slides_of(folder, world)
    Image.fromarray(PICTURE).save(folder / "elsewhere.png")
    (slides / "normal" / "odd.png").symlink_to(folder / "elsewhere.png")
    return prepared(folder, slides, (), lists("normal/odd.png"))


@hostile("folders")
def link_to_an_endless_device(folder, world):
    slides = slides_of(folder, world)
    (slides / "normal" / "odd.png").symlink_to("/dev/zero")
    return prepared(folder, slides, (), left_out("normal/odd.png", "not a regular file"))


@hostile("folders")
def pipe_among_images(folder, world):
    slides = slides_of(folder, world)
    os.mkfifo(slides / "normal" / "odd.png")
    return prepared(folder, slides, (), left_out("normal/odd.png", "not a regular file"))


@hostile("folders")
def socket_among_images(folder, world):
    slides = slides_of(folder, world)
    address, previous = slides / "normal" / "odd.png", Path.cwd()
    try:
        os.chdir(address.parent)  # the address of a socket may have about 100 characters
        socket.socket(socket.AF_UNIX).bind(address.name)
    finally:
        os.chdir(previous)
    return prepared(folder, slides, (), left_out("normal/odd.png", "not a regular file"))


@hostile("folders")
def file_of_20_gigabytes(folder, world):
    slides = slides_of(folder, world)
    with (slides / "normal" / "odd.png").open("wb") as file:
        file.truncate(20 * 2**30)
    return prepared(folder, slides, (), left_out("normal/odd.png", "too large to read as one field (20480 MiB)"))


@hostile("folders")
def folder_called_like_an_image(folder, world):
    slides = slides_of(folder, world)
    copies(slides, "normal/odd.png/inner.png")
    return prepared(folder, slides, (), lists("normal/odd.png/inner.png"))


@hostile("folders")
def file_name_that_is_not_utf8(folder, world):
    slides = slides_of(folder, world)
    shutil.copyfile(a_slide(slides), os.fsencode(slides) + b"/normal/\xff.png")
    return prepared(folder, slides, ("not valid UTF-8; rename it",))


@hostile("folders")
def class_without_images(folder, world):
    slides = slides_of(folder, world)
    (slides / "adenoma").mkdir()
    return prepared(folder, slides, ("class 'adenoma' has no images", "add some or remove the folder"))


@hostile("folders")
def class_that_links_to_another(folder, world):
    slides = slides_of(folder, world)
    (slides / "zcopy").symlink_to(slides / "normal")
    return prepared(folder, slides, ("zcopy/0.png and normal/0.png",))


@hostile("folders")
def class_of_one_image(folder, world):
    slides = slides_of(folder, world)
    Image.fromarray(255 - PICTURE).save(slides / "normal" / "x.png")
    (slides / "rare").mkdir()
    os.replace(slides / "normal" / "x.png", slides / "rare" / "x.png")

    def check(out):
        warnings = files.read_json(out / "data_report.json")["warnings"]
        assert any("class 'rare' has no images in val" in warning for warning in warnings)

    return prepared(folder, slides, (), check)


@hostile("folders")
def classes_that_differ_in_capitals(folder, world):
    slides = slides_of(folder, world)
    copies(slides, "Normal/x.png")
    return prepared(folder, slides, ("'Normal' and 'normal' differ in spelling only",))


@hostile("folders")
def classes_in_two_unicode_forms(folder, world):
    slides = slides_of(folder, world)
    for form in ("NFC", "NFD"):
        copies(slides, unicodedata.normalize(form, "Ad\u00e9nome") + "/x.png")
    return prepared(folder, slides, ("differ in spelling only", "\\xe9"))


@hostile("folders")
def classes_named_as_markup_and_escapes(folder, world):
    slides = slides_of(folder, world)
    names = [name.replace("/", "") for name in EVIL]
    for number, name in enumerate(names):
        write_pictures(slides / name, 3, 50 + 3 * number)

    def check(out):
        assert set(names) <= set(manifests.load(out).classes)
        assert "\x1b" not in (out / "data_report.txt").read_text()

    return prepared(folder, slides, (), check)


@hostile("folders")
def duplicate_by_link(folder, world):
    slides = slides_of(folder, world)
    (slides / "normal" / "again.png").symlink_to(a_slide(slides))

    def check(out):
        assert files.read_json(out / "data_report.json")["duplicates"]["exact"] == [
            ["normal/0.png", "normal/again.png"]
        ]

    return prepared(folder, slides, (), check)


@hostile("folders")
def out_that_links_to_itself(folder, world):
    slides = slides_of(folder, world)
    (folder / "out").symlink_to("out")
    return prepared(folder, slides, ("out",))


@hostile("folders")
def data_report_of_another_kind(folder, world):
    slides, out = slides_of(folder, world), folder / "out"
    out.mkdir()
    (out / "split.json").write_text("{}")
    (out / "data_report.json").write_text("[]")
    return prepared(folder, slides, ("data_report.json", "not a JSON object"))
