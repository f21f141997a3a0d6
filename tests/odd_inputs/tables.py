"""Tables of images as spreadsheets and other programs write them, with groups in several spellings."""

import codecs
import unicodedata
from collections.abc import Callable
from pathlib import Path

from dim_jax.data import manifest as manifests
from dim_jax.data import splits
from odd_inputs.corpus import Result, odd_input, run, write_classes, write_image

PATIENTS = 6


def prepare(folder: Path, *options: object) -> Result:
    """Runs `prepare` on folder/slides into folder/data."""
    return run("prepare", f"--source={folder / 'slides'}", f"--out={folder / 'data'}", "--image-size=32", *options)


def lines_of(slides: Path, separator: str = ",") -> list[str]:
    """Returns the lines path,label of all images below a folder of class folders."""
    paths = sorted(path.relative_to(slides) for path in slides.rglob("*.png"))
    return [separator.join((path.as_posix(), path.parts[0])) for path in paths]


def all_twelve(folder: Path) -> str:
    """Checks that all twelve images were prepared with their labels."""
    manifest = manifests.load(folder / "data")
    assert len(manifest) == 12 and manifest.classes == ("benign", "malignant")
    assert all(row.path.startswith(row.label) for row in manifest.rows)
    return "read as 12 images of benign, malignant"


# --- forms of the file -----------------------------------------------------------------------------------------------


def table(name: str, encode: Callable[[list[str]], bytes], separator: str = ",") -> None:
    """Adds a table of twelve images in another form, which must be read."""

    @odd_input("tables", name)
    def check(folder: Path) -> str:
        slides = write_classes(folder / "slides", 6)
        lines = [separator.join(("path", "label")), *lines_of(slides, separator)]
        (slides / "manifest.csv").write_bytes(encode(lines))
        prepare(folder).succeeded()
        return all_twelve(folder)


def text(lines: list[str], end: str = "\n") -> str:
    return end.join([*lines, ""])


def backslashes(lines: list[str]) -> bytes:
    return text([lines[0], *(line.replace("/", "\\") for line in lines[1:])]).encode()


table("semicolons_with_dos_lines", lambda lines: text(lines, "\r\n").encode(), ";")
table("tabs_with_old_mac_lines", lambda lines: text(lines, "\r").encode(), "\t")
table("bars", lambda lines: text(lines).encode(), "|")
table("backslashes_in_paths", backslashes)
table("backslashes_and_a_dot", lambda lines: backslashes(lines).replace(b"benign\\t", b".\\benign\\t"))
table("line_that_names_the_separator", lambda lines: text(["sep=;", *lines]).encode(), ";")
table("line_that_names_a_tab", lambda lines: text(["sep=\t", *lines], "\r\n").encode("utf-8-sig"), "\t")
table("quoted_line_that_names_the_separator", lambda lines: text(['"sep=;"', *lines]).encode("utf-8-sig"), ";")
table("byte_order_mark_twice", lambda lines: b"\xef\xbb\xbf\xef\xbb\xbf" + text(lines).encode())
table("utf16_with_a_mark", lambda lines: text(lines, "\r\n").encode("utf-16"), "\t")
table("utf16_big_endian_with_a_mark", lambda lines: codecs.BOM_UTF16_BE + text(lines).encode("utf-16-be"))
table("utf16_without_a_mark", lambda lines: text(lines).encode("utf-16-le"), ";")
table("utf16_big_endian_without_a_mark", lambda lines: text(lines).encode("utf-16-be"))
table("utf32_with_a_mark", lambda lines: text(lines).encode("utf-32"))
table(
    "empty_rows_and_columns_at_the_end", lambda lines: text([line + ",,," for line in lines] + [",,,,", " "]).encode()
)
table("empty_rows_before_the_header", lambda lines: text(["", ",", *lines]).encode())
table("full_width_header", lambda lines: text(["ｐａｔｈ,ＬＡＢＥＬ", *lines[1:]]).encode())
table("capitals_that_differ_from_the_files", lambda lines: text(lines).replace(".png", ".PNG").encode())


@odd_input("tables")
def names_in_another_unicode_form(folder: Path) -> str:
    """A file system or a spreadsheet may compose or decompose accents."""
    slides, lines = folder / "slides", ["path;label"]
    for number in range(12):
        label = ("adénome", "polyp")[number % 2]
        name = f"{label}/é{number:02d}.png"
        write_image(slides / unicodedata.normalize("NFD", name), number)
        lines.append(unicodedata.normalize("NFC", f"{name};{label}"))
    (slides / "manifest.csv").write_text(text(lines), encoding="utf-8")
    outcome = prepare(folder, f"--classes={unicodedata.normalize('NFD', 'polyp,adénome')}").warned(
        "12 paths in manifest.csv differ"
    )
    assert manifests.load(folder / "data").classes == ("polyp", "adénome")
    return outcome


table(
    "column_names_with_commas_among_semicolons", lambda lines: text([lines[0] + ";a,b,c,d", *lines[1:]]).encode(), ";"
)


def refused_table(name: str, encoded: bytes, *words: str) -> None:
    """Adds a file that is no table in a known encoding, which must be refused with what to do."""

    @odd_input("tables", name)
    def check(folder: Path) -> str:
        write_classes(folder / "slides", 6)
        (folder / "slides" / "manifest.csv").write_bytes(encoded)
        return prepare(folder).refused(*words, "CSV UTF-8")


refused_table("workbook", b"PK\x03\x04\x14\x00\x06\x00" + bytes(400), "is a workbook (.xlsx or .ods)")
refused_table("old_workbook", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "is a workbook (.xls)")
refused_table("windows_1252", "path;label\na.png;Adénome".encode("cp1252"), "line 2: not in UTF-8", "Windows-1252")


@odd_input("tables")
def typographic_quotes(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    lines = [f"\u201c{line}\u201d".replace(",", "\u201d,\u201e") for line in ["path,label", *lines_of(slides)]]
    (slides / "manifest.csv").write_text(text(lines), encoding="utf-8")
    prepare(folder).succeeded()
    return all_twelve(folder)


@odd_input("tables")
def line_that_names_another_separator(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    (slides / "manifest.csv").write_text(text(["sep=,", "path;label", *lines_of(slides, ";")]))
    prepare(folder).succeeded()
    return all_twelve(folder)


@odd_input("tables")
def characters_that_were_lost(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    lines = [f"{line},M\ufffdller{number % 4}" for number, line in enumerate(lines_of(slides))]
    (slides / "manifest.csv").write_text(text(["path,label,group", *lines]), encoding="utf-8")
    return prepare(folder).warned("WARNING: 12 lines of manifest.csv", "an earlier conversion lost", "line 2")


@odd_input("tables")
def labels_that_are_one_number(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    lines = [f"{line.split(',')[0]},{('1', '1.0', '2')[number % 3]}" for number, line in enumerate(lines_of(slides))]
    (slides / "manifest.csv").write_text(text(["path,label", *lines]))
    return prepare(folder).refused("the labels '1' and '1.0' differ in spelling only")


@odd_input("tables")
def class_that_the_split_column_leaves_out(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    parts = ("train", "val", "test")
    lines = [
        f"{line},{parts[number % 3] if line.startswith('b') else 'train'}"
        for number, line in enumerate(lines_of(slides))
    ]
    (slides / "manifest.csv").write_text(text(["path,label,split", *lines]))
    return prepare(folder).warned("class 'malignant' has no images in val", "the given split has all of its 6 images")


@odd_input("tables")
def options_of_an_unset_variable(folder: Path) -> str:
    write_classes(folder / "slides", 6)
    outcomes = [
        prepare(folder, f"--{name}=").refused(f"argument --{name}: the value is empty")
        for name in ("group-regex", "exclude", "classes", "split", "exclude-list", "pack")
    ]
    assert not (folder / "data").exists()
    return outcomes[0]


# --- columns and files that are passed over --------------------------------------------------------------------------


@odd_input("tables")
def column_of_patients_in_german(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    lines = [f"{line},P{number // 2}" for number, line in enumerate(lines_of(slides))]
    (slides / "manifest.csv").write_text(text(["path,label,Patienten-Nr.", *lines]))
    return prepare(folder).refused("call the column 'Patienten-Nr.' group if it says the patient or case")


@odd_input("tables")
def columns_of_patients_and_subsets(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    lines = [f"{line},P{number // 2},train" for number, line in enumerate(lines_of(slides))]
    (slides / "manifest.csv").write_text(text(["path,label,patient,subset", *lines]))
    return prepare(folder).refused("call the column 'patient' group", "call the column 'subset' split", "--split=group")


@odd_input("tables")
def misspelled_label_column(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    (slides / "manifest.csv").write_text(text(["path,lable", *lines_of(slides)]))
    return prepare(folder).refused("lacks the column label", "rename lable to label")


@odd_input("tables")
def columns_of_something_else(folder: Path) -> str:
    slides = write_classes(folder / "slides", 6)
    lines = [f"{number},{line},HE,{number}" for number, line in enumerate(lines_of(slides))]
    (slides / "manifest.csv").write_text(text([",path,label,stain,scanner no", *lines]))
    outcome = prepare(folder).warned("WARNING", "not read", "number 1, without a name", "stain, scanner no")
    all_twelve(folder)
    return outcome


@odd_input("tables")
def images_that_the_table_does_not_list(folder: Path) -> str:
    slides = write_classes(folder / "slides", 8)
    lines = [line for line in lines_of(slides) if "tile06" not in line and "tile07" not in line]
    (slides / "manifest.csv").write_text(text(["path,label", *lines]))
    outcome = prepare(folder).warned("WARNING: 4 images", "not listed in manifest.csv", "benign/tile06.png")
    all_twelve(folder)
    return outcome


@odd_input("tables")
def classes_with_commas(folder: Path) -> str:
    write_classes(folder / "slides", 6, ("adenoma, low grade", "normal", "other"))
    prepare(folder, '--classes=normal,"adenoma, low grade"', "--exclude=other").succeeded()
    classes = manifests.load(folder / "data").classes
    assert classes == ("normal", "adenoma, low grade")
    return f"read as the classes {classes}"


# --- groups ----------------------------------------------------------------------------------------------------------


def write_groups(folder: Path, name_of: Callable[[int, int], str]) -> None:
    """Writes four images per patient, with a table of the group name_of(patient, image)."""
    lines = ["path,label,group"]
    for patient in range(1, PATIENTS + 1):
        label = ("benign", "malignant")[patient % 2]
        for image in range(4):
            path = write_image(folder / "slides" / label / f"p{patient:02d}_{image}.png", 4 * patient + image)
            lines.append(f'{label}/{path.name},{label},"{name_of(patient, image)}"')
    (folder / "slides" / "manifest.csv").write_text(text(lines), encoding="utf-8")


def spelled(name: str, *ways: str) -> None:
    """Adds a table in which each patient has several spellings, as format strings."""

    @odd_input("groups", f"groups_{name}")
    def check(folder: Path) -> str:
        write_groups(folder, lambda patient, image: ways[image % len(ways)].format(patient))
        outcome = prepare(folder, "--validation=0.3", "--test=0.3").warned(f"WARNING: {PATIENTS} groups are spelled in")
        manifest = manifests.load(folder / "data")
        parts = splits.load(folder / "data", manifest).folds[0].assignment
        of_patient = {(row.path.split("/")[1][:3], part) for row, part in zip(manifest.rows, parts, strict=True)}
        assert len({row.group for row in manifest.rows}) == len(of_patient) == PATIENTS
        return outcome


spelled("with_leading_zeros", "{:03d}", "{:d}")
spelled("as_numbers_with_a_fraction", "{:d}", "{:d}.0", "{:03d}", "{:d}.00")
spelled("in_capitals", "Case{:d}", "case{:d}", "CASE{:02d}")
spelled("with_spaces", "Case {:d}", " Case  {:d} ", "Case{:d}", "Case\u00a0{:d}")
spelled("with_other_separators", "2013-{:d}", "2013_{:d}", "2013.{:02d}", "2013 {:d}", "2013\u2013{:d}")
spelled("with_signs_of_numbers", "{:d}", "+{:d}", "#{:d}")
spelled("with_other_slashes", "A/{:d}", "A\\{:d}", "A#{:d}")
spelled("in_unicode_forms", "caf\u00e9 {:d}", "cafe\u0301 {:d}", "\uff43af\u00e9\u200b{:d}")
spelled("in_full_width_digits", "P{:d}", "\uff30\uff10{:d}")


@odd_input("groups")
def groups_that_only_look_alike(folder: Path) -> str:
    names = ("P1-1", "P11", "P1-11", "P1-2", "P21", "P111")
    write_groups(folder, lambda patient, image: names[patient - 1])
    result = prepare(folder, "--validation=0.3", "--test=0.3").succeeded()
    assert "spelled" not in result.output
    assert {row.group for row in manifests.load(folder / "data").rows} == set(names)
    return "read as 6 groups"


def alike(name: str, *ways: str) -> None:
    """Adds a table in which each patient has names that may be two, as format strings."""

    @odd_input("groups", f"groups_{name}")
    def check(folder: Path) -> str:
        write_groups(folder, lambda patient, image: ways[image % len(ways)].format(patient))
        outcome = prepare(folder, "--validation=0.3", "--test=0.3").warned(
            f"WARNING: {PATIENTS} sets of groups look alike"
        )
        assert len({row.group for row in manifests.load(folder / "data").rows}) == PATIENTS * len(ways)
        return outcome


alike("with_brackets", "P{:d}", "P({:d})")
alike("with_a_minus", "1{:d}", "-1{:d}")
alike("with_a_word", "{:d}", "Fall Nr. {:d}")
alike("without_accents", "Müller {:d}", "Muller {:d}")
alike("with_umlauts_spelled_out", "Müller {:d}", "Mueller {:d}")
alike("in_cyrillic_letters", "PATH{:d}", "\u0420AT\u041d{:d}")


def doubtful(code: str) -> None:
    """Adds a table in which half of the groups have a name that may mean unknown."""

    @odd_input("groups", f"groups_coded_{code}")
    def check(folder: Path) -> str:
        write_groups(folder, lambda patient, image: code if image % 2 else f"P{patient}")
        outcome = prepare(folder, "--validation=0.3", "--test=0.3").warned("WARNING", repr(code), "12 images")
        assert [row.group for row in manifests.load(folder / "data").rows].count(code) == 12
        return outcome


for each in ("-9", "999", "9999.0", "0", "k.A.", "n.d.", "XX", "Leer", "00.01.1900"):
    doubtful(each)


def missing(word: str) -> None:
    """Adds a table in which half of the groups are a word for a missing value."""

    @odd_input("groups", f"groups_called_{word or 'nothing'}")
    def check(folder: Path) -> str:
        write_groups(folder, lambda patient, image: word if image % 2 else f"P{patient}")
        outcome = prepare(folder, "--validation=0.3", "--test=0.3").warned(
            "WARNING", "12 images", "unknown", repr(word)
        )
        assert [row.group for row in manifests.load(folder / "data").rows].count("") == 12
        return outcome


for each in ("nan", "NA", "n/a", "None", "NULL", "unknown", "unbekannt", "-", "?", ".", "#N/A", "-1", "patient_nan"):
    missing(each)


@odd_input("groups")
def group_with_most_of_the_images(folder: Path) -> str:
    write_groups(folder, lambda patient, image: "P1" if patient < 5 else f"P{patient}")
    return prepare(folder, "--validation=0.3", "--test=0.3").warned("WARNING", "the group 'P1' has 16 of the 24 images")


@odd_input("groups")
def group_for_every_image(folder: Path) -> str:
    write_groups(folder, lambda patient, image: f"{patient}/{image}")
    return prepare(folder).warned("WARNING", "24 groups for 24 images")


@odd_input("groups")
def groups_that_a_spreadsheet_shortened(folder: Path) -> str:
    write_groups(folder, lambda patient, image: f"2.0131{patient}E+11")
    return prepare(folder, "--validation=0.3", "--test=0.3").warned("WARNING: 6 groups", "without their last digits")


@odd_input("groups")
def named_part_of_a_group_regex(folder: Path) -> str:
    write_classes(folder / "slides", 12)
    result = prepare(folder, r"--group-regex=(?P<class>[a-z]+)/tile\d(?P<group>\d)").succeeded()
    assert {row.group for row in manifests.load(folder / "data").rows} == set("0123456789"), result.output
    return "read as the groups 0 to 9"


@odd_input("groups")
def two_named_parts_of_a_group_regex(folder: Path) -> str:
    write_classes(folder / "slides", 12)
    return prepare(folder, r"--group-regex=(?P<class>[a-z]+)/tile(?P<case>\d)").refused("(?P<group>...)")
