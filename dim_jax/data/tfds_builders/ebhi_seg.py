"""TensorFlow Datasets builder of EBHI-Seg: images labelled by their folders, without the segmentation masks."""

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from dim_jax.data.tfds_builders import biopsies

CLASSES = ("normal", "polyp", "low_grade_in", "high_grade_in", "serrated_adenoma", "adenocarcinoma")
PUBLISHED_AS = ("EBHI-SEG",)
HOMEPAGE = "https://figshare.com/articles/dataset/EBHI-SEG/21540159/1"
CITATION = """\
@article{shi2023ebhiseg,
  title={{EBHI-Seg}: A novel enteroscope biopsy histopathological hematoxylin and eosin image dataset for image
         segmentation tasks},
  author={Shi, Liyu and Li, Xiaoyan and Hu, Weiming and Chen, Haoyuan and Chen, Jing and Fan, Zizhen and Gao, Minghe
          and Jing, Yujie and Lu, Guotao and Ma, Deguo and Ma, Zhiyu and Meng, Qingtao and Tang, Dechao and
          Sun, Hongzan and Grzegorzek, Marcin and Qi, Shouliang and Teng, Yueyang and Li, Chen},
  journal={Frontiers in Medicine},
  volume={10},
  pages={1114673},
  year={2023},
  doi={10.3389/fmed.2023.1114673}
}
"""


class EbhiSeg(tfds.core.GeneratorBasedBuilder):
    """H&E fields of enteroscope biopsies of the colon in six classes, registered as `ebhi_seg`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "images and classes of figshare item 21540159, version 1"}  # noqa: RUF012 (TFDS's form)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"download EBHI-SEG from {HOMEPAGE} and put the zip file, or the folder EBHI-SEG in it, into the manual folder"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        description = (
            "Enteroscope biopsies of the colon, H&E, 400x, one field of view of 224 x 224 px per image, in six "
            "classes. The group is the case number in the file name. Licence: CC BY 4.0, as recorded for the "
            "figshare item by a mirror (dataset-ninja)."
        )
        return biopsies.describe(self, CLASSES, description, HOMEPAGE, CITATION)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        images = biopsies.find(dl_manager.manual_dir, PUBLISHED_AS, CLASSES)
        biopsies.check_classes(images, CLASSES, str(dl_manager.manual_dir))
        return {"train": self._generate_examples(images)}

    def _generate_examples(self, images: list[biopsies.Biopsy]) -> Iterator[tuple[str, dict[str, Any]]]:
        return biopsies.examples(images)
