"""Damage in a JPEG's data is named; whole files of every kind have none."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from odd_inputs.corpus import tissue
from PIL import Image

from dim_jax.data import images, jpeg_damage
from dim_jax.data.encodings import end_of_jpeg_data


def jpeg(seed, side, mode, options):
    image = Image.fromarray(tissue(seed, side)[: side - 3]).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue(), (*image.size, mode)


FILES = st.builds(
    jpeg,
    st.integers(0, 99),
    st.integers(12, 90),
    st.sampled_from(["RGB", "L"]),
    st.fixed_dictionaries({
        "quality": st.integers(20, 100),
        "progressive": st.booleans(),
        "optimize": st.booleans(),
        "subsampling": st.sampled_from([0, 1, 2]),
        "restart_marker_blocks": st.sampled_from([0, 3]),
    }),
)  # fmt: skip


@settings(max_examples=60)
@given(FILES)
def test_a_whole_file_has_none(file):
    encoded, layout = file
    assert jpeg_damage.find(encoded, *layout) == ""
    assert jpeg_damage.find(encoded + b"more behind the end", *layout) == ""


@settings(max_examples=60)
@given(FILES, st.binary(min_size=1, max_size=9).filter(lambda more: b"\xff" not in more))
def test_bytes_too_many_and_too_few_are_named(file, more):
    encoded, layout = file
    end = end_of_jpeg_data(encoded)
    assert "extraneous bytes" in jpeg_damage.find(encoded[:end] + more + encoded[end:], *layout)
    assert jpeg_damage.find(encoded[: end - 3].rstrip(b"\xff") + encoded[end:], *layout)


def test_a_damaged_file_is_doubtful_and_converted(tmp_path):
    encoded, _ = jpeg(1, 64, "RGB", {"quality": 90})
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded[:-2] + b"abc" + encoded[-2:])
    for inspected in (images.inspect(path.read_bytes(), "a"), images.inspect_square(path, 32)):
        assert inspected.doubt.startswith("damaged data (") and inspected.conversion.startswith("damaged data (")
