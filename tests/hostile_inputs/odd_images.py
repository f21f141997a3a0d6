"""Unusual, broken and oversized images for `prepare` and `predict`."""

import io
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dim_jax.data import images
from dim_jax.data import manifest as manifests
from dim_jax.runs import files
from hostile_inputs.corpus import CORPUS, SIDE, Case, Make, World

# Smooth colours, so that all encodings decode to similar pixels.
PICTURE = np.stack(
    [*np.meshgrid(np.linspace(20, 230, SIDE), np.linspace(60, 200, SIDE)), np.full((SIDE, SIDE), 90)], -1
)
PICTURE = PICTURE.round().astype(np.uint8)
GREY = np.repeat(PICTURE[..., :1], 3, -1)
IMAGES: dict[str, tuple[str, Callable[[], bytes], np.ndarray | None, str]] = {}


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, bits: int, colour: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Returns a PNG that Pillow would not write; `pixels` are compressed scan lines."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def tiff(width: int, height: int, **values: int) -> bytes:
    """Returns a TIFF with one uncompressed 8-bit strip without data; `values` replace fields."""
    fields = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: width * height}
    fields |= {int(key[1:]): value for key, value in values.items()}
    entries = b"".join(struct.pack("<HHII", key, 4, 1, value) for key, value in sorted(fields.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(fields)) + entries + struct.pack("<I", 0)


def jpeg(**options) -> bytes:
    return encoded(Image.fromarray(PICTURE), "JPEG", **{"quality": 95, "subsampling": 0, **options})


def image_case(name: str, encoded_image: bytes, expected: np.ndarray | None, words: str) -> Make:
    """Returns a case of an image beside valid ones: converted to `expected`, or refused by --strict with `words`."""

    def make(folder: Path, world: World) -> Case:
        slides, out = shutil.copytree(world.slides, folder / "slides"), folder / "out"
        (slides / "normal" / name).write_bytes(encoded_image)
        arguments = (f"--source={slides}", f"--out={out}", "--image-size=16", "--strict")

        def check() -> None:
            manifest = manifests.load(out)
            row = next(index for index, row in enumerate(manifest.rows) if row.path.startswith(f"normal/{name}"))
            pixels = images.read_image(manifest.file(row))
            assert pixels.shape == expected.shape
            assert np.abs(pixels.astype(int) - expected).max() <= 8
            listed = {item["path"]: item["reason"] for item in files.read_json(out / "data_report.json")["converted"]}
            assert words in listed.get(f"normal/{name}", "") and manifest.rows[row].converted == bool(words)

        if expected is not None:
            return Case("prepare", arguments, check=check)
        return Case("prepare", arguments, (f"normal/{name}", words))

    return make


def image(name: str, words: str = "", expected: np.ndarray | None = None) -> Callable:
    """Returns a decorator that adds an image to the corpus, given a function that returns its bytes.

    Args:
      name: file name of the image.
      words: reason of its conversion ("" if it is not converted) or refusal.
      expected: pixels that it must be converted to; None if it must be refused.
    """

    def add(make: Callable[[], bytes]) -> Callable[[], bytes]:
        IMAGES[make.__name__] = (name, make, expected, words)

        def case(folder: Path, world: World) -> Case:
            return image_case(name, make(), expected, words)(folder, world)

        CORPUS[make.__name__] = ("images", case)
        return make

    return add


@image("odd.jpg", "CMYK", PICTURE)
def cmyk_jpeg():
    return encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=98)


@image("odd.tif", "CMYK", PICTURE)
def cmyk_tiff():
    return encoded(Image.fromarray(PICTURE).convert("CMYK"), "TIFF", compression="tiff_lzw")


@image("odd.png", "I;16", GREY)
def sixteen_bit_grey():
    return encoded(Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257), "PNG")


@image("odd.png", "16-bit", PICTURE)
def sixteen_bit_colour():
    rows = (PICTURE.astype(">u2") * 257).tobytes()
    lines = b"".join(b"\0" + rows[at : at + SIDE * 6] for at in range(0, len(rows), SIDE * 6))
    return png(SIDE, SIDE, 16, 2, zlib.compress(lines))


@image("odd.png", "palette", np.repeat(np.array([[[9, 8, 7], [200, 100, 50]]], np.uint8), SIDE // 2, 1).repeat(SIDE, 0))
def palette():
    indices = Image.fromarray(np.repeat([[0, 1]], SIDE // 2, 1).repeat(SIDE, 0).astype(np.uint8), "P")
    indices.putpalette([9, 8, 7, 200, 100, 50])
    return encoded(indices, "PNG")


@image("odd.png", "RGBA", np.full((SIDE, SIDE, 3), 255, np.uint8))
def all_transparent():
    return encoded(Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0)), "PNG")


@image("odd.png", "LA", GREY)
def grey_with_alpha():
    return encoded(Image.fromarray(PICTURE[..., 0]).convert("LA"), "PNG")


@image("odd.png", "1", np.repeat(np.where(PICTURE[..., :1] > 128, 255, 0), 3, -1))
def one_bit():
    return encoded(Image.fromarray(PICTURE[..., 0] > 128), "PNG")


@image("odd.png", "", GREY)
def greyscale():
    return encoded(Image.fromarray(PICTURE[..., 0]), "PNG")


@image("odd.jpg", "EXIF rotation", np.rot90(PICTURE[: SIDE // 2], -1))
def rotated_by_exif():
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    return encoded(Image.fromarray(PICTURE[: SIDE // 2]), "JPEG", exif=exif, quality=95, subsampling=0)


@image("odd.png", "", PICTURE[: SIDE * 3 // 4])
def four_by_three():
    return encoded(Image.fromarray(PICTURE[: SIDE * 3 // 4]), "PNG")


@image("odd.png", "", PICTURE[:1, :1])
def one_pixel():
    return encoded(Image.fromarray(PICTURE[:1, :1]), "PNG")


@image("odd.gif", "first of several frames", np.full((SIDE, SIDE, 3), (255, 0, 0), np.uint8))
def animated_gif():
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


@image("odd.tif", "first of several frames", PICTURE)
def tiff_of_several_pages():
    pages = [Image.fromarray(PICTURE), Image.new("RGB", (5, 5))]
    return encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])


@image("odd.jpg", "", PICTURE)
def progressive_jpeg():
    return jpeg(progressive=True)


@image("odd.jpg", "arithmetic coding", np.full((SIDE, SIDE, 3), 128, np.uint8))
def arithmetic_jpeg():
    def segment(marker: int, payload: bytes) -> bytes:
        return struct.pack(">BBH", 255, marker, len(payload) + 2) + payload

    frame = struct.pack(">BHHB", 8, SIDE, SIDE, 1) + b"\1\x11\0"
    parts = segment(0xDB, b"\0" + bytes([1] * 64)) + segment(0xC9, frame) + segment(0xDA, b"\1\1\0\0\x3f\0")
    return b"\xff\xd8" + parts + b"\xff\xd9"


@image("odd.jpg", "", PICTURE)
def png_named_jpg():
    return encoded(Image.fromarray(PICTURE), "PNG")


@image("ODD.PNG", "BMP", PICTURE)
def bmp_named_png():
    return encoded(Image.fromarray(PICTURE), "BMP")


@image("odd.webp", "WEBP", PICTURE)
def lossless_webp():
    return encoded(Image.fromarray(PICTURE), "WEBP", lossless=True)


@image("odd.png", "the file is empty")
def empty_image_file():
    return b""


@image("odd.png", "not an image of a known kind")
def text():
    return b"these are no pixels"


@image("odd.jpg", "not an image of a known kind")
def web_page():
    return b"<!DOCTYPE html><title>404</title>"


@image("odd.png", "not an image of a known kind")
def svg():
    return b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@image("odd.png", "not an image of a known kind")
def postscript():
    """Pillow would pass it to Ghostscript."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\n24 24 scale showpage\n%%EOF\n"


@image("odd.png", "cannot be decoded")
def truncated_png():
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return encoded(Image.fromarray(noise), "PNG")[:900]


@image("odd.jpg", "cannot be decoded")
def truncated_jpeg():
    whole = jpeg()
    return whole[: len(whole) - len(whole) // 4]


@image("odd.png", "cannot be decoded")
def png_with_a_flipped_byte():
    png = bytearray(encoded(Image.fromarray(PICTURE), "PNG"))
    png[len(png) // 2] ^= 255
    return bytes(png)


@image("odd.tif", "floating-point pixels")
def floating_point_tiff():
    return encoded(Image.fromarray(PICTURE[..., 0].astype(np.float32)), "TIFF")


@image("odd.png", "too large to read as one field (more than 67,108,864 pixels)")
def png_of_huge_dimensions():
    return png(200_000, 200_000, 8, 2, zlib.compress(bytes(1000)))


@image("odd.png", "too large to read as one field (more than 67,108,864 pixels)")
def png_bomb():
    """110 kB of valid image data that decode to 2.7 GB."""
    line = zlib.compressobj(1)
    return png(30_000, 30_000, 1, 0, line.compress(bytes(30_000 * 3751)) + line.flush())


@image("odd.png", "too large to read as one field (8192 x 8193 pixels")
def png_just_above_the_limit():
    line = zlib.compressobj(1)
    return png(8192, 8193, 1, 0, line.compress(bytes(8193 * 1025)) + line.flush())


@image("odd.png", "one side more than 100 times the other")
def thread():
    """One pixel wide: resized for a square crop, its long side would grow to millions of pixels."""
    return encoded(Image.new("L", (1, 60_000)), "PNG")


@image("odd.tif", "too large to read as one field (more than 67,108,864 pixels)")
def tiff_bomb():
    return tiff(60_000, 60_000)


@image("odd.gif", "too large to read as one field (more than 67,108,864 pixels)")
def gif_bomb():
    gif = bytearray(encoded(Image.new("L", (8, 8)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(gif)


@image("odd.jpg", "too large to read as one field (more than 67,108,864 pixels)")
def jpeg_bomb():
    whole = jpeg()
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", 65500, 65500) + whole[at + 4 :]


@image("odd.jpg", "more than 500 scans")
def jpeg_of_many_scans():
    """Each scan of a progressive JPEG costs ten bytes and a pass over the whole image."""
    whole = jpeg(progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 2000 + b"\xff\xd9"


@image("odd.webp", "odd.webp")
def webp_bomb():
    webp = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    at = webp.index(b"VP8L") + 9
    (bits,) = struct.unpack("<I", webp[at : at + 4])
    webp[at : at + 4] = struct.pack("<I", bits & ~0xFFFFFFF | 16382 | 16382 << 14)
    return bytes(webp)


@image("odd.png", "cannot be decoded")
def png_of_inflating_text():
    """A comment of 64 kB that inflates to 64 MB."""
    text = b"Comment\0\0" + zlib.compress(bytes(2**26))
    return png(SIDE, SIDE, 8, 0, zlib.compress(bytes(SIDE * (SIDE + 1))), (b"zTXt", text))
