"""Images of 16 bits per sample, and colour images stored as three grey pages.

Pillow has no colours of 16 bits: it drops the low byte, and with it everything of an image whose camera has 12 bits.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps

BITS = (8, 10, 12, 14, 16)  # of cameras and converters
SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
DEEP = re.compile(r"(RGB[AXa]?);16([BLN])")
PLANES = 3
MOST_PAGES = 16  # that are compared with the first
WHITE_IS_ZERO = 0
BITS_PER_SAMPLE, PHOTOMETRIC, DESCRIPTION, PLANAR = 258, 262, 270, 284
SEPARATE = 2
# ImageJ's and OME's words for pages that are no colours.
STACK = re.compile(r"\b(?:slices|frames)=[2-9]|\bSize[ZT]=\"(?!1\")")


@dataclass(frozen=True)
class DeepImage:
    """An image in 8 bits, scaled from more.

    Attributes:
      image: upright, of mode L, RGB or RGBA.
      unused: how many bits of its samples are in use, for example "12 of 16 bits"; "" if all are.
      is_recorded: whether the file says so; otherwise it follows from the largest sample.
    """

    image: Image.Image
    unused: str = ""
    is_recorded: bool = True


def upright(image: Image.Image) -> Image.Image:
    """Loads an image and turns it as its EXIF orientation says."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # no copy if there is nothing to rotate
    return image


def pages_of_one_size(image: Image.Image) -> int:
    """Returns how many of the first four pages of a file have the size and mode of the first; rewinds to it."""
    size, mode, count = image.size, image.mode, 1
    try:
        while count <= PLANES:
            image.seek(count)
            if (image.size, image.mode) != (size, mode):
                break
            count += 1
    except EOFError:
        pass
    image.seek(0)
    return count


def has_other_pictures(image: Image.Image) -> bool:
    """Returns whether a page or frame of a file, of the first 16, is no smaller copy of the first; rewinds to it.

    A page of the same size is taken for another picture, whatever its mode.
    """
    width, height = image.size
    try:
        for page in range(1, MOST_PAGES):
            image.seek(page)
            if image.width >= width or abs(image.height - height * image.width / width) > 1.5:
                return True
    except EOFError:
        pass
    finally:
        image.seek(0)
    return False


def is_grey(image: Image.Image) -> bool:
    """Returns whether an image has grey levels only."""
    return image.mode == "L" or image.mode.startswith("I")


def sample_layout(image: ImageFile.ImageFile) -> str:
    """Returns Pillow's name of how an opened image stores its samples, such as "RGB;16B"; loading it forgets this."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def read_planes(image: Image.Image, layout: str) -> DeepImage:
    """Returns the colour image of a file with three grey pages of one size, red first.

    Args:
      image: the opened image.
      layout: its `sample_layout`.

    Raises:
      ValueError: the file describes its pages as something else than colours.
    """
    tags = getattr(image, "tag_v2", {})
    if STACK.search(str(tags.get(DESCRIPTION, ""))):
        raise ValueError("its grey pages are a stack, no colours; save each as an image")
    levels, bits = [], _told_bits(layout)
    for page in range(PLANES):
        image.seek(page)
        levels.append(np.asarray(upright(image.copy())))
    samples = np.stack(levels, -1)
    return DeepImage(Image.fromarray(samples)) if samples.dtype == np.uint8 else _scaled(samples, bits)


def read(image: ImageFile.ImageFile, layout: str, reopen: Callable[[], ImageFile.ImageFile]) -> DeepImage | None:
    """Returns an image of more than 8 bits per sample in 8 bits; None if it has no more.

    Args:
      image: the opened image; it is loaded if it has more.
      layout: its `sample_layout`.
      reopen: function that opens the file again.

    Raises:
      ValueError: its samples are negative or beyond 16 bits, or stored in a way that Pillow reads wrongly.
    """
    if image.mode.startswith("I"):
        bits, is_inverted = _told_bits(layout), getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
        transparent = image.info.get("transparency")
        deep = _scaled(np.asarray(upright(image)), bits, transparent)
        return replace(deep, image=ImageOps.invert(deep.image)) if is_inverted else deep
    tags = getattr(image, "tag_v2", {})
    if tags.get(PLANAR) == SEPARATE and max(tags.get(BITS_PER_SAMPLE, (8,))) > 8:
        raise ValueError("its channels of 16 bits are stored one after the other; save it with 8 bits per channel")
    if not DEEP.fullmatch(layout):
        return None
    transparent, low = image.info.get("transparency"), reopen()
    low.tile = [tile._replace(args=_swapped(tile.args)) for tile in low.tile]
    high_bytes, low_bytes = (np.asarray(upright(item)).astype(np.uint16) for item in (image, low))
    return _scaled(high_bytes * 256 + low_bytes, None, transparent)


def _swapped(args: Any) -> Any:
    """Returns a decoder's arguments with the other order of bytes: Pillow keeps the first one read, the high byte."""
    if isinstance(args, str):
        return DEEP.sub(lambda match: f"{match[1]};16{SWAPPED[match[2]]}", args)
    return tuple(map(_swapped, args)) if isinstance(args, tuple) else args


def _told_bits(layout: str) -> int | None:
    """Returns the bits per sample of a file with packed samples."""
    match = re.fullmatch(r"I;(1[0-5]).*", layout)
    return int(match[1]) if match else None


def _scaled(samples: np.ndarray, bits: int | None, transparent: object = None) -> DeepImage:
    """Returns samples of shape (H, W) or (H, W, C) in 8 bits; a fourth channel is transparency.

    Args:
      samples: integers.
      bits: bits per sample; None takes the fewest of BITS that hold the largest sample.
      transparent: the one colour that is transparent, or None.
    """
    if samples.size and (samples.min() < 0 or samples.max() > 65535):
        raise ValueError("integer pixels beyond 16 bits; save it with 8 bits per channel")
    colours, alpha = samples[..., :3], samples[..., 3:]
    if samples.ndim == 2:
        colours, alpha = samples, samples[..., :0]
    is_recorded, bits = bits is not None, bits or _bits(colours)
    scaled = [_in_8_bits(colours, bits)]
    if alpha.size:
        scaled.append(_in_8_bits(alpha, _bits(alpha)))
    elif isinstance(transparent, int | tuple):
        is_clear = (colours.reshape(*colours.shape[:2], -1) == np.array(transparent)).all(-1)
        scaled = [np.broadcast_to(np.atleast_3d(scaled[0]), (*colours.shape[:2], 3))]
        scaled.append(np.where(is_clear, 0, 255).astype(np.uint8)[..., None])
    image = Image.fromarray(np.concatenate(scaled, -1) if len(scaled) > 1 else scaled[0])
    return DeepImage(image, f"{bits} of 16 bits" if bits < 16 else "", is_recorded)


def _bits(samples: np.ndarray) -> int:
    return next(bits for bits in BITS if samples.max() < 2**bits)


def _in_8_bits(samples: np.ndarray, bits: int) -> np.ndarray:
    most = 2**bits - 1
    levels = ((np.arange(2**16) * 255 + most // 2) // most).clip(0, 255).astype(np.uint8)
    return levels[samples]  # a table takes less memory than wider numbers for all samples
