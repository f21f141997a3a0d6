"""Doubts about decoded images: pictures that can be read and hardly show tissue.

The limits are far from real fields. In 6,616 of them (EBHI-Seg, OSCC, IDC) the brightest and darkest hundredth were at
least 44 levels apart, at most 95 % of the pixels were near one colour, and none had fewer than 350 colours.
"""

import numpy as np
from PIL import Image

SAMPLE = 64  # side of the sample of pixels that is judged
LEAST_CONTRAST = 24  # levels between the darkest and the brightest hundredth, in the channel with the widest range
NEAR, MOST_NEAR = 8, 0.985  # levels from the median, and share of the pixels within them
LEAST_WHITE = 40  # the brightest hundredth of the brightest channel
FEW_COLOURS = 32
GREY = (128, 128, 128)  # what JPEG decoders put in the place of missing data
CORNER = 4  # px


def of_pixels(image: Image.Image) -> str:
    """Returns what is doubtful about an upright RGB image, for example "nearly one colour", or ""."""
    sample = image.resize((SAMPLE, SAMPLE), Image.Resampling.NEAREST)
    shares = np.cumsum(np.reshape(sample.histogram(), (3, 256)), 1) / SAMPLE**2
    low, middle, high = ((shares < share).sum(1) for share in (0.01, 0.5, 0.99))
    reached = np.concatenate([np.zeros((3, 1)), shares], 1)
    channels = np.arange(3)
    above, below = np.minimum(middle + NEAR, 255) + 1, np.maximum(middle - NEAR, 0)
    near = (reached[channels, above] - reached[channels, below]).min()
    if (colours := image.getcolors(1)) or (high == low).all():
        return "one colour" if colours else "nearly one colour"
    if high.max() < LEAST_WHITE:
        return f"nearly black (most is below level {high.max() + 1} of 255)"
    if (contrast := (high - low).max()) < LEAST_CONTRAST:
        return f"a narrow range ({contrast + 1} of 256 levels)"
    if near > MOST_NEAR:
        return "nearly one colour"
    if sample.getcolors(FEW_COLOURS) and image.width * image.height > FEW_COLOURS**2:
        colours = image.getcolors(FEW_COLOURS)
        return f"{len(colours)} colours only, like a mask" if colours else ""
    return ""


def is_cut_off(image: Image.Image) -> bool:
    """Returns whether an RGB image of several colours has the grey of missing data where a JPEG stores its end."""
    width, height = image.size
    corner = image.crop((max(0, width - CORNER), max(0, height - CORNER), width, height))
    return corner.getcolors(1) == [(corner.width * corner.height, GREY)] and not image.getcolors(1)
