"""Reading metrics.jsonl."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dim_jax.runs.metrics_file import FILE_NAME, read_lines


@pytest.mark.parametrize(
    ("data", "steps", "unreadable"),
    [
        (b"", [], []),
        (b'{"step": 1}\n{"step": 2}', [1, 2], []),
        (b'{"step": 1}\n{"step": 2', [1], []),
        (b'{"step": 1}\n{"step": 2\n{"step": 3}\n', [1, 3], [2]),
        (b'[1]\n17\n"step"\n{"loss": 1}\n{"step": "1"}\n{"step": NaN}\n{"step": 1e999}\n', [], [1, 2, 3, 4, 5, 6, 7]),
        (b'{"step": 1' + b"0" * 400 + b'}\n{"step": 9223372036854775808}\n{"step": 3.0}\r\n', [3], [1, 2]),
        (b"[" * 100000 + b'\n{"step": 4}\n', [4], [1]),
        ('{"step": 1, "note": "a\u2028b\u0085c"}\n'.encode(), [1], []),
    ],
)
def test_the_reader_skips_unreadable_lines(tmp_path, data, steps, unreadable):
    (tmp_path / FILE_NAME).write_bytes(data)
    records, numbers = read_lines(tmp_path)
    assert ([record["step"] for record in records], numbers) == (steps, unreadable)


def test_without_a_file_there_are_no_lines(tmp_path):
    assert read_lines(tmp_path) == ([], [])


@given(data=st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789stepnul\n ', max_size=200).map(str.encode))
def test_the_reader_accepts_any_bytes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    (folder / FILE_NAME).write_bytes(data)
    records, numbers = read_lines(folder)
    assert len(records) + len(numbers) <= data.count(b"\n") + 1
