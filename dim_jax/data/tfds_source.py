"""Any image-classification set of TensorFlow Datasets (TFDS), by name: writes its images as files and lists them."""

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

from dim_jax.data import image_writer, sources, tfds_builders

GROUP_FEATURES = ("group", "case", "patient")
FILE_FEATURES = ("filename", "file_name")


@dataclass(frozen=True)
class Columns:
    """Which features of a set are read; "" for those it does not have."""

    image: str
    label: str
    group: str = ""
    file: str = ""

    def present(self) -> tuple[str, ...]:
        return tuple(name for name in (self.image, self.label, self.group, self.file) if name)


def listing(
    folder: Path,
    name: str,
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    group_regex: str | None = None,
    classes: Sequence[str] | None = None,
    split: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> sources.Listing:
    """Downloads and builds a set where that is needed, and writes its images, as they are encoded, below `folder`.

    Args:
      folder: where to write `<class>/<file name, or split and number>.<suffix>`.
      name: as TFDS says it: NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
      data_dir: where TFDS keeps what it has built; None for its own choice.
      manual_dir: files that had to be downloaded by hand; None for downloads/manual in `data_dir`.
      group_regex: see `sources.with_groups`; None takes the feature named group, case or patient, if there is one.
      classes: see `sources.class_order`; None takes the set's label order, without classes that have no images.
      split: wanted split method. The set's own splits are kept if there are training, validation and test and this is
        "auto" or "manifest"; otherwise all of its images are pooled.
      progress: called as progress(images done, images in all).

    Raises:
      FileNotFoundError: the set must be downloaded by hand, and is not in `manual_dir`.
      ValueError: there is no such set, it cannot be downloaded, or it is not one label per image.
    """
    builder = set_builder(name, data_dir)
    columns = columns_of(builder.info, name)  # before a large download, perhaps in vain
    build(builder, name, manual_dir)
    kept, notes = _own_splits(list(builder.info.splits), name, split)
    label_names = builder.info.features[columns.label].names
    writer = image_writer.Writer(Path(folder))
    listed, unlabelled = [], 0
    total = sum(builder.info.splits[each].num_examples for each in builder.info.splits if not kept or each in kept)
    for done, (own_split, number, example) in enumerate(_examples(builder, columns, kept), start=1):
        label = int(example[columns.label])
        if label < 0:  # how TFDS says that a test image has none
            unlabelled += 1
        else:
            file = _text(example.get(columns.file, "")) or f"{own_split}-{number:06d}"
            path = writer.write(example[columns.image], label_names[label], file)
            group = "" if group_regex else _text(example.get(columns.group, ""))
            listed.append(sources.Listed(path, label_names[label], group, kept.get(own_split, ""), where=path))
        if progress:
            progress(done, max(done, total))
    listed.sort(key=lambda item: item.path)
    if not listed:
        raise ValueError(f"tfds:{name} has no labelled images; choose another set")

    notes.insert(0, f"the images are those of the TFDS set {builder.info.full_name} ({builder.info.homepage})")
    if unlabelled:
        notes.append(f"{unlabelled} images of the set have no label and are left out")
    if columns.group:
        use = "is passed over for --group-regex" if group_regex else "is the group"
        notes.append(f"the set's feature {columns.group!r} {use}")
    if group_regex:
        listed = sources.with_groups(listed, group_regex)
    if classes is None:
        found = {item.label for item in listed}
        classes = [each for each in label_names if each in found]
        absent = [each for each in label_names if each not in found]
        if absent:
            notes.append(f"the set has no images of its classes {', '.join(absent)}")
    return sources.Listing(Path(folder), sources.class_order(listed, classes), listed, bool(kept), notes=notes)


def set_builder(name: str, data_dir: str | Path | None = None) -> Any:
    """Returns the TFDS builder of a set, which may be one of ours; downloads nothing.

    Args:
      name, data_dir: as of `listing`.

    Raises:
      ValueError: TFDS is not installed, or knows no such set, configuration or version.
    """
    tfds = _tensorflow_datasets()
    set_name = re.split("[/:]", name)[0]
    if set_name in tfds_builders.NAMES:
        importlib.import_module(f"{tfds_builders.__name__}.{set_name}")
    try:
        return tfds.builder(name, **({"data_dir": Path(data_dir).expanduser()} if data_dir else {}))
    except tfds.core.DatasetNotFoundError:
        known = [*tfds.list_builders(with_community_datasets=False), *tfds_builders.NAMES]
        close = difflib.get_close_matches(set_name, known)
        hint = f"did you mean {' or '.join(close)}?" if close else "see https://www.tensorflow.org/datasets/catalog"
        raise ValueError(f"tfds:{name} is unknown to TensorFlow Datasets; {hint}") from None
    except Exception as error:  # an AssertionError for a version, an ImportError for what a set needs, and more
        raise ValueError(f"tfds:{name} cannot be opened by TensorFlow Datasets ({_line(error)})") from error


def build(builder: Any, name: str, manual_dir: str | Path | None = None) -> None:
    """Downloads and builds a set, unless that was done before.

    Args:
      builder: as `set_builder` returns it.
      name, manual_dir: as of `listing`.

    Raises:
      FileNotFoundError: files to be downloaded by hand are not there.
      ValueError: the download or the building failed.
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
        raise ValueError(f"tfds:{name} needs a package that is not here ({error}); install it with pip") from error
    except Exception as error:  # of the network, of TensorFlow, of the set's own code
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
    # TensorFlow would otherwise take the accelerator's memory from under JAX, when training prepares its data.
    tf.config.set_visible_devices([], "GPU")
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of its own code
    return tfds


def _check_manual_files(builder: Any, name: str, manual_dir: str | Path | None) -> None:
    """Tells in one line what to download by hand, which TFDS tells in a page."""
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
            f"tfds:{name} must be downloaded by hand and the manual folder {manual} {state}: {instructions}; or say "
            "with --manual-dir where it is"
        )


def columns_of(info: Any, name: str) -> Columns:
    """Finds the image, the label and, if there are any, the group and the file name among the features of a set.

    Args:
      info: TFDS's DatasetInfo.
      name: of the set, for errors.

    Raises:
      ValueError: there is no one image with one label, or the image is of floating-point numbers.
    """
    kinds = _tensorflow_datasets().features
    features = info.features if isinstance(info.features, kinds.FeaturesDict) else {}
    image_names = [
        key
        for key, feature in features.items()
        if isinstance(feature, kinds.Image) and not isinstance(feature, kinds.LabeledImage)
    ]
    label_names = [key for key, feature in features.items() if isinstance(feature, kinds.ClassLabel)]
    supervised = info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in image_names and supervised[1] in label_names:
        image_names, label_names = [supervised[0]], [supervised[1]]
    if len(image_names) != 1 or len(label_names) != 1:
        found = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        found = found or type(info.features).__name__
        raise ValueError(
            f"tfds:{name} is no image-classification set: one Image and one ClassLabel are needed, found {found}; "
            "choose another set or write its images into class folders"
        )
    if np.dtype(features[image_names[0]].np_dtype).kind == "f":
        raise ValueError(
            f"tfds:{name} has images of floating-point numbers, whose scale is not known; write them as 8-bit images"
        )

    def first(candidates: Sequence[str]) -> str:
        return next((key for key in candidates if key in features and _is_scalar(features[key])), "")

    return Columns(image_names[0], label_names[0], first(GROUP_FEATURES), first(FILE_FEATURES))


def _is_scalar(feature: Any) -> bool:
    """Says whether a feature is one text or one whole number."""
    return feature.shape == () and np.dtype(feature.np_dtype).kind in "iuSUO"


def _own_splits(names: list[str], name: str, split: str) -> tuple[dict[str, str], list[str]]:
    """Returns our name for each of the set's own splits if they are to be kept, and what there is to note."""
    meanings = {each: sources.SPLIT_NAMES[each.lower()] for each in names if each.lower() in sources.SPLIT_NAMES}
    said = f"the set's own split{'s' if len(names) > 1 else ''} {', '.join(names)}"
    if {"train", "val", "test"} <= set(meanings.values()):
        if split not in ("auto", "manifest"):
            return {}, [f"{said} are passed over for --split={split}"]
        others = [each for each in names if each not in meanings]
        return meanings, [f"images of the set's splits {', '.join(others)} are left out"] if others else []
    lacking = [long for long, short in (("train", "train"), ("validation", "val"), ("test", "test"))
               if short not in meanings.values()]  # fmt: skip
    if split == "manifest":
        raise ValueError(
            f"--split=manifest needs the splits train, validation and test; tfds:{name} has only {', '.join(names)}; "
            "choose another --split"
        )
    verb = "are" if len(names) > 1 else "is"
    return {}, [f"{said} {verb} passed over (there is no {' and no '.join(lacking)}): its images are split anew"]


def _examples(builder: Any, columns: Columns, kept: dict[str, str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields the split, the number in it and the wanted features of every example, images as they are encoded."""
    tfds = _tensorflow_datasets()
    decoding = tfds.decode.PartialDecoding(
        dict.fromkeys(columns.present(), True), decoders={columns.image: tfds.decode.SkipDecoding()}
    )
    reading = tfds.ReadConfig(try_autocache=False)  # each example is read once
    for split in builder.info.splits:
        if kept and split not in kept:
            continue
        dataset = builder.as_dataset(split=split, shuffle_files=False, decoders=decoding, read_config=reading)
        for number, example in enumerate(tfds.as_numpy(dataset)):
            yield split, number, example


def _text(value: bytes | str | np.generic) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()


def _line(error: Exception) -> str:
    """The first line of an error, which is where TFDS says what is wrong."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
