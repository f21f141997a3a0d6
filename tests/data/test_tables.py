"""Tables in the forms that spreadsheets and other programs write."""

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dim_jax.data import csv_files, tables

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
NOT_READ = "columns of manifest.csv that are not read: "
ASKED = "; if one of them says the patient or case, call it group"
LABELS = ("benign", "malign, low grade", "adénome")


def images_in(folder, count=6):
    """Writes files that stand for images, and returns their paths and labels."""
    records = [(f"{LABELS[number % 3]}/tile {number};|.png", LABELS[number % 3]) for number in range(count)]
    for path, _ in records:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"pixels")
    return records


@settings(max_examples=60)
@example(
    encoding="utf-16-le", separator=",", end="\n", quoting=csv.QUOTE_ALL, names_separator=False, backslashes=False,
    empty_columns=0, empty_rows=0, header=("ｐａｔｈ", "label"), other="",
)  # fmt: skip
@given(
    encoding=st.sampled_from(ENCODINGS),
    separator=st.sampled_from(csv_files.SEPARATORS),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    names_separator=st.booleans(),
    backslashes=st.booleans(),
    empty_columns=st.integers(0, 3),
    empty_rows=st.integers(0, 3),
    header=st.sampled_from([("path", "label"), (" Path ", "LABEL"), ("ｐａｔｈ", "label\u00a0")]),
    other=st.sampled_from(["", "stain", "scanner no", "age"]),
)
def test_any_form_of_a_table_gives_the_same_images(
    encoding, separator, end, quoting, names_separator, backslashes, empty_columns, empty_rows, header, other
):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = images_in(folder)
        stream = io.StringIO(newline="")
        writer = csv.writer(stream, delimiter=separator, lineterminator=end, quoting=quoting)
        rows = [header, *((path.replace("/", "\\") if backslashes else path, label) for path, label in records)]
        for row in rows:
            extra = [] if not other else [other if row is header else "x"]
            writer.writerow([*extra, *row, *[""] * empty_columns])
        for _ in range(empty_rows):
            writer.writerow([""] * (2 + empty_columns))
        mark = f"sep={separator}{end}" if names_separator else ""
        (folder / "manifest.csv").write_bytes((mark + stream.getvalue()).encode(encoding))
        listing = tables.read(folder / "manifest.csv")
        assert [(item.path, item.label) for item in listing.images] == sorted(records)
        assert listing.warnings == ([f"{NOT_READ}{other}{ASKED}"] if other else [])


@settings(max_examples=25)
@given(st.sets(st.integers(0, 8), min_size=1), st.sets(st.sampled_from(["notes.txt", "x.pdf"])))
def test_unlisted_files_are_counted_and_named(left_out, others):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = images_in(folder, 10)
        for other in others:
            (folder / other).write_bytes(b"")
        with (folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label"])
            writer.writerows(record for number, record in enumerate(records) if number not in left_out)
        listing = tables.read(folder / "manifest.csv", folder)
        assert set(listing.ignored) == {records[number][0] for number in left_out} | others
        (warning,) = listing.warnings
        assert warning.startswith(f"{len(left_out)} images in {folder} are not listed in manifest.csv")
        assert sorted(records[number][0] for number in left_out)[0] in warning


@pytest.mark.parametrize("column, meaning", [
    ("patient", "group"), ("Patient ID", "group"), ("patient_id", "group"), ("case_no", "group"), ("slide", "group"),
    ("subject", "group"), ("groups", "group"), ("gruop", "group"), ("Patienten-ID", "group"), ("Fallnummer", "group"),
    ("Patient-Nr.", "group"), ("PatientenNummer", "group"), ("Fall Nr", "group"), ("Präparat-Nr", "group"),
    ("bcr_patient_barcode", "group"), ("case_submitter_id", "group"), ("Einsendungsnummer", "group"),
    ("patient key", "group"), ("accession number", "group"),
    ("Probenkennung", "group"), ("Patientenkennzeichen", "group"), ("subset", "split"), ("Set", "split"),
    ("partition", "split"), ("fold", "split"), ("splits", "split"), ("splitt", "split"),
])  # fmt: skip
def test_a_column_that_may_be_meant_is_asked_about(tmp_path, column, meaning):
    images_in(tmp_path, 3)
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", column), (f"{LABELS[0]}/tile 0;|.png", "a", "1")])
    with pytest.raises(ValueError, match=f"call the column '{column}' {meaning} if"):
        tables.read(tmp_path / "manifest.csv")
    # Where an option says that it is not needed, it is only named.
    listing = tables.read(tmp_path / "manifest.csv", has_group_regex=True, split="group")
    assert f"{NOT_READ}{column}" in listing.warnings


@pytest.mark.parametrize(
    "column",
    [
        "patient age",
        "Fallzahl je Jahr",
        "study",
        "stain",
        "age",
        "sex",
        "magnification",
        "scanner",
        "date",
        "width",
        "site",
    ],
)
def test_other_columns_are_only_named(tmp_path, column):
    images_in(tmp_path, 3)
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", column), (f"{LABELS[0]}/tile 0;|.png", "a", "1")])
    assert f"{NOT_READ}{column}{ASKED}" in tables.read(tmp_path / "manifest.csv").warnings


def test_characters_that_were_lost_are_named(tmp_path):
    images_in(tmp_path, 3)
    (tmp_path / "manifest.csv").write_text(f"path,label\n{LABELS[0]}/tile 0;|.png,ad\ufffdnome\n", encoding="utf-8")
    (warning,) = tables.read(tmp_path / "manifest.csv").warnings
    assert warning.startswith("1 lines of manifest.csv have characters that an earlier conversion lost")
    assert "line 2" in warning


def test_a_column_with_the_values_of_a_split_is_asked_about(tmp_path):
    images_in(tmp_path, 3)
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        rows = [
            (f"{label}/tile {number};|.png", "a", ("Train", "test")[number % 2]) for number, label in enumerate(LABELS)
        ]
        csv.writer(file).writerows([("path", "label", "used for"), *rows])
    with pytest.raises(ValueError, match="call the column 'used for' split if"):
        tables.read(tmp_path / "manifest.csv")


def test_columns_of_other_names_are_suggested(tmp_path):
    (tmp_path / "manifest.csv").write_text("file_name,class\na.png,a\n")
    with pytest.raises(ValueError, match="rename file_name to path or class to label"):
        tables.read(tmp_path / "manifest.csv")


def test_a_path_that_fits_two_files_is_not_guessed(tmp_path):
    for name in ("A.png", "a.PNG"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "manifest.csv").write_text("path,label\na.png,a\n")
    with pytest.raises(FileNotFoundError, match="line 2"):
        tables.read(tmp_path / "manifest.csv")


def test_a_backslash_may_be_part_of_a_name(tmp_path):
    (tmp_path / "a\\b.png").write_bytes(b"")
    (tmp_path / "manifest.csv").write_text("path,label\na\\b.png,a\n")
    assert tables.read(tmp_path / "manifest.csv").images[0].path == "a\\b.png"
