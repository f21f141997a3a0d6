"""Decoding of common image formats to upright 8-bit RGB, and resizing to squares."""

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from dim_jax.data import deep_images, doubts, encodings, jpeg_damage

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
POLICIES = ("squash", "crop", "pad")
WHITE = 255  # the background of a slide: the colour behind transparency and around padded images
EXIF_ORIENTATION = 0x0112
LEAST_OPAQUE = 16  # opacity of the most opaque pixel, of 255, below which nothing is seen
# Formats are detected by content, not suffix: Pillow would pass an .eps named .png to Ghostscript.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
# Bounds that a single field never reaches: a small file can declare a huge image, and an elongated one has huge
# intermediate sizes on the way to a square.
MOST_PIXELS, MOST_BYTES, MOST_ELONGATED = 2**26, 2**29, 100
# A progressive JPEG has about ten scans, and decoding each costs a pass over the whole image, however few its bytes.
MOST_SCANS = 500
IMAGES_IN_FLIGHT = 256  # decoded or being decoded ahead of the caller of `read_squares`


@dataclass(frozen=True)
class Inspected:
    """A decoded image file.

    Attributes:
      pixels: upright RGB, uint8 of shape (H, W, 3).
      conversion: why a plain decoder (8-bit RGB or greyscale JPEG or PNG, upright, one frame) would not give these
        pixels, for example "CMYK"; "" if it would.
      doubt: why the pixels may not show what they should, for example "nearly one colour"; "" if nothing says so.
      kind: Pillow's name of the format, for example "PNG".
      texts: text metadata of the file, by name.
    """

    pixels: np.ndarray
    conversion: str
    doubt: str
    kind: str
    texts: dict[str, str]


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image as upright RGB, uint8 of shape (H, W, 3).

    Of several pages or frames the first is read; three grey pages of one size are the channels of a colour image.
    Transparent images are composited over white. More than 8 bits are scaled by the fewest of 8, 10, 12, 14 and 16 bits
    that hold the largest value.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is empty, truncated, too large to be one field, or not an image of a known format.
    """
    path = Path(path)
    return _inspect(read_bytes(path), str(path), np.asarray, is_checked=False).pixels


def read_square(path: str | Path, size: int, policy: str = "squash") -> np.ndarray:
    """Returns `resize(read_image(path), size, policy)`, without the full-size copy between the two.

    Args:
      path: the image file.
      size: side of the result in pixels.
      policy: "squash", "crop" or "pad" (`resize`).

    Returns:
      uint8 of shape (size, size, 3).

    Raises:
      FileNotFoundError, ValueError: as `read_image` and `resize`.
    """
    return inspect_square(path, size, policy, is_checked=False).pixels


def inspect_square(path: str | Path, size: int, policy: str = "squash", *, is_checked: bool = True) -> Inspected:
    """Returns `inspect` of a file with the pixels of `read_square`.

    Args:
      path, size, policy: as for `read_square`.
      is_checked: False skips the search for faults and doubts, in files that were searched by `prepare`.

    Raises:
      FileNotFoundError, ValueError: as `read_image` and `resize`.
    """
    _check_square(size, policy)
    path = Path(path)
    return _inspect(read_bytes(path), str(path), lambda image: _squared(image, size, policy), is_checked)


def read_squares(paths: Sequence[str | Path], size: int, policy: str = "squash") -> Iterator[np.ndarray]:
    """Yields the pixels of `read_square` of each path in order, decoding several images at a time.

    Raises:
      FileNotFoundError, ValueError: as `read_square`.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), IMAGES_IN_FLIGHT):
            yield from pool.map(lambda path: read_square(path, size, policy), paths[start : start + IMAGES_IN_FLIGHT])


def read_bytes(path: Path) -> bytes:
    """Returns the bytes of an image file; refuses pipes and devices, which may have no end.

    Raises:
      OSError: the file does not exist or may not be read.
      ValueError: it is not a regular file, or is larger than any single field.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise type(error)(f"{path}: {error.strerror or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a regular file; replace it by an image")
    raise ValueError(f"{path}: too large to read as one field ({status.st_size / 2**20:.0f} MiB); cut it into fields")


def inspect(encoded: bytes, name: str) -> Inspected:
    """Decodes an image file, with the reason why a plain decoder would give other pixels, if it would, and doubts.

    Args:
      encoded: bytes of the file.
      name: name of the file, for error messages.

    Raises:
      ValueError: as `read_image`, and if rows are missing.
    """
    return _inspect(encoded, name, np.asarray, is_checked=True)


def _inspect(encoded: bytes, name: str, to_pixels: Callable[[Image.Image], np.ndarray], is_checked: bool) -> Inspected:
    """Returns the Inspected image whose pixels are `to_pixels` of the upright RGB image."""
    if not encoded:
        raise ValueError(f"{name}: the file is empty")
    try:
        with _open(encoded) as image:
            _check_size(image, encoded)
            fault = _fault(image, encoded) if is_checked else ""
            width, height, mode = *image.size, image.mode
            upright, reasons, remarks = _decode(image, encoded)
            texts = {name: text for name, text in image.info.items() if isinstance(text, str)}
            if is_checked and not fault and image.format in ("JPEG", "MPO"):
                if doubts.is_cut_off(upright):
                    fault = encodings.CUT_OFF
                elif damage := jpeg_damage.find(encoded, width, height, mode):
                    fault = f"{encodings.DAMAGED} ({damage})"
            if is_checked:
                remarks += _doubts(upright, image.format, fault)
            pixels = to_pixels(upright)
    except Image.UnidentifiedImageError:
        is_known = encoded.startswith((encodings.PNG_MAGIC, encodings.JPEG_MAGIC))
        reason = "cannot be decoded (its header is damaged)" if is_known else "not an image of a known kind"
        raise ValueError(f"{name}: {reason}") from None
    except (_TooLarge, Image.DecompressionBombError, MemoryError) as error:
        reason = str(error) if isinstance(error, _TooLarge) else f"more than {MOST_PIXELS:,} pixels"
        raise ValueError(f"{name}: too large to read as one field ({reason}); cut it into fields") from None
    except Exception as error:  # on broken files Pillow's plugins raise OSError, SyntaxError, struct.error and more
        raise ValueError(f"{name}: cannot be decoded ({' '.join(str(error).split())})") from None
    conversion = ", ".join(reasons + ([fault] if fault else []))
    return Inspected(pixels, conversion, ", ".join(remarks), str(image.format), texts)  # type: ignore[arg-type]  # Pillow: names are str, but for dpi


def _open(encoded: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(encoded), formats=FORMATS)


def _fault(image: Image.Image, encoded: bytes) -> str:
    """Returns why other decoders may read other pixels from the same file, or ""."""
    if image.format == "PNG":
        return encodings.png_fault(encoded)
    return encodings.jpeg_fault(encoded) if image.format == "JPEG" else ""


def _doubts(upright: Image.Image, kind: str | None, fault: str) -> list[str]:
    if fault == encodings.INCOMPLETE:
        return ["blurred, because scans are missing"]
    if kind != "PNG" and fault == encodings.CUT_OFF:
        return ["cut off: its lower right has the grey of missing data"]
    if fault.startswith(encodings.DAMAGED):
        return [f"{fault}: some of it may be shifted or grey"]
    doubt = doubts.of_pixels(upright)
    return [doubt] if doubt else []


class _TooLarge(ValueError):
    """The header declares an image that is too large to decode."""


def _check_size(image: Image.Image, encoded: bytes) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise _TooLarge(f"{width} x {height} pixels, at most {MOST_PIXELS:,}")
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise _TooLarge(f"{width} x {height} pixels, one side more than {MOST_ELONGATED} times the other")
    # ff bytes in scan data are escaped, so this counts scan markers: the image's, and at most a thumbnail's.
    if image.format in ("JPEG", "MPO") and encoded.count(b"\xff\xda") > MOST_SCANS:
        raise _TooLarge(f"more than {MOST_SCANS} scans")


def _decode(image: ImageFile.ImageFile, encoded: bytes) -> tuple[Image.Image, list[str], list[str]]:
    """Returns the upright RGB image, why a plain decoder would give other pixels, and doubts about how it was read."""
    layout = deep_images.sample_layout(image)
    reasons, remarks = _conversion(image, encoded), []
    pages = deep_images.pages_of_one_size(image) if getattr(image, "is_animated", False) else 0
    if image.format == "TIFF" and pages > 1 and deep_images.is_grey(image):
        if pages != deep_images.PLANES:
            raise ValueError("several grey pages of one size; save it as one colour image")
        reasons.append("three grey pages as one colour image")
        deep = deep_images.read_planes(image, layout)
    else:
        if pages:
            reasons.append("first of several frames")
        if pages and deep_images.has_other_pictures(image):
            remarks.append("the first of several pictures in one file")
        deep = deep_images.read(image, layout, lambda: _open(encoded))
    if deep and deep.unused:
        reasons.append(deep.unused)
        if not deep.is_recorded:
            remarks.append(f"{deep.unused}, by its largest value")
    upright = deep.image if deep else deep_images.upright(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        if np.asarray(upright)[..., 3].max() < LEAST_OPAQUE:
            remarks.append("fully transparent")
        background = Image.new("RGBA", upright.size, (WHITE, WHITE, WHITE, 255))
        upright = Image.alpha_composite(background, upright)
    return upright if upright.mode == "RGB" else upright.convert("RGB"), reasons, remarks  # convert would copy


def _conversion(image: Image.Image, encoded: bytes) -> list[str]:
    reasons = []
    if image.format not in ("JPEG", "PNG"):
        reasons.append(str(image.format))
    if image.mode not in ("L", "RGB"):
        reasons.append("palette" if image.mode == "P" else image.mode)
    elif image.format == "PNG" and encoded[24] != 8:
        # Byte 24 of a PNG is the bit depth; Pillow gives 16-bit RGB and 2-bit grey the plain modes.
        reasons.append(f"{encoded[24]}-bit")
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 bits per channel")
    if "transparency" in image.info:
        reasons.append("transparency")
    if image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1):
        reasons.append("EXIF rotation")
    return reasons


def resize(image: np.ndarray, size: int, policy: str = "squash") -> np.ndarray:
    """Resizes an image to a square, with Pillow's antialiased bilinear filter.

    Args:
      image: uint8 of shape (H, W, 3).
      size: side of the result in pixels.
      policy: "squash" scales both sides to `size` (published); "crop" scales the short side to `size` and takes the
        centre; "pad" scales the long side to `size` and adds white on both sides.

    Returns:
      uint8 of shape (size, size, 3).

    Raises:
      ValueError: the policy is unknown or the size is below 1.
    """
    _check_square(size, policy)
    return _squared(Image.fromarray(image), size, policy)


def _check_square(size: int, policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"unknown resize policy {policy!r}; use {', '.join(POLICIES)}")
    if size < 1:
        raise ValueError(f"image size {size} must be at least 1")


def _squared(image: Image.Image, size: int, policy: str) -> np.ndarray:
    width, height = image.size
    scaled = size, size
    if policy != "squash":
        factor = size / (min(width, height) if policy == "crop" else max(width, height))
        scaled = max(1, round(width * factor)), max(1, round(height * factor))
    shrunk = image
    if scaled != image.size:
        shrunk = image.resize(scaled, Image.Resampling.BILINEAR, reducing_gap=None)
    if policy == "crop":
        left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
        shrunk = shrunk.crop((left, top, left + size, top + size))
    elif policy == "pad":
        canvas = Image.new("RGB", (size, size), (WHITE, WHITE, WHITE))
        canvas.paste(shrunk, ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
        shrunk = canvas
    return np.array(shrunk)


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels of shape (H, W, 3) as an RGB PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
