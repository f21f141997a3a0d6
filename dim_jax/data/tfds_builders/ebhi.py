"""TensorFlow Datasets builder of EBHI: one configuration per magnification, by default 200x."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from dim_jax.data.tfds_builders import biopsies

CLASSES = ("normal", "polyp", "low_grade_in", "high_grade_in", "adenocarcinoma")
PUBLISHED_AS = ("EBHI", "EBH-HE-IDS")
MAGNIFICATIONS = (200, 40, 100, 400)  # the first is the default of TFDS
HOMEPAGE = "https://figshare.com/articles/dataset/EBH-HE-IDS/16999363/1"
CITATION = """\
@article{hu2023ebhi,
  title={{EBHI}: A new Enteroscope Biopsy Histopathological {H&E} Image Dataset for image classification evaluation},
  author={Hu, Weiming and Li, Chen and Rahaman, Md Mamunur and Chen, Haoyuan and Liu, Wanli and Yao, Yudong and
          Sun, Hongzan and Grzegorzek, Marcin and Li, Xiaoyan},
  journal={Physica Medica},
  volume={107},
  pages={102534},
  year={2023},
  doi={10.1016/j.ejmp.2023.102534}
}
"""


class Ebhi(tfds.core.GeneratorBasedBuilder):
    """H&E fields of enteroscope biopsies of the colon in five classes, registered as `ebhi`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "images and classes of figshare item 16999363, version 1"}  # noqa: RUF012 (TFDS's form)
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS's form)
        tfds.core.BuilderConfig(name=f"{magnification}x", description=f"the images at magnification {magnification}x")
        for magnification in MAGNIFICATIONS
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"download EBHI from {HOMEPAGE}, unpack it into a folder EBHI and put that into the manual folder"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        description = (
            "Enteroscope biopsies of the colon, H&E, one field of view of 2048 x 1536 px per image, at four "
            "magnifications, in five classes. The group is the case number in the file name where it is written as "
            "in EBHI-Seg. Licence: not verified; see the figshare item."
        )
        return biopsies.describe(self, CLASSES, description, HOMEPAGE, CITATION)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        images = biopsies.find(dl_manager.manual_dir, PUBLISHED_AS, CLASSES)
        for image in images:
            if not image.magnification:
                raise ValueError(
                    f"{image.root}: the magnification of {image.path} is not known; put the images of each into a "
                    f"folder named 40x, 100x, 200x or 400x"
                )
        magnification = self.builder_config.name
        images = [image for image in images if f"{image.magnification}x" == magnification]
        biopsies.check_classes(images, CLASSES, f"{dl_manager.manual_dir} at {magnification}")
        return {"train": self._generate_examples(images)}

    def _generate_examples(self, images: list[biopsies.Biopsy]) -> Iterator[tuple[str, dict[str, Any]]]:
        return biopsies.examples(images)
