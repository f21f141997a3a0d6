"""Image files that decoders read differently, in part, or as next to nothing."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dim_jax.data import encodings, images
from dim_jax.data import manifest as manifests
from odd_inputs.corpus import odd_input, run, tissue, write_classes

SIDE = 48
PICTURE = tissue(1000, SIDE)
GREY = np.ascontiguousarray(PICTURE[..., 1])
EXIF = Image.Exif()
EXIF[images.EXIF_ORIENTATION] = 6


# --- files -----------------------------------------------------------------------------------------------------------


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    """Returns an image file as Pillow writes it."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes, checksum: bytes | None = None) -> bytes:
    """Returns a chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + data)) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + checksum


def rows_of(samples: np.ndarray) -> bytes:
    """Returns samples of shape (H, W) or (H, W, C), of 8 or 16 bits, as unfiltered rows of a PNG."""
    return b"".join(b"\0" + row.astype(f">u{samples.itemsize}").tobytes() for row in samples)


def header(samples: np.ndarray, *, interlace: int = 0) -> bytes:
    """Returns the header chunk of a PNG with these samples."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if samples.ndim == 2 else samples.shape[2]]
    height, width = samples.shape[:2]
    fields = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, colour, 0, 0, interlace)
    return chunk(b"IHDR", fields)


END = chunk(b"IEND", b"")


def png(samples: np.ndarray, data: bytes | None = None, before: bytes = b"", after: bytes = END) -> bytes:
    """Returns a PNG of samples of 8 or 16 bits.

    Args:
      samples: unsigned integers of shape (H, W) or (H, W, C).
      data: the chunks with the pixels; None for those of `samples`.
      before, after: chunks before and after them.
    """
    data = chunk(b"IDAT", zlib.compress(rows_of(samples))) if data is None else data
    return encodings.PNG_MAGIC + header(samples) + before + data + after


def interlaced_png(samples: np.ndarray) -> bytes:
    """Returns a PNG of samples of 8 or 16 bits in seven passes."""
    passes = [rows_of(samples[row::rows, column::columns]) for row, column, rows, columns in encodings.ADAM7]
    data = chunk(b"IDAT", zlib.compress(b"".join(passes)))
    return encodings.PNG_MAGIC + header(samples, interlace=1) + data + END


def tiff(
    pages: list[np.ndarray],
    photometric: int | None = None,
    description: str = "",
    order: str = "<",
    *,
    is_planar: bool = False,
) -> bytes:
    """Returns an uncompressed TIFF with pages of unsigned integers, of shape (H, W) or (H, W, C)."""
    stream = {"<": b"II*\0", ">": b"MM\0*"}[order] + bytes(4)
    pointer = 4

    def add(data: bytes) -> int:
        nonlocal stream
        stream += data + bytes(len(data) % 2)
        return len(stream) - len(data) - len(data) % 2

    for samples in pages:
        height, width = samples.shape[:2]
        channels = 1 if samples.ndim == 2 else samples.shape[2]
        strips = [samples[..., channel] for channel in range(channels)] if is_planar else [samples]
        places = [add(strip.astype(f"{order}u{samples.itemsize}").tobytes()) for strip in strips]
        bits = struct.pack(f"{order}{channels}H", *[8 * samples.itemsize] * channels)
        interpretation = (1 if channels == 1 else 2) if photometric is None else photometric
        # Tag, type (3 is 16 and 4 is 32 bits), number of values, and the only value or the place of several.
        entries = [
            (256, 4, 1, width), (257, 4, 1, height),
            (258, 3, channels, 8 * samples.itemsize if channels == 1 else add(bits)), (259, 3, 1, 1),
            (262, 3, 1, interpretation), (277, 3, 1, channels), (278, 4, 1, height), (284, 3, 1, 2 if is_planar else 1),
        ]  # fmt: skip
        for tag, values in ((273, places), (279, [strip.nbytes for strip in strips])):
            several = struct.pack(f"{order}{len(values)}I", *values)
            entries.append((tag, 4, len(values), values[0] if len(values) == 1 else add(several)))
        if description:
            entries.append((270, 2, len(description) + 1, add(description.encode() + b"\0")))
        if channels == 4:
            entries.append((338, 3, 1, 2))
        stream = stream[:pointer] + struct.pack(f"{order}I", len(stream)) + stream[pointer + 4 :]
        stream += struct.pack(f"{order}H", len(entries))
        for tag, kind, count, value in sorted(entries):
            values, layout = ([value, 0], "HH") if kind == 3 and count == 1 else ([value], "I")
            stream += struct.pack(f"{order}HHI{layout}", tag, kind, count, *values)
        pointer = len(stream)
        stream += bytes(4)
    return stream


def segment(marker: int, payload: bytes) -> bytes:
    """Returns a segment of a JPEG."""
    return struct.pack(">BBH", 255, marker, len(payload) + 2) + payload


def lossless_jpeg(grey: np.ndarray) -> bytes:
    """Returns a lossless JPEG (SOF3) of grey levels, each coded as its difference to the one before."""
    height, width = grey.shape
    before = np.concatenate([np.concatenate([[128], grey[:-1, 0]])[:, None], grey[:, :-1]], 1)
    bits = ""
    for change in (grey.astype(int) - before).ravel().tolist():
        size = abs(change).bit_length()
        bits += f"{size:04b}" + (f"{change if change > 0 else change + 2**size - 1:0{size}b}" if size else "")
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = segment(0xC3, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
    table = segment(0xC4, bytes([0, 0, 0, 0, 9] + [0] * 12) + bytes(range(9)))
    return b"\xff\xd8" + frame + table + segment(0xDA, b"\1\1\0\1\0\0") + data + b"\xff\xd9"


def scans(jpeg: bytes) -> list[int]:
    """Returns the places of the scans in a JPEG."""
    return [place for place in range(len(jpeg)) if jpeg[place : place + 2] == b"\xff\xda"]


# --- outcomes --------------------------------------------------------------------------------------------------------


def prepared(folder: Path, name: str, encoded_image: bytes) -> tuple[str, np.ndarray | None]:
    """Prepares twenty images and the file, and returns the output and what both training decoders read of the file."""
    from dim_jax.data import tf_pipeline  # TensorFlow takes seconds to import

    slides = write_classes(folder / "slides", 10)
    (slides / "benign" / name).write_bytes(encoded_image)
    result = run("prepare", f"--source={slides}", f"--out={folder / 'data'}", "--image-size=32").succeeded()
    manifest = manifests.load(folder / "data")
    rows = [row for row in range(len(manifest)) if manifest.rows[row].path.startswith(f"benign/{name}")]
    if not rows:
        return result.output, None
    pixels = images.read_image(manifest.file(rows[0]))
    by_tensorflow = tf_pipeline.decode(manifest.file(rows[0]).read_bytes()).numpy()
    assert np.abs(by_tensorflow.astype(int) - pixels).max() <= 1, "the training decoders differ"
    return result.output, pixels


def line_with(output: str, name: str, *words: str) -> str:
    """Returns the first line of an output with the name and all the words."""
    return next(line.strip() for line in output.splitlines() if all(word in line for word in (name, *words)))


def image(
    key: str, name: str, make: Callable[[], bytes], words: str, expected: np.ndarray | None, tolerance: int = 1
) -> None:
    """Adds an image that must be read as `expected` with `words` in the report ("" for none), or left out (None)."""

    @odd_input("images", key)
    def check(folder: Path) -> str:
        output, pixels = prepared(folder, name, make())
        if expected is None:
            assert pixels is None, "it was read"
            return f"left out: {line_with(output, f'benign/{name}', 'WARNING', words)}"
        assert pixels is not None, output
        assert pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).max() <= tolerance
        return f"read: {line_with(output, f'benign/{name}', words)}" if words else "read as it is"


def colours(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, -1)


# --- more than 8 bits ------------------------------------------------------------------------------------------------

DEEP = PICTURE.astype(np.uint16)
TWELVE = "WARNING: 1 image is doubtful (12 of 16 bits"
image("twelve_bits_grey_tiff", "a.tif", lambda: tiff([DEEP[..., 1] * 16]), TWELVE, colours(GREY))
image("twelve_bits_colour_tiff", "a.tif", lambda: tiff([DEEP * 16]), TWELVE, PICTURE)
image("twelve_bits_colour_tiff_big_endian", "a.tif", lambda: tiff([DEEP * 16], order=">"), TWELVE, PICTURE)
image("twelve_bits_grey_png", "a.png", lambda: png(DEEP[..., 1] * 16), TWELVE, colours(GREY))
image("twelve_bits_colour_png", "a.png", lambda: png(DEEP * 16), TWELVE, PICTURE)
image("ten_bits_colour_png", "a.png", lambda: png(DEEP * 4), "(10 of 16 bits", PICTURE)
image("fourteen_bits_colour_png", "a.png", lambda: png(DEEP * 64), "(14 of 16 bits", PICTURE)
image("sixteen_bits_colour_png", "a.png", lambda: png(DEEP * 257), "(16-bit)", PICTURE)
image("sixteen_bits_colour_tiff", "a.tif", lambda: tiff([DEEP * 257]), "(TIFF)", PICTURE)
image("sixteen_bits_in_planes_tiff", "a.tif", lambda: tiff([DEEP * 257], is_planar=True), "one after the other", None)
image("eight_bits_in_planes_tiff", "a.tif", lambda: tiff([PICTURE], is_planar=True), "(TIFF)", PICTURE)
SBIT = chunk(b"sBIT", bytes([12] * 3))
image("twelve_bits_shifted_up_png", "a.png", lambda: png(DEEP * 256, before=SBIT), "(16-bit)", PICTURE, 2)
image(
    "sixteen_bits_white_is_zero_tiff", "a.tif", lambda: tiff([65535 - DEEP[..., 1] * 257], photometric=0), "I;16",
    colours(GREY),
)  # fmt: skip


# --- pages -----------------------------------------------------------------------------------------------------------

PLANES = [np.ascontiguousarray(PICTURE[..., number]) for number in range(3)]
WORDS = "three grey pages as one colour image"
image("three_grey_pages", "a.ome.tif", lambda: tiff(PLANES), WORDS, PICTURE)
image(
    "three_grey_pages_of_twelve_bits",
    "a.tif",
    lambda: tiff([plane * np.uint16(16) for plane in PLANES]),
    WORDS,
    PICTURE,
)
image("a_stack_of_three_grey_pages", "a.tif", lambda: tiff(PLANES, description="ImageJ=1.5\nslices=3\n"), "stack", None)
image("two_grey_pages", "a.tif", lambda: tiff(PLANES[:2]), "several grey pages of one size", None)
image("six_grey_pages", "a.tif", lambda: tiff(PLANES * 2), "several grey pages of one size", None)
image(
    "two_colour_pages", "a.tif", lambda: tiff([PICTURE, PICTURE[::-1]]), "(the first of several pictures in one file)",
    PICTURE,
)  # fmt: skip
ANIMATION = Image.fromarray(PICTURE)
FRAMES = {"save_all": True, "append_images": [Image.fromarray(PICTURE[::-1])], "duration": 100}
SEVERAL = "(the first of several pictures in one file)"
image("animated_gif", "a.gif", lambda: encoded(ANIMATION.quantize(64), "GIF", **FRAMES), SEVERAL, PICTURE, 60)
image("animated_png", "a.png", lambda: encoded(ANIMATION, "PNG", **FRAMES), SEVERAL, PICTURE)
image("animated_webp", "a.webp", lambda: encoded(ANIMATION, "WEBP", lossless=True, **FRAMES), SEVERAL, PICTURE)
image("a_larger_page_behind", "a.tif", lambda: tiff([PICTURE[::2, ::2], PICTURE]), SEVERAL, PICTURE[::2, ::2])
image("a_page_of_another_shape", "a.tif", lambda: tiff([PICTURE, PICTURE[:20]]), SEVERAL, PICTURE)
image("a_page_and_its_mask", "a.tif", lambda: tiff([PICTURE, GREY]), SEVERAL, PICTURE)
image("a_page_and_its_preview", "a.tif", lambda: tiff([PICTURE, PICTURE[::4, ::4]]), "(TIFF, first of", PICTURE)


# --- next to nothing -------------------------------------------------------------------------------------------------

CLEAR = np.dstack([PICTURE, np.zeros((SIDE, SIDE), np.uint8)])
FLAT = np.full((SIDE, SIDE, 3), (230, 225, 235), np.uint8)
SPECK = FLAT.copy()
SPECK[:4, :4] = 60
FAINT = (200 + PICTURE // 20).astype(np.uint8)
MASK = colours(np.where(PICTURE[..., 0] > 150, 3, np.where(PICTURE[..., 1] > 100, 120, 250)).astype(np.uint8))
image("fully_transparent", "a.png", lambda: encoded(CLEAR, "PNG"), "(fully transparent", np.full_like(PICTURE, 255))
image("one_colour", "a.png", lambda: encoded(FLAT, "PNG"), "(one colour)", FLAT)
image("nearly_one_colour", "a.png", lambda: encoded(SPECK, "PNG"), "(nearly one colour)", SPECK)
image("narrow_range", "a.png", lambda: encoded(FAINT, "PNG"), "(a narrow range", FAINT)
image("nearly_black", "a.png", lambda: encoded(PICTURE // 8, "PNG"), "(nearly black", PICTURE // 8)
image("a_mask", "a.png", lambda: encoded(MASK, "PNG"), "(3 colours only, like a mask)", MASK)


# --- two decoders ----------------------------------------------------------------------------------------------------

DATA = zlib.compress(rows_of(PICTURE))
JPEG = encoded(PICTURE, "JPEG", quality=95, subsampling=0)
PROGRESSIVE = encoded(PICTURE, "JPEG", quality=95, subsampling=0, progressive=True)
BROKEN = b"\0\0\0\0"
image("lossless_jpeg", "a.jpg", lambda: lossless_jpeg(GREY), "(lossless)", colours(GREY))
image("jfif", "a.jfif", lambda: JPEG, "", PICTURE, 20)
image("jpe", "a.jpe", lambda: JPEG, "", PICTURE, 20)
image("progressive_jpeg", "a.jpg", lambda: PROGRESSIVE, "", PICTURE, 20)
image(
    "cmyk_jpeg",
    "a.jpg",
    lambda: encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=95),
    "(CMYK)",
    PICTURE,
    30,
)
image(
    "rotated_jpeg",
    "a.jpg",
    lambda: encoded(PICTURE[:24], "JPEG", exif=EXIF, quality=95, subsampling=0),
    "EXIF",
    np.rot90(PICTURE[:24], -1),
    20,
)
image("palette_png", "a.png", lambda: encoded(Image.fromarray(MASK).quantize(4), "PNG"), "(palette)", MASK)
image("interlaced_png", "a.png", lambda: interlaced_png(PICTURE), "", PICTURE)
image(
    "png_with_a_wrong_checksum",
    "a.png",
    lambda: png(PICTURE, chunk(b"IDAT", DATA, BROKEN)),
    "(wrong checksums)",
    PICTURE,
)
image(
    "png_with_a_wrong_last_checksum",
    "a.png",
    lambda: png(PICTURE, after=chunk(b"IEND", b"", BROKEN)),
    "(wrong checksums)",
    PICTURE,
)
image("png_without_its_end", "a.png", lambda: png(PICTURE, after=b""), "(cut off)", PICTURE)
image(
    "png_without_the_checksum_of_its_pixels",
    "a.png",
    lambda: png(PICTURE, chunk(b"IDAT", DATA[:-4])),
    "another length",
    PICTURE,
)
image(
    "png_with_an_unknown_chunk",
    "a.png",
    lambda: png(PICTURE, chunk(b"ABCD", b"x") + chunk(b"IDAT", DATA)),
    "(unknown chunks)",
    PICTURE,
)
image(
    "png_without_its_last_rows",
    "a.png",
    lambda: png(PICTURE, chunk(b"IDAT", zlib.compress(rows_of(PICTURE[:-9])))),
    "rows are missing",
    None,
)
image("png_without_a_chunk", "a.png", lambda: png(PICTURE, chunk(b"IDAT", DATA[:900])), "rows are missing", None)
image("truncated_png", "a.png", lambda: png(PICTURE)[:1500], "rows are missing", None)
image("truncated_jpeg", "a.jpg", lambda: JPEG[:-100], "cannot be decoded", None)
image("jpeg_without_its_first_bytes", "a.jpg", lambda: JPEG[2:], "not an image of a known kind", None)


@odd_input("images")
def jpeg_that_ends_early(folder: Path) -> str:
    """Decoders put grey in the place of the missing data without a word."""
    output, pixels = prepared(folder, "a.jpg", JPEG[: len(JPEG) * 2 // 3] + b"\xff\xd9")
    assert pixels is not None
    return line_with(output, "benign/a.jpg", "WARNING", "cut off: its lower right has the grey of missing data")


def damaged_jpeg(key: str, jpeg: bytes, words: str) -> None:
    """Adds a JPEG about whose data decoders warn, if at all, on the terminal."""

    @odd_input("images", key)
    def check(folder: Path) -> str:
        output, pixels = prepared(folder, "a.jpg", jpeg)
        assert pixels is not None
        return line_with(output, "benign/a.jpg", "WARNING", "1 image is doubtful (damaged data", words)


MIDDLE = (scans(JPEG)[0] + len(JPEG)) // 2
damaged_jpeg("jpeg_with_bytes_too_many", JPEG[:-2] + b"abc" + JPEG[-2:], "damaged data")
damaged_jpeg("jpeg_with_bytes_too_few", JPEG[:MIDDLE] + JPEG[MIDDLE + 20 :], "damaged data")
damaged_jpeg("progressive_jpeg_with_bytes_too_many", PROGRESSIVE[:-2] + b"abc" + PROGRESSIVE[-2:], "damaged data")


@odd_input("images")
def progressive_jpeg_without_its_last_scans(folder: Path) -> str:
    """Decoders smooth what is missing, each in its own way."""
    output, pixels = prepared(folder, "a.jpg", PROGRESSIVE[: scans(PROGRESSIVE)[1]] + b"\xff\xd9")
    assert pixels is not None and "(incomplete scans)" in output
    return line_with(output, "benign/a.jpg", "WARNING", "scans are missing")


@odd_input("images")
def two_fields_that_share_where_the_background_is(folder: Path) -> str:
    """Thumbnails of such fields are alike; their tissue is not."""
    slides = write_classes(folder / "slides", 10)
    rows, columns = np.indices((SIDE, SIDE))
    for number, label in enumerate(("benign", "malignant")):
        field = np.where((rows + columns < SIDE)[..., None], 235, tissue(2000 + number, SIDE) // 2)
        Image.fromarray(field.astype(np.uint8)).save(slides / label / "border.png")
    output = run("prepare", f"--source={slides}", f"--out={folder / 'data'}", "--image-size=32").succeeded().output
    return line_with(output, "near-duplicates: none")
