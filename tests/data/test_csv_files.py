"""CSV files: what is written is read back, and what is no text in a known encoding is refused with the reason."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dim_jax.data import csv_files
from dim_jax.data.listing import ListedImage, Listing, without_images
from dim_jax.reporting.tables import Table

CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8).map(str.strip)
NAMES = ("adénome", "腺瘤", "polyp", "=1+1", "a;b", "a,b")


def rows_of(path):
    return [cells for _, cells in csv_files.rows(path, {"path", "label"}.__contains__)]


@settings(max_examples=40)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory, rows):
    path, stream = tmp_path_factory.mktemp("csv") / "a.csv", io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("path", "label"), *rows])
    path.write_bytes(csv_files.encode(stream.getvalue()))
    assert rows_of(path) == [["path", "label"], *(list(row) for row in rows if any(map(str.strip, row)))]


@given(st.text(st.characters(codec="utf-8")))
def test_a_byte_order_mark_is_written_where_a_spreadsheet_needs_it(text):
    encoded = csv_files.encode(text)
    assert encoded.startswith(b"\xef\xbb\xbf") == (not text.isascii())
    assert encoded.decode("utf-8-sig") == text


def test_images_of_a_written_table_are_found_again(tmp_path):
    """As `prepare --exclude-list` reads the table of `label_issues`."""
    paths = [f"{name}/{name}.png" for name in NAMES]
    listed = [ListedImage(path, path.partition("/")[0], where=path) for path in (*paths, "other/1.png", "more/1.png")]
    table = Table("label_issues", "", ("path", "label"), [(path, "x") for path in paths])
    (tmp_path / "a.csv").write_bytes(csv_files.encode(table.text))
    written = [row[0] for row in rows_of(tmp_path / "a.csv")[1:]]
    kept = without_images(Listing(tmp_path, listed, ("more", "other")), written, "a.csv")
    assert [item.path for item in kept.images] == ["other/1.png", "more/1.png"]


@pytest.mark.parametrize("header, cells", [
    ("path;label;a,b,c,d", 3), ("path,label,a;b;c;d", 3), ("a|b|c|d;path;label", 3), ("a;b|c|d", 3),
])  # fmt: skip
def test_the_separator_is_that_of_the_known_names(tmp_path, header, cells):
    (tmp_path / "a.csv").write_text(header)
    assert len(rows_of(tmp_path / "a.csv")[0]) == cells


@pytest.mark.parametrize("named", [",", ";", "|", "^"])
def test_a_line_that_names_a_separator_may_be_wrong(tmp_path, named):
    (tmp_path / "a.csv").write_text(f"sep={named}\npath;label;a,b,c\nx;y;z")
    assert rows_of(tmp_path / "a.csv") == [["path", "label", "a,b,c"], ["x", "y", "z"]]
    (tmp_path / "a.csv").write_text("sep=^\npath^label^a,b,c\nx^y^z")
    assert rows_of(tmp_path / "a.csv") == [["path", "label", "a,b,c"], ["x", "y", "z"]]


@pytest.mark.parametrize("encoded, reason", [
    *((signature + bytes(range(200)), kind) for signature, kind in csv_files.SIGNATURES.items()),
    (bytes(range(256)), "is not text"),
    (b"\x07\x00\x00\x00" * 100, "is not text"),
    ("path,label\na.png,Adénome".encode("cp1252"), "line 2: not in UTF-8 (byte 0xe9), perhaps in Windows-1252"),
    ("path,label\na.png,аденома".encode("cp1251"), "line 2: not in UTF-8"),
    ("path,label\na.png,腺瘤".encode("gb18030"), "line 2: not in UTF-8"),
])  # fmt: skip
def test_other_files_are_refused_with_the_remedy(tmp_path, encoded, reason):
    (tmp_path / "a.csv").write_bytes(encoded)
    with pytest.raises(ValueError, match="CSV UTF-8") as error:
        rows_of(tmp_path / "a.csv")
    assert reason in str(error.value)
