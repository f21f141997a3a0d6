"""CSV files as spreadsheets and other programs of any system write and read them: encoding, separator, rows."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

SEPARATORS = (",", ";", "\t", "|")
MARKS = (  # UTF-32 first, as its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"),
)  # fmt: skip
# First bytes of files that spreadsheets and other programs save instead of text.
SIGNATURES = {
    b"PK\x03\x04": "a workbook (.xlsx or .ods) or an archive", b"\xd0\xcf\x11\xe0": "a workbook (.xls)",
    b"\x09\x08": "a workbook (.xls)", b"\x1f\x8b": "a compressed file", b"PAR1": "a Parquet file",
    b"SQLite format 3": "a database", b"%PDF": "a PDF", b"{\\rtf": "a text document (.rtf)",
}  # fmt: skip
LARGEST = 2**30  # bytes
SAMPLE = 256  # bytes by which an encoding without a byte order mark is recognised
MOST_CELLS = 1000  # of a header, in which known names are looked for


def encode(text: str) -> bytes:
    """Returns the bytes of a CSV file: UTF-8, with a byte order mark if there are characters beyond ASCII.

    Without the mark Excel takes such characters for others, and with it some programs misread the first name, so it is
    only there where it is needed.
    """
    return text.encode("utf-8" if text.isascii() else "utf-8-sig")


def rows(path: Path, is_known: Callable[[str], bool]) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of the line and the cells of each row that has any, the header first.

    Args:
      path: CSV in UTF-8 or UTF-16, with or without a byte order mark or a line `sep=;` before the header, separated by
        commas, semicolons, tabs or bars.
      is_known: whether a cell of the header may be the name of a column; that separator is taken that gives the most.

    Raises:
      ValueError: the file is too large, not text, not in UTF-8 or UTF-16, or not CSV.
    """
    text = _read_text(path)
    # Excel reads the separator from such a line, and drops it.
    mark = re.match(r'"?sep=(\\t|[^\r\n])"?[ ,;\t]*(\r\n|\r|\n)', text, re.IGNORECASE)
    text, named = (text[mark.end() :], mark[1].replace("\\t", "\t")) if mark else (text, "")
    lines = io.StringIO(text, newline="")
    separator = _separator(text, is_known, named)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            if any(cell and not cell.isspace() for cell in cells):
                yield reader.line_num + bool(mark), cells
    except csv.Error as error:
        line = reader.line_num + bool(mark)
        raise ValueError(f"{path}, line {line}: this is not CSV ({error}); check the quotes around cells") from None


def _separator(text: str, is_known: Callable[[str], bool], named: str) -> str:
    """Returns the separator that splits the header into the most known names, or else that of `sep=`, or the commonest.

    Programs write `sep=;` and then another separator.
    """
    header = next((line for line in text.splitlines() if line.strip(" ,;\t|")), "")

    def score(separator: str) -> tuple[int, bool, int]:
        cells = header.split(separator, MOST_CELLS)[:MOST_CELLS]
        return sum(map(is_known, cells)), separator == named, header.count(separator)

    return max({**dict.fromkeys(SEPARATORS), **({named: None} if named else {})}, key=score)


def _read_text(path: Path) -> str:
    """Returns the text of a file in UTF-8, or in UTF-16 or UTF-32 according to its byte order mark or null bytes.

    An encoding of one byte per character is refused, because the file does not say which characters are meant.
    """
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST // 2**20} MiB; it is hardly a table")
    encoded = path.read_bytes()
    for signature, kind in SIGNATURES.items():
        if encoded.startswith(signature):
            raise ValueError(f"{path} is {kind}, not a table as text; save it as CSV UTF-8 and give that")
    encoding = next((encoding for mark, encoding in MARKS if encoded.startswith(mark)), "")
    if not encoding:
        # In UTF-16, every other byte of common letters is 0.
        first, second = encoded[:SAMPLE:2].count(0), encoded[1:SAMPLE:2].count(0)
        is_utf16 = 8 * max(first, second) > len(encoded[:SAMPLE])
        encoding = "utf-8" if not is_utf16 else "utf-16-be" if first > second else "utf-16-le"
    not_text = f"{path} is not text; if it is a table, save it as CSV UTF-8 and give that"
    try:
        text = encoded.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        if b"\0" in encoded:
            raise ValueError(not_text) from None
        line = encoded[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: not in UTF-8 (byte {encoded[error.start]:#04x}), perhaps in Windows-1252 or another "
            "encoding, which the file does not name; save it again as CSV UTF-8"
        ) from None
    if "\0" in text and encoding != "utf-8":
        raise ValueError(not_text)
    return text
