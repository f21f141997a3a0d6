"""Input backends: `tf` streams images, `resident` has all pixels on the devices, `features` has frozen features."""

import math

from dim_jax.data.dataset import Dataset
from dim_jax.data.frozen_features import FrozenFeatures, FrozenNetwork
from dim_jax.data.resident_images import ResidentImages
from dim_jax.data.tf_pipeline import TfImages


def make_images(
    backend: str,
    dataset: Dataset,
    image_size: int,
    resize: str,
    cache_gib: float,
    device_bytes: int | None = None,
    network: FrozenNetwork | None = None,
) -> TfImages | ResidentImages | FrozenFeatures:
    """Returns the images of `dataset`: an object with `batches(row_batches)`, `pixels`, `shape` and `statistics()`.

    Batches of the same rows are equal in all backends. If `pixels` is None they have an `image`; otherwise a step
    gathers the images from `pixels` by `index`. The pixels of "tf" and "resident" agree within one grey level. `shape`
    is the shape of one image, and `statistics()` returns the mean and std for normalisation.

    Args:
      backend: "tf", "resident" or "features".
      dataset: the images.
      image_size: side of the square images in px, at least 16.
      resize: "squash", "crop" or "pad" (images.resize).
      cache_gib: largest size of the decoded dataset in GiB that "tf" caches in memory.
      device_bytes: memory of one device in bytes; None if it is not limited.
      network: the frozen network of "features".

    Raises:
      ValueError: an option is invalid, or the pixels do not fit into a device.
    """
    if backend == "tf":
        return TfImages(dataset, image_size, resize, cache_gib)
    if backend == "features":
        if network is None:
            raise ValueError("config.data.backend=features has no pixels; choose tf or resident")
        return FrozenFeatures(dataset, image_size, resize, network)
    num_bytes = math.prod((len(dataset), image_size, image_size, 3))
    if device_bytes is not None and num_bytes > device_bytes / 2:
        raise ValueError(
            f"{len(dataset)} images of {image_size} px need {num_bytes / 2**30:.1f} GiB, more than half of a device's "
            f"{device_bytes / 2**30:.1f} GiB; use config.data.backend=tf or a smaller config.data.image_size"
        )
    return ResidentImages(dataset, image_size, resize)
