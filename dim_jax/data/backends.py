"""How rows become pixels: `tf` streams them through tf.data, `resident` keeps them all on the devices."""

import math
from typing import TYPE_CHECKING

from dim_jax.data import images
from dim_jax.data.dataset import Dataset

if TYPE_CHECKING:
    from dim_jax.data.resident import ResidentImages
    from dim_jax.data.tf_pipeline import TfImages

BACKENDS = ("tf", "resident")


def check_options(backend: str, image_size: int, resize: str) -> None:
    """Raises ValueError for options that make no sense; reads nothing."""
    if backend not in BACKENDS:
        raise ValueError(f"config.data.backend={backend!r} is not a backend; choose {' or '.join(BACKENDS)}")
    if resize not in images.POLICIES:
        raise ValueError(f"config.data.resize={resize!r} is no policy; choose {', '.join(images.POLICIES)}")
    if image_size < 16:
        raise ValueError(f"config.data.image_size={image_size} must be at least 16 pixels")


def make_images(
    backend: str, dataset: Dataset, image_size: int, resize: str, cache_gib: float, device_bytes: int | None = None
) -> "TfImages | ResidentImages":
    """Returns the images of `dataset`: an object with `batches(row_batches)` and `pixels`.

    For equal rows the batches of both backends say the same; where `pixels` is None they hold `image` too, and where
    it is not, a step finds the image of row `index` there. The pixels agree within one level.

    Args:
      backend: "tf" or "resident".
      dataset: the images.
      image_size: side of the square pixels in px, at least 16.
      resize: "squash", "crop" or "pad" (images.resize).
      cache_gib: "tf" keeps decoded pixels in memory only if all of them need no more than this, in GiB.
      device_bytes: memory of one device; None when it is not limited by anything but the machine's.

    Raises:
      ValueError: an option makes no sense, or the pixels do not fit into a device.
    """
    check_options(backend, image_size, resize)
    if backend == "tf":
        from dim_jax.data.tf_pipeline import TfImages

        return TfImages(dataset, image_size, resize, cache_gib)
    needed = math.prod((len(dataset), image_size, image_size, 3))
    if device_bytes is not None and needed > device_bytes / 2:
        raise ValueError(
            f"{len(dataset)} images of {image_size} px need {needed / 2**30:.1f} GiB, more than half of a device's "
            f"{device_bytes / 2**30:.1f} GiB; use config.data.backend=tf or a smaller config.data.image_size"
        )
    from dim_jax.data.resident import ResidentImages

    return ResidentImages(dataset, image_size, resize)
