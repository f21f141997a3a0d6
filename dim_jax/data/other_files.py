"""Files beside images that hold pictures in a form that is not read, and what to do with them."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dim_jax.data.image_writer import MAGIC
from dim_jax.data.listing import named

REMEDIES = {
    "whole slides": "cut them into fields first",
    "DICOM files": "save each as PNG",
    "photographs in a format that is not read": "save them as PNG or JPEG",
    "arrays or volumes": "save each picture as PNG",
    "archives": "unpack them",
    "images by their contents, but without the suffix of one": "rename them, for example to NAME.png",
}
SLIDES, DICOM, PHOTOGRAPHS, ARRAYS, ARCHIVES, UNNAMED = REMEDIES
SUFFIXES = {
    SLIDES: ".svs .svslide .ndpi .ndpis .mrxs .scn .vms .vmu .bif .czi .vsi .ets .qptiff .isyntax .i2syntax .kfb .sdpc "
    ".lif .afi .zvi .tmap",
    DICOM: ".dcm .dicom .dic .ima",
    PHOTOGRAPHS: ".heic .heif .hif .avif .jxl .jpx .jpf .jxr .psd .xcf .tga .ico .exr .hdr .svg .pdf .cr2 .cr3 .nef "
    ".arw .dng .orf .rw2 .raf .raw",
    ARRAYS: ".npy .npz .mat .h5 .hdf5 .zarr .n5 .nii .nrrd .mha .mhd .pt .pth .pkl .tfrecord .tfrecords .lmdb .mdb "
    ".parquet .arrow .safetensors",
    ARCHIVES: ".zip .tar .tgz .gz .bz2 .xz .7z .rar .zst",
}  # fmt: skip
_KIND_OF = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes.split()}
DICOM_MAGIC, DICOM_OFFSET = b"DICM", 128
IMAGE_MAGIC = tuple(magic for magic in MAGIC if len(magic) > 2 and magic != b"RIFF")  # BM is too short to tell


def warnings(paths: Sequence[Path], root: Path | None = None) -> list[str]:
    """Returns a text for each kind of picture among files that are passed over, with their number and some names.

    Args:
      paths: files without the suffix of an image.
      root: folder that their names are relative to; None for whole paths.
    """
    by_kind = defaultdict(list)
    for path in sorted(paths):
        kind = _KIND_OF.get(path.suffix.lower()) or _kind_by_contents(path)
        if kind:
            by_kind[kind].append(path.relative_to(root).as_posix() if root else str(path))
    return [
        f"{kind} are not read: {len(by_kind[kind])} ({named(by_kind[kind])}); {remedy}"
        for kind, remedy in REMEDIES.items()
        if kind in by_kind
    ]


def _kind_by_contents(path: Path) -> str:
    if not path.is_file():  # a pipe has no end
        return ""
    try:
        with path.open("rb") as file:
            start = file.read(DICOM_OFFSET + len(DICOM_MAGIC))
    except OSError:
        return ""
    if start[DICOM_OFFSET:] == DICOM_MAGIC:
        return DICOM
    is_webp = start[8:12] == b"WEBP"  # other RIFF files are sounds and films
    return UNNAMED if any(start.startswith(magic) for magic in IMAGE_MAGIC) or is_webp else ""
