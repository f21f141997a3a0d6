"""Unusual and malformed manifest.csv files."""

from collections.abc import Callable
from pathlib import Path

from dim_jax.data import manifest as manifests
from hostile_inputs.corpus import CORPUS, Case, World
from hostile_inputs.folders import prepared, slides_of


def table(folder: Path, world: World, text: bytes | str, words: tuple[str, ...] = (), check=None) -> Case:
    """Returns a case of `prepare` with a manifest.csv beside the images."""
    slides = slides_of(folder, world)
    text = text.encode() if isinstance(text, str) else text
    (slides / "manifest.csv").write_bytes(text)
    return prepared(folder, slides, words, check)


def records(world: World, separator: str = ",") -> list[str]:
    paths = sorted(path.relative_to(world.slides) for path in world.slides.rglob("*.png"))
    return [f"{path.as_posix()}{separator}{path.parts[0]}" for path in paths]


def all_twelve(out: Path) -> None:
    manifest = manifests.load(out)
    assert len(manifest) == 12 and manifest.classes == ("normal", "polyp")


def csv_case(make: Callable[[World], tuple[bytes | str, tuple[str, ...]]]) -> None:
    """Adds a manifest.csv by a function that returns its text and the words of the error, () if it must be read."""

    def case(folder: Path, world: World) -> Case:
        text, words = make(world)
        return table(folder, world, text, words, all_twelve)

    CORPUS[make.__name__] = ("manifest.csv", case)


@csv_case
def byte_order_mark_and_dos_lines(world):
    return b"\xef\xbb\xbf" + "\r\n".join(["path,label", *records(world), ""]).encode(), ()


@csv_case
def semicolons(world):
    return "\n".join(["path;label", *records(world, ";")]), ()


@csv_case
def tabs(world):
    return "\n".join(["path\tlabel", *records(world, "\t")]), ()


@csv_case
def capitals_and_spaces_in_the_header(world):
    return "\n".join([" Path , LABEL", *records(world)]), ()


@csv_case
def blank_lines(world):
    return "\n\n".join(["path,label", *records(world), ""]), ()


@csv_case
def hundred_thousand_columns(world):
    more = "," * 100_000
    header = "path,label," + ",".join(f"c{number}" for number in range(100_000))
    return "\n".join([header, *(record + more for record in records(world))]), ()


@csv_case
def hundred_thousand_columns_of_something_else(world):
    return ",".join(f"c{number}" for number in range(100_000)), ("lacks the columns path, label; it has c0, c1",)


@csv_case
def cell_of_a_million_letters(world):
    return "\n".join(["path,label", *records(world)[:-1], f"normal/0.png,{'x' * 1_000_000}"]), ("field larger",)


@csv_case
def path_of_100_000_letters(world):
    return "\n".join(["path,label", *records(world), f"{'x' * 100_000},normal"]), ("line 14", "does not exist")


@csv_case
def nul_bytes(world):
    return "\n".join(["path,label", *records(world), "normal/\0.png,normal"]), ("line 14", "\\x00.png does not exist")


@csv_case
def utf16(world):
    return "\n".join(["path,label", *records(world)]).encode("utf-16"), ()


@csv_case
def latin1(world):
    return "path,label\nnormal/0.png,Ad\xe9nome\n".encode("latin-1"), ("line 2: not in UTF-8 (byte 0xe9)", "CSV UTF-8")


@csv_case
def workbook(world):
    return b"PK\x03\x04" + bytes(range(256)), ("is a workbook (.xlsx or .ods)", "save it as CSV UTF-8")


@csv_case
def old_workbook(world):
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), ("is a workbook (.xls)", "save it as CSV UTF-8")


@csv_case
def semicolons_and_a_column_name_with_commas(world):
    return "\n".join(["path;label;a,b,c,d", *(record + ";x" for record in records(world, ";"))]), ()


@csv_case
def binary(world):
    return bytes(range(256)) * 100, ("is not text", "save it as CSV UTF-8")


@csv_case
def empty_table(world):
    return "", ("lacks the columns path, label; it has none",)


@csv_case
def header_alone(world):
    return "path,label\n", ("lists no images",)


@csv_case
def no_label_column(world):
    return "path,group\nnormal/0.png,1\n", ("lacks the column label",)


@csv_case
def label_column_twice(world):
    return "path,label,label\nnormal/0.png,normal,polyp\n", ("has the column label 2 times; keep one",)


@csv_case
def one_cell_too_many(world):
    return "path,label\nnormal/0.png,normal,polyp\n", ("line 2: more cells than columns",)


@csv_case
def quote_that_never_ends(world):
    text = "\n".join(["path,label", '"normal/0.png,normal', *records(world)])
    return text, ("line 14: this is not CSV", "check the quotes")


@csv_case
def path_outside_the_folder(world):
    return "\n".join(["path,label", *records(world), "../../../etc/passwd,normal"]), ("line 14", "leads outside")


@csv_case
def absolute_path_elsewhere(world):
    return "\n".join(["path,label", *records(world), "/etc/passwd,normal"]), ("line 14", "leads outside")


@csv_case
def image_twice_by_another_path(world):
    return "\n".join(["path,label", *records(world), "polyp/../normal/0.png,polyp"]), ("already listed in line 2",)


@csv_case
def folder_for_an_image(world):
    return "\n".join(["path,label", *records(world), "normal,normal"]), ("line 14", "does not exist")


@csv_case
def label_in_another_spelling(world):
    return "\n".join(["path,label", *records(world)[1:], "normal/0.png,Normal"]), ("differ in spelling only",)


@csv_case
def unknown_split(world):
    lines = [record + ",train" for record in records(world)]
    return "\n".join(["path,label,split", *lines[:-1], lines[-1] + "ing"]), ("line 13: unknown split 'training'",)
