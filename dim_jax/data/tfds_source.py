"""TensorFlow Datasets (TFDS) as a source: writes the images of a classification dataset as files and lists them."""

import difflib
import importlib
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dim_jax.data import groups, image_writer, tfds_builders
from dim_jax.data.listing import SPLIT_NAMES, ListedImage, Listing, class_order

GROUP_FEATURES = ("group", "case", "patient")
FILE_FEATURES = ("filename", "file_name")


@dataclass(frozen=True)
class FeatureNames:
    """Names of the features that are read from a TFDS dataset; "" if it does not have one."""

    image: str
    label: str
    group: str = ""
    file: str = ""

    def existing(self) -> tuple[str, ...]:
        """Returns the names that are not empty."""
        return tuple(name for name in (self.image, self.label, self.group, self.file) if name)


def list_images(
    folder: Path,
    name: str,
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    group_regex: str | None = None,
    classes: Sequence[str] | None = None,
    split: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Listing:
    """Builds a dataset if necessary, writes its encoded images below `folder` and lists them.

    Args:
      folder: output folder of the files `<class>/<file name, or split and number>.<suffix>`.
      name: TFDS name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
      data_dir: TFDS's folder of built datasets; None for its default.
      manual_dir: folder of manual downloads; None for downloads/manual in `data_dir`.
      group_regex: see `groups.from_paths`; None takes the feature named group, case or patient, if there is one.
      classes: see `listing.class_order`; None takes the label order of the dataset, without classes that have no
        images.
      split: requested split method. For "auto" and "manifest" the dataset's own splits are used if there are training,
        validation and test; otherwise all of its images are pooled.
      progress: called as progress(images done, images in all).

    Raises:
      FileNotFoundError: the dataset must be downloaded by hand, and is not in `manual_dir`.
      ValueError: the dataset is unknown, cannot be downloaded, or does not have one label per image.
    """
    builder = make_builder(name, data_dir)
    names = feature_names(builder.info, name)  # checked before a download, which may be large
    build(builder, name, manual_dir)
    split_names, notes = _own_splits(list(builder.info.splits), name, split)
    label_names = builder.info.features[names.label].names
    writer = image_writer.ImageWriter(Path(folder))
    listed, unlabelled = [], 0
    own_splits = [own for own in builder.info.splits if not split_names or own in split_names]
    total = sum(builder.info.splits[own].num_examples for own in own_splits)
    for done, (own, number, example) in enumerate(_examples(builder, names, own_splits), start=1):
        label = int(example[names.label])
        if label < 0:  # TFDS's mark of a test image without a label
            unlabelled += 1
        else:
            file = _text(example.get(names.file, "")) or f"{own}-{number:06d}"
            path = writer.write(example[names.image], label_names[label], file)
            group = "" if group_regex else _text(example.get(names.group, ""))
            listed.append(ListedImage(path, label_names[label], group, split_names.get(own, ""), where=path))
        if progress:
            progress(done, max(done, total))
    listed.sort(key=lambda item: item.path)
    if not listed:
        raise ValueError(f"tfds:{name} has no labelled images; choose another dataset")

    notes.insert(0, f"the images are those of the TFDS dataset {builder.info.full_name} ({builder.info.homepage})")
    if unlabelled:
        notes.append(f"{unlabelled} images of the dataset have no label and are left out")
    if names.group:
        use = "is ignored because of --group-regex" if group_regex else "is the group"
        notes.append(f"the dataset's feature {names.group!r} {use}")
    if group_regex:
        listed = groups.from_paths(listed, group_regex)
    if classes is None:
        labels = {item.label for item in listed}
        classes = [label for label in label_names if label in labels]
        absent = [label for label in label_names if label not in labels]
        if absent:
            notes.append(f"the dataset has no images of its classes {', '.join(absent)}")
    return Listing(Path(folder), listed, class_order(listed, classes), bool(split_names), notes=notes)


def make_builder(name: str, data_dir: str | Path | None = None) -> Any:
    """Returns the TFDS builder of a dataset, of TFDS or of `tfds_builders`; downloads nothing.

    Args:
      name, data_dir: see `list_images`.

    Raises:
      ValueError: TFDS is not installed, or the dataset, configuration or version is unknown.
    """
    tfds = _tensorflow_datasets()
    dataset_name = re.split("[/:]", name)[0]
    if dataset_name in tfds_builders.NAMES:
        importlib.import_module(f"{tfds_builders.__name__}.{dataset_name}")
    try:
        return tfds.builder(name, **({"data_dir": Path(data_dir).expanduser()} if data_dir else {}))
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False), *tfds_builders.NAMES]
        close = difflib.get_close_matches(dataset_name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else "see https://www.tensorflow.org/datasets/catalog"
        raise ValueError(f"tfds:{name} is unknown to TensorFlow Datasets; {hint}") from None
    except Exception as error:  # AssertionError for an unknown version, ImportError for a missing package, and more
        raise ValueError(f"tfds:{name} cannot be opened by TensorFlow Datasets ({_line(error)})") from error


def build(builder: Any, name: str, manual_dir: str | Path | None = None) -> None:
    """Downloads and builds a dataset, unless it is built already.

    Args:
      builder: builder of `make_builder`.
      name, manual_dir: see `list_images`.

    Raises:
      FileNotFoundError: files that must be downloaded by hand are missing.
      ValueError: the download or the build failed.
    """
    tfds = _tensorflow_datasets()
    _check_manual_files(builder, name, manual_dir)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=Path(manual_dir).expanduser() if manual_dir else None)
    try:
        builder.download_and_prepare(download_config=config)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"tfds:{name} cannot be built: {_line(error)}") from error
    except ImportError as error:
        raise ValueError(f"tfds:{name} needs a package that is not installed ({error}); install it with pip") from error
    except Exception as error:  # errors of the network, of TensorFlow or of the builder
        raise ValueError(
            f"tfds:{name} cannot be downloaded or built ({type(error).__name__}: {_line(error)}); check the network "
            "and the files, or give --data-dir with a copy built elsewhere"
        ) from error


def _tensorflow_datasets() -> Any:
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(f"--source=tfds:NAME needs tensorflow-datasets ({error}); install it with pip") from None
    # TensorFlow would otherwise allocate accelerator memory that JAX needs, when training prepares its data.
    tf.config.set_visible_devices([], "GPU")
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS logs warnings about its own code
    return tfds


def _check_manual_files(builder: Any, name: str, manual_dir: str | Path | None) -> None:
    """Raises FileNotFoundError with one line on what to download by hand, for which TFDS prints a page."""
    built = Path(builder.data_dir)
    if not builder.MANUAL_DOWNLOAD_INSTRUCTIONS or built.is_dir():
        return
    # TFDS builds into ROOT/NAME[/CONFIG]/VERSION.
    manual = built.parents[2 if builder.builder_config else 1] / "downloads" / "manual"
    manual = Path(manual_dir).expanduser() if manual_dir else manual
    if not manual.is_dir() or not any(manual.iterdir()):
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        state = "is empty" if manual.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"tfds:{name} must be downloaded by hand and the manual folder {manual} {state}: {instructions}; or give "
            "its folder as --manual-dir"
        )


def feature_names(info: Any, name: str) -> FeatureNames:
    """Returns the names of the image, the label and, if they exist, the group and the file name of a dataset.

    Args:
      info: the tfds.core.DatasetInfo.
      name: name of the dataset, for errors.

    Raises:
      ValueError: there is not exactly one image and one label, or the image has floating-point pixels.
    """
    kinds = _tensorflow_datasets().features
    features = info.features if isinstance(info.features, kinds.FeaturesDict) else {}
    image_names = [
        key
        for key, feature in features.items()
        if isinstance(feature, kinds.Image) and not isinstance(feature, kinds.LabeledImage)
    ]
    label_names = [key for key, feature in features.items() if isinstance(feature, kinds.ClassLabel)]
    supervised: tuple[str, ...] = info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in image_names and supervised[1] in label_names:
        image_names, label_names = [supervised[0]], [supervised[1]]
    if len(image_names) != 1 or len(label_names) != 1:
        listed = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        listed = listed or type(info.features).__name__
        raise ValueError(
            f"tfds:{name} is not an image-classification dataset: it needs one Image and one ClassLabel and has "
            f"{listed}; choose another dataset or write its images into class folders"
        )
    if np.dtype(features[image_names[0]].np_dtype).kind == "f":
        raise ValueError(f"tfds:{name} has floating-point images of unknown scale; write them as 8-bit images")

    def first(candidates: Sequence[str]) -> str:
        return next((key for key in candidates if key in features and _is_scalar(features[key])), "")

    return FeatureNames(image_names[0], label_names[0], first(GROUP_FEATURES), first(FILE_FEATURES))


def _is_scalar(feature: Any) -> bool:
    """Returns whether a feature is a single string or integer."""
    return feature.shape == () and np.dtype(feature.np_dtype).kind in "iuSUO"


def _own_splits(names: list[str], name: str, split: str) -> tuple[dict[str, str], list[str]]:
    """Returns "train", "val" or "test" for each split of the dataset, or nothing if they are not used; and notes."""
    meanings = {own: SPLIT_NAMES[own.lower()] for own in names if own.lower() in SPLIT_NAMES}
    subject = f"the dataset's own split{'s' if len(names) > 1 else ''} {', '.join(names)}"
    if {"train", "val", "test"} <= set(meanings.values()):
        if split not in ("auto", "manifest"):
            return {}, [f"{subject} are ignored because of --split={split}"]
        others = [own for own in names if own not in meanings]
        return meanings, [f"images of the dataset's splits {', '.join(others)} are left out"] if others else []
    lacking = [long for long, short in (("train", "train"), ("validation", "val"), ("test", "test"))
               if short not in meanings.values()]  # fmt: skip
    if split == "manifest":
        raise ValueError(
            f"--split=manifest needs the splits train, validation and test; tfds:{name} has only {', '.join(names)}; "
            "choose another --split"
        )
    verb = "are" if len(names) > 1 else "is"
    return {}, [f"{subject} {verb} not used (there is no {' and no '.join(lacking)}): its images are split again"]


def _examples(
    builder: Any, names: FeatureNames, own_splits: Sequence[str]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields the split, the index in it and the named features of each example; images stay encoded."""
    tfds = _tensorflow_datasets()
    decoding = tfds.decode.PartialDecoding(
        dict.fromkeys(names.existing(), True), decoders={names.image: tfds.decode.SkipDecoding()}
    )
    reading = tfds.ReadConfig(try_autocache=False)  # each example is read once
    for split in own_splits:
        dataset = builder.as_dataset(split=split, shuffle_files=False, decoders=decoding, read_config=reading)
        for number, example in enumerate(tfds.as_numpy(dataset)):
            yield split, number, example


def _text(value: bytes | str | np.generic) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()


def _line(error: Exception) -> str:
    """Returns the first line of an error, which in TFDS names the problem."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
