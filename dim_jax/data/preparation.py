"""Preparation of a dataset: lists and checks its images, splits them into training, validation and test, and reports.

The output is written to a temporary folder beside the target and renamed at the end, so an interruption leaves no
partial dataset. A prepared dataset is never split again.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dim_jax.cli import command_line
from dim_jax.cli.progress import progress_callback
from dim_jax.data import (
    bucket_images,
    groups,
    images,
    phantom,
    prepared_folder,
    source_record,
    sources,
    splits,
    tables,
    tfds_source,
)
from dim_jax.data import manifest as manifests
from dim_jax.data.dataset import REPORT_FILE
from dim_jax.data.listing import ListedImage, Listing, class_order, with_checked_labels, without_classes, without_images
from dim_jax.runs import files, outputs

PHANTOM = "phantom"
TFDS = "tfds:"
MOST_SIDE, MOST_SCALE = 4096, 100
REMEDY = "choose another --out, or add --overwrite to prepare the data again in its place"
# Values of options in reports from before the options were added.
BEFORE: dict[str, Any] = {"exclude": [], "exclude_list": None, "class_folder": None}


def prepare_dataset(
    source: str | Path | None,
    out: str | Path,
    *,
    manifest: str | Path | None = None,
    group_regex: str | None = None,
    class_folder: int | None = None,
    classes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    exclude_list: str | Path | None = None,
    image_size: int = 299,
    split: str | None = None,
    folds: int = 5,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    scale: float = 1.0,
    pack: str | None = None,
    strict: bool = False,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    overwrite: bool = False,
    remedy: str = REMEDY,
) -> Path:
    """Prepares `source` into the folder `out`; does nothing if `out` was prepared from it with the same options.

    Args:
      source: a folder with one folder per class, or with a manifest.csv; "phantom" for synthetic tissue; "tfds:NAME"
        for a dataset of TensorFlow Datasets; None with `manifest`.
      out: output folder; it must be new or empty.
      manifest: CSV with the columns path, label and optionally group and split.
      group_regex: regular expression of the group (patient or case) in an image's path; see `groups.from_paths`.
      class_folder: number of the folder below `source` that names the class; see `class_folders.read`.
      classes: class names in label order; None sorts them, or takes the clinical order of the phantom.
      exclude: classes to leave out.
      exclude_list: CSV whose column path lists images to leave out, such as that of dim_jax.label_issues.
      image_size: side in px at which mean and std are measured, and at which phantom images are rendered.
      split: "group", "random_image", "kfold" or "manifest"; None takes the split column of the CSV, or else "group".
      folds: number of folds of "kfold", at least 3.
      validation, test: shares of the images in (0, 1), for "group" and "random_image".
      seed: seed of the split and of the phantom, >= 0.
      scale: size of the phantom set relative to EBHI.
      pack: also write the pixels at `image_size`, resized by this policy ("squash", "crop" or "pad").
      strict: refuse unreadable images instead of leaving them out.
      data_dir, manual_dir: TFDS's folders of built datasets and of manual downloads; None for its defaults.
      overwrite: prepare the data in any case, and replace what an earlier call wrote to `out`.
      remedy: end of the error for an `out` that was prepared from other files or with other options.

    Returns:
      The absolute path of `out`.

    Raises:
      FileNotFoundError: the source, the CSV or an image it lists does not exist.
      ValueError: an option or the data are invalid, or `out` was prepared with other options or from other files.
    """
    out = Path(os.path.realpath(out))
    if source is None and manifest is None:
        raise ValueError("nothing to prepare; give --source=FOLDER, --source=phantom or --manifest=FILE.csv")
    is_phantom = source == PHANTOM
    if is_phantom:
        check_phantom(out)
    is_folder = source is not None and not is_phantom and not str(source).startswith(TFDS)
    if (data_dir or manual_dir) and not str(source).startswith(TFDS):
        raise ValueError("--data-dir and --manual-dir are only for --source=tfds:NAME; drop them")
    if is_folder:
        source = bucket_images.fetch(source)
    if manifest is None and is_folder and Path(source, "manifest.csv").is_file():
        manifest = Path(source, "manifest.csv")
        command_line.say(f"using {manifest}")
    options = {
        "source": command_line.shown(os.path.abspath(source)) if is_folder else None if source is None else str(source),
        "manifest": None if manifest is None else command_line.shown(os.path.abspath(manifest)),
        "group_regex": group_regex,
        "class_folder": class_folder,
        "classes": None if classes is None else list(classes),
        "exclude": list(exclude),
        "exclude_list": None if exclude_list is None else os.path.abspath(exclude_list),
        "image_size": image_size,
        "split": split or "auto",
        "folds": folds if split == "kfold" else None,
        "validation": None if split in ("kfold", "manifest") else validation,
        "test": None if split in ("kfold", "manifest") else test,
        "seed": seed,
        "scale": scale if is_phantom else None,
        "pack": pack,
    }
    if is_folder:
        root = Path(os.path.realpath(source))
        if out.is_relative_to(root) or root.is_relative_to(out):
            raise ValueError(f"--out={out} and --source={root} are inside each other; choose an --out elsewhere")
    if overwrite and out.is_dir():
        prepared_folder.check_own(out)
    elif _is_prepared(out, options, remedy):
        return out
    _check_options(options, folds, validation, test, scale)
    outputs.check(out, is_folder=True, is_replaced=True)
    started = time.perf_counter()
    new_parents = [folder for folder in out.parents if not folder.exists()]
    try:
        with files.replacement(out, is_folder=True) as partial:
            listing = _list_images(partial, options, {"data_dir": data_dir, "manual_dir": manual_dir})
            prepared_folder.write(partial, listing, options, strict, started)
            if overwrite and out.is_dir():
                prepared_folder.remove(out)
    except BaseException:
        with contextlib.suppress(OSError):
            for folder in new_parents:
                folder.rmdir()
        raise
    command_line.say(f"prepared {out}")
    return out


def check_phantom(out: Path | None = None) -> None:
    """Raises ValueError if "phantom" may mean a folder of that name in the working folder.

    Args:
      out: output folder; a folder called phantom that holds it is no source.
    """
    folder = Path(PHANTOM)
    is_output = out is not None and out.is_relative_to(os.path.realpath(folder))
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "manifest.json").is_file() and not is_output:
        raise ValueError(
            f"phantom means synthetic tissue, but there is also a folder {folder.absolute()}; write ./phantom if it is "
            "meant, and otherwise rename it or work in another folder"
        )


def _is_prepared(out: Path, options: dict[str, Any], remedy: str) -> bool:
    """Returns whether `out` holds data prepared from this source with these options; raises if it holds others."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise ValueError(f"{out} is a file; choose another --out")
    if not (out / "split.json").is_file() or not (out / REPORT_FILE).is_file():
        if any(out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no prepared data; choose another --out")
        return False
    try:
        previous = BEFORE | (files.read_object(out / REPORT_FILE).get("options") or {})
        splits.load(out, manifests.load(out))
        source_record.read(out)
    except (OSError, ValueError) as error:
        raise ValueError(f"{out} is damaged ({error}); {remedy}") from None
    differing = [
        f"{key} was {previous.get(key)!r} and is now {value!r}"
        for key, value in files.to_json(options).items()
        if previous.get(key) != value
    ]
    if differing:
        raise ValueError(f"{out} was prepared with other options ({'; '.join(differing)}); {remedy}")
    is_fixed = options["source"] == PHANTOM or (options["source"] or "").startswith(TFDS)
    try:
        changes = source_record.changes(out, None if is_fixed else lambda: _list_images(out, options, {}))
    except (OSError, ValueError) as error:  # for one, a file of the table is gone: then say which are
        changes = [*source_record.changes(out, None), f"the source cannot be read now ({error})"]
    if changes:
        raise ValueError(f"{out} was prepared before its images changed: {'; '.join(changes)}; {remedy}")
    has_record = is_fixed or (out / source_record.FILE_NAME).is_file()
    known = "" if has_record else "; whether images were added or labels changed since is not known for data this old"
    command_line.say(f"{out} is already prepared with these options{known}; nothing to do")
    return True


def _check_options(options: dict[str, Any], folds: int, validation: float, test: float, scale: float) -> None:
    if not 8 <= options["image_size"] <= MOST_SIDE:
        raise ValueError(f"--image-size={options['image_size']} must be at least 8 pixels and at most {MOST_SIDE}")
    if options["split"] not in (*splits.METHODS, "auto"):
        raise ValueError(f"--split={options['split']} is unknown; use {', '.join(splits.METHODS)}")
    if options["split"] != "manifest":
        method = "group" if options["split"] == "auto" else options["split"]
        splits.part_shares(method, folds, validation, test)
    if options["seed"] < 0:
        raise ValueError(f"--seed={options['seed']} must not be negative")
    is_phantom = options["source"] == PHANTOM
    if is_phantom and (options["manifest"] or options["group_regex"]):
        raise ValueError("--source=phantom has its own images and cases; drop --manifest and --group-regex")
    if not is_phantom and scale != 1:
        raise ValueError(f"--scale={scale} is only for --source=phantom; drop it")
    if not 0 < scale <= MOST_SCALE:
        raise ValueError(f"--scale={scale} must be positive and at most {MOST_SCALE}")
    if options["pack"] not in (None, *images.POLICIES):
        raise ValueError(f"--pack={options['pack']} is not a policy; use {', '.join(images.POLICIES)}")
    is_tfds = (options["source"] or "").startswith(TFDS)
    number = options["class_folder"]
    if number is not None and (is_phantom or is_tfds or options["manifest"]):
        raise ValueError(f"--class-folder={number} is only for a --source of class folders; drop it")
    if number is not None and not (number >= 1 or number == -1):
        raise ValueError(f"--class-folder={number} must be 1 for the first folder, 2, ..., or -1 for the innermost")
    if is_tfds and (options["manifest"] or options["source"] == TFDS):
        raise ValueError("--source=tfds:NAME names a dataset with its own list of images; give NAME and no --manifest")
    if options["source"] and not is_phantom and not is_tfds and not bucket_images.place(options["source"]).is_dir():
        raise FileNotFoundError(
            f"{options['source']}: no such folder; --source is phantom, tfds:NAME or a folder of images"
        )


def _list_images(folder: Path, options: dict[str, Any], tfds_folders: dict[str, Any]) -> Listing:
    classes, exclude = options["classes"], options["exclude"]
    listing = _list_all(folder, options | {"classes": None if exclude else classes}, tfds_folders)
    listing = with_checked_labels(groups.checked(listing))
    if options["exclude_list"]:
        paths = tables.read_paths(options["exclude_list"])
        listing = without_images(listing, paths, f"--exclude-list={options['exclude_list']}")
    return without_classes(listing, exclude, classes) if exclude else listing


def _list_all(folder: Path, options: dict[str, Any], tfds_folders: dict[str, Any]) -> Listing:
    if (options["source"] or "").startswith(TFDS):
        selected = {key: options[key] for key in ("group_regex", "classes", "split")}
        name, progress = options["source"].removeprefix(TFDS), progress_callback("writing images")
        return tfds_source.list_images(folder / "images", name, **selected, **tfds_folders, progress=progress)
    if options["source"] != PHANTOM:
        return sources.list_images(
            options["source"] and bucket_images.place(options["source"]),
            options["manifest"] and bucket_images.place(options["manifest"]),
            options["group_regex"],
            options["classes"],
            options["split"],
            options["class_folder"],
        )
    root = folder / "images"
    progress = progress_callback("rendering tissue")
    rows = phantom.write(root, options["image_size"], options["scale"], options["seed"], progress)
    listed = [ListedImage(path, label, case, where=path) for path, label, case in sorted(rows)]
    return Listing(root, listed, class_order(listed, options["classes"] or phantom.CLASSES))
