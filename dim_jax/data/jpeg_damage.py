"""Damage in the data of a JPEG that its decoder forgives.

libjpeg replaces what it cannot read by grey or by shifted blocks and only prints a warning, which Pillow suppresses.
TensorStore, which Orbax brings along, makes an error of every such warning.
"""

import re

import tensorstore

from dim_jax.data import encodings

CHANNELS = {"L": 1, "RGB": 3}  # of the modes that TensorStore reads
EXTRANEOUS = "extraneous bytes at its end"
_WARNING = re.compile(r'Error reading "[^"]*": (?:Corrupt JPEG data: )?(.*?)(?: \[|$)')


def find(encoded: bytes, width: int, height: int, mode: str) -> str:
    """Returns the first warning of libjpeg about a JPEG, such as "premature end of data segment", or "".

    Args:
      encoded: bytes of the file.
      width, height: its size in px, as stored.
      mode: "L" or "RGB" as stored; other modes are not searched.
    """
    if mode not in CHANNELS:
        return ""
    shape = width, height, 1, CHANNELS[mode]
    warning = _warning(encoded, shape)
    if warning:
        return warning
    # TensorStore stops at the last block. Without the last byte before the end marker a block must be missing.
    end = encodings.end_of_jpeg_data(encoded)
    last = 2 if encoded[end - 2 : end] == b"\xff\0" else 1
    return "" if _warning(encoded[: end - last] + encoded[end:], shape) else EXTRANEOUS


def _warning(encoded: bytes, shape: tuple[int, int, int, int]) -> str:
    width, height, depth, channels = shape
    size = [width, height, depth]
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": "memory://",
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": channels},
            "scale_metadata": {"size": size, "chunk_size": size, "encoding": "jpeg", "resolution": [1, 1, 1]},
            "create": True,
        }
    ).result()
    store.kvstore.write(f"1_1_1/0-{width}_0-{height}_0-{depth}", encoded).result()
    try:
        store.read().result()
    except ValueError as error:
        match = _WARNING.search(str(error))
        return match[1] if match else " ".join(str(error).split())
    return ""
