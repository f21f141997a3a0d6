"""How rows become pixels: `tf` streams them, `resident` keeps them all on the devices; `features` keeps features."""

import math
from typing import TYPE_CHECKING

from dim_jax.data import images
from dim_jax.data.dataset import Dataset
from dim_jax.data.frozen_features import FrozenFeatures
from dim_jax.data.resident_images import ResidentImages

if TYPE_CHECKING:
    from dim_jax.data.frozen_features import FrozenFeatures, FrozenNetwork
    from dim_jax.data.resident_images import ResidentImages
    from dim_jax.data.tf_pipeline import TfImages

BACKENDS = ("tf", "resident", "features")


def check_options(backend: str, image_size: int, resize: str) -> None:
    """Raises ValueError for options that make no sense; reads nothing."""
    if backend not in BACKENDS:
        raise ValueError(f"config.data.backend={backend!r} is not a backend; choose {', '.join(BACKENDS)}")
    if resize not in images.POLICIES:
        raise ValueError(f"config.data.resize={resize!r} is no policy; choose {', '.join(images.POLICIES)}")
    if image_size < 16:
        raise ValueError(f"config.data.image_size={image_size} must be at least 16 pixels")


def make_images(
    backend: str,
    dataset: Dataset,
    image_size: int,
    resize: str,
    cache_gib: float,
    device_bytes: int | None = None,
    network: "FrozenNetwork | None" = None,
) -> "TfImages | ResidentImages | FrozenFeatures":
    """Returns the images of `dataset`: an object with `batches(row_batches)`, `pixels`, `shape` and `statistics()`.

    For equal rows the batches of all backends say the same; where `pixels` is None they hold `image` too, and where
    it is not, a step finds the image of row `index` there. The pixels of "tf" and "resident" agree within one level.
    `shape` is that of one image, `statistics()` the mean and std to normalise images by.

    Args:
      backend: "tf", "resident" or "features".
      dataset: the images.
      image_size: side of the square pixels in px, at least 16.
      resize: "squash", "crop" or "pad" (images.resize).
      cache_gib: "tf" keeps decoded pixels in memory only if all of them need no more than this, in GiB.
      device_bytes: memory of one device; None when it is not limited by anything but the machine's.
      network: for "features", what makes them.

    Raises:
      ValueError: an option makes no sense, or the pixels do not fit into a device.
    """
    check_options(backend, image_size, resize)
    if backend == "tf":
        from dim_jax.data.tf_pipeline import TfImages

        return TfImages(dataset, image_size, resize, cache_gib)
    if backend == "features":
        if network is None:
            raise ValueError("config.data.backend=features has no pixels to offer here; choose tf or resident")
        return FrozenFeatures(dataset, image_size, resize, network)
    needed = math.prod((len(dataset), image_size, image_size, 3))
    if device_bytes is not None and needed > device_bytes / 2:
        raise ValueError(
            f"{len(dataset)} images of {image_size} px need {needed / 2**30:.1f} GiB, more than half of a device's "
            f"{device_bytes / 2**30:.1f} GiB; use config.data.backend=tf or a smaller config.data.image_size"
        )
    return ResidentImages(dataset, image_size, resize)
