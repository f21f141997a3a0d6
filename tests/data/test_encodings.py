"""Whatever is accepted as plain, TensorFlow's decoders read with the same pixels."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from odd_inputs.images import GREY, JPEG, PICTURE, PROGRESSIVE, encoded, interlaced_png, lossless_jpeg, png, scans
from PIL import Image

from dim_jax.data import encodings, images, tf_pipeline

SMALL = PICTURE[:21, :17]
RESTARTS = encoded(PICTURE, "JPEG", restart_marker_blocks=2)
PLAIN = {
    "jpeg": JPEG,
    "progressive jpeg": PROGRESSIVE,
    "jpeg with restarts": RESTARTS,
    "grey jpeg": encoded(GREY, "JPEG"),
    "jpeg 4:2:0": encoded(SMALL, "JPEG", subsampling=2),
    "jpeg 4:2:2": encoded(SMALL, "JPEG", subsampling=1),
    "png": png(PICTURE),
    "filtered png": encoded(SMALL, "PNG"),
    "grey png": png(GREY),
    "interlaced png": interlaced_png(SMALL),
}
CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "zero", "cut", "drop", "end"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=3,
)


def decode(data):
    return tf_pipeline.decode(data).numpy().astype(int)


def changed(data, changes):
    data = bytearray(data)
    for kind, place, value in changes:
        at = int(place * (len(data) - 1))
        if kind == "set":
            data[at] = value
        elif kind == "zero":
            data[at : at + 16] = bytes(len(data[at : at + 16]))
        elif kind == "drop":
            del data[at : at + 1 + value // 16]
        elif kind == "cut":
            del data[at + 1 :]
        else:
            data[at + 1 :] = b"\xff\xd9"
    return bytes(data)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_need_no_conversion(name):
    inspected = images.inspect(PLAIN[name], name)
    assert (inspected.conversion, inspected.doubt) == ("", "")
    assert np.abs(decode(PLAIN[name]) - inspected.pixels).max() <= 1


@given(st.sampled_from(sorted(PLAIN)), CHANGES)
def test_a_changed_file_is_refused_or_converted_or_read_alike_by_both_decoders(name, changes):
    try:
        inspected = images.inspect(changed(PLAIN[name], changes), name)
    except ValueError:
        return
    assume(not inspected.conversion and inspected.pixels.size < 1e6)
    pixels = decode(changed(PLAIN[name], changes))
    assert pixels.shape == inspected.pixels.shape and np.abs(pixels - inspected.pixels).max() <= 1


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(1, 39))
def test_a_png_without_rows_is_refused_however_few(height, width, is_grey, missing):
    assume(missing < height)
    samples = (GREY if is_grey else PICTURE)[:height, :width]
    data = png(samples)
    assert encodings.png_fault(data) == ""
    fewer = png(samples[: height - missing])
    with pytest.raises(ValueError, match="rows are missing"):
        images.inspect(data[:33] + fewer[33:], "a.png")  # the header, and fewer rows


@pytest.mark.parametrize("process", ["lossless", "arithmetic coding", "hierarchical"])
def test_processes_that_not_every_decoder_knows_are_named(process):
    if process == "lossless":
        assert encodings.jpeg_fault(lossless_jpeg(GREY)) == process
        np.testing.assert_array_equal(images.inspect(lossless_jpeg(GREY), "a").pixels[..., 0], GREY)
    else:
        marker = {"arithmetic coding": b"\xff\xca", "hierarchical": b"\xff\xc5"}[process]
        assert encodings.jpeg_fault(JPEG.replace(b"\xff\xc0", marker, 1)) == process


def test_every_missing_scan_is_noticed():
    places = scans(PROGRESSIVE)
    assert encodings.jpeg_fault(PROGRESSIVE) == ""
    for first, end in zip(places, [*places[1:], len(PROGRESSIVE) - 2], strict=True):
        without = PROGRESSIVE[:first] + PROGRESSIVE[end:]
        assert encodings.jpeg_fault(without) == "incomplete scans"


def test_a_palette_of_pillow_is_still_converted():
    assert images.inspect(encoded(Image.fromarray(PICTURE).convert("P"), "PNG"), "a").conversion == "palette"
