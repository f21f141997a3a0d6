"""Cards of pools and selections of generated images, from pool.json, selected.json and the runs that they name."""

import contextlib
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dim_jax.gan import pools
from dim_jax.gan.review_key import GENERATED
from dim_jax.reporting import cards, run_cards, run_directory
from dim_jax.reporting.metric_tables import METRICS
from dim_jax.reporting.run_directory import RunRecords
from dim_jax.runs import files

REVIEWS = "reviews.json"  # beside pool.json: the blind reviews in which images of the pool were judged
SYNTHETIC = "The images are generated: they are not images of tissue, and their class is what the GAN was asked for."
NOT_REVIEWED = "No blind review is recorded."


def write_pool_card(folder: str | Path) -> Path:
    """Writes card.md and card.json into the folder of one class of a pool, and returns the path of the card.

    Raises:
      ValueError: its pool.json is broken.
    """
    folder = Path(os.path.abspath(folder))
    path = folder / cards.FILE_NAME
    cards.write(path, pool_card(pools.read(folder)))
    return path


def pool_card(pool: pools.Pool) -> dict[str, Any]:
    """Facts of the card of one class of a pool (cards.render)."""
    run, folder = _run(pool.model.workdir), pool.folder
    seeds = _ranges([image.seed for image in pool.images])
    facts = {
        "class": pool.label,
        "images": len(pool.images),
        "seeds": [f"{first} to {last}" for first, last in seeds],
        "side in px": pool.image_size,
        **{name: f"{value:g}" for name, value in pool.sampling.items()},
        "generator": f"{pool.model.workdir}, step {pool.model.checkpoint_step}",
        "kind of the generator": pool.kind,
        "training images made square by": pool.resize,
        "networks whose features the discriminator used": list(pool.discriminator_features or []),
    }
    reviews = _reviews(folder)
    command = ["python", "-m", "dim_jax.generate", f"--workdir={pool.model.workdir}", f"--label={pool.label}"]
    command += [f"--{name}={value:g}" for name, value in pool.sampling.items()]
    return {
        "kind": "pool",
        "name": f"Generated images of {pool.label}",
        "summary": f"{len(pool.images)} generated histology images of the class {pool.label}.",
        "metadata": _metadata("pool", f"Generated images of {pool.label}", run, len(pool.images)),
        "sections": {
            "Data and licence": _data(run),
            "Images": cards.section(facts),
            "Memorisation audit": cards.section(notes=["Not measured on a pool: the card of its selection has it."]),
            "Blind review": cards.section(tables={"Readers": reviews}, notes=[] if reviews else [NOT_REVIEWED]),
        },
        "limits": [SYNTHETIC, "The images are not selected: copies of training images may be among them."],
        "commands": [
            shlex.join([*command, f"--num={last - first + 1}", f"--first-seed={first}", f"--out={folder.parent}"])
            for first, last in seeds
        ],
        "versions": run_cards.versions(run) if run else {},
        "sha256": {"generator": pool.model.sha256, "split": pool.split_sha256}
        | cards.sha256_of(folder, [pools.FILE_NAME, REVIEWS]),
    }


def record_review(key_path: str | Path, scores: Mapping[str, Any]) -> list[Path]:
    """Records the scores of a blind review beside the pools of its generated images, and writes their cards again.

    A pool that is not there any more, or cannot be written, is left as it is.

    Args:
      key_path: key of the review, to whose folder the paths of the images are relative.
      scores: result of review_scores.score.

    Returns:
      The cards.
    """
    root = Path(os.path.abspath(key_path)).parent
    shown: dict[Path, list[dict[str, Any]]] = {}
    for image in scores["images"]:
        if image["truth"] == GENERATED:
            shown.setdefault(Path(os.path.normpath(root / image["path"])).parent, []).append(image)
    paths = []
    for folder, images in shown.items():
        with contextlib.suppress(OSError, ValueError):
            listed = {image.sha256 for image in pools.read(folder).images}
            if listed.isdisjoint(image["sha256"] for image in images):
                continue
            rows = [
                {"reader": name, "generated images": len(images), "right": of_reader["classes"][label]["accuracy"]}
                for name, of_reader in scores["scores"].items()
                for label in [images[0]["label"]]
            ]
            files.write_json(folder / REVIEWS, {**_records(folder), scores["review"]: rows})
            paths.append(write_pool_card(folder))
    return paths


def write_selection_card(folder: str | Path) -> Path:
    """Writes card.md and card.json into the folder of a selection, and returns the path of the card.

    Raises:
      FileNotFoundError, ValueError: its selected.json is missing or broken.
    """
    folder = Path(os.path.abspath(folder))
    selected = files.read_object(folder / "selected.json")
    diagnosis = folder / "diagnosis.json"
    path = folder / cards.FILE_NAME
    diagnosed = files.read_object(diagnosis) if diagnosis.is_file() else {}
    try:
        card = selection_card(folder, selected, diagnosed)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: selected.json or diagnosis.json is damaged ({error!r}); select again") from error
    cards.write(path, card)
    return path


def selection_card(folder: Path, selected: Mapping[str, Any], diagnosed: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the card of a selection (cards.render).

    Args:
      folder: its absolute folder.
      selected: contents of selected.json.
      diagnosed: contents of diagnosis.json; empty if there is none.
    """
    run = _run(selected["classifier"]["workdir"])
    counts, name = selected["classes"], f"Selected generated images, {folder.name}"
    num_selected, num_generated = (sum(entry[key] for entry in counts.values()) for key in ("kept", "generated"))
    rows = [
        {"class": label, "generated": entry["generated"], "selected": entry["kept"],
         **{reason.replace("_", " "): count for reason, count in entry["rejected"].items()}}
        for label, entry in counts.items()
    ]  # fmt: skip
    facts = {
        "GAN": [f"{label}: {model['workdir']}, step {model['checkpoint_step']}"
                for label, model in selected["pool"].items()],
        "classifier": f"{selected['classifier']['workdir']}, step {selected['classifier']['checkpoint_step']}",
        "distances in": selected["features"]["space"],
        **{name.replace("_", " "): f"{value:g}" for name, value in selected["rules"].items()},
    }  # fmt: skip
    limits = [SYNTHETIC]
    if any(row["selected"] < selected["keep"] for row in rows):
        limits.append(f"Fewer than the {selected['keep']} images asked for were selected of some classes.")
    if not diagnosed:
        limits.append("There is no diagnosis in other feature spaces.")
    return {
        "kind": "selection",
        "name": name,
        "summary": f"{num_selected} of {num_generated} generated histology images, selected to train a classifier on.",
        "metadata": _metadata("selection", name, run, num_selected),
        "sections": {
            "Data and licence": _data(run),
            "Images": cards.section(facts, {"Images per class": rows}),
            "Scores": cards.section(
                tables={"Compared with training images": _metric_rows(counts)}, notes=_notes(counts)
            ),
            "Memorisation audit": _audit(selected, diagnosed),
            "Blind review": _review(selected.get("reviews")),
        },
        "limits": limits,
        "commands": [selected["command"]] if selected.get("command") else [],
        "versions": selected.get("versions", {}),
        "sha256": {"split": selected["split_sha256"]}
        | {f"generator of {label}": model["sha256"] for label, model in selected["pool"].items()}
        | cards.sha256_of(folder, ["selected.json", "rejected.json", "diagnosis.json"]),
    }


def _audit(selected: Mapping[str, Any], diagnosed: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for label, entry in selected["classes"].items():
        images, limits = [image for image in selected["images"] if image["label"] == label], entry["limits"]
        row: dict[str, Any] = {"class": label, "rejected as copies": entry["rejected"].get("copy_of_training_image")}
        for kind, title in (("feature", "features"), ("pixel", "pixels")):
            ratios = [image[f"{kind}_distance"] / max(limits[kind], 1e-12) for image in images]
            row[f"nearest selected image by {title}, in limits"] = min(ratios, default=None)
        rows.append(row)
    tests = [
        {"class": label, "features": space, "C_T": result.get("c_t"), "if all were copies": result.get("all_copies"),
         "closer than validation images": result.get("closer"), "refused": result.get("refused", "")}
        for label, entry in diagnosed.get("classes", {}).items()
        for space, result in entry["data_copying"].items()
    ]  # fmt: skip
    notes = [
        "An image is rejected as a copy if it is closer to a training image than real images of different cases are to "
        "each other; its limit is 1 in the table."
    ]
    if tests:
        notes.append("C_T is well below 0 where generated images copy training images.")
    return cards.section(tables={"Copies": rows, "Test of data copying": tests}, notes=notes)


def _review(reviews: Mapping[str, Any] | None) -> dict[str, Any]:
    if not reviews:
        return cards.section(notes=["Not used for this selection."])
    rows = [{"reader": name, "right": accuracy} for name, accuracy in reviews["accuracy"].items()]
    facts = {"scores": reviews["path"], "SHA-256 of the scores": reviews["sha256"], "rule": reviews["rule"]}
    return cards.section(facts, {"Readers": rows})


def _metric_rows(counts: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for label, entry in counts.items():
        for key, title in (("pool", "all"), ("kept", "selected")):
            result = entry["metrics"][key]
            row: dict[str, Any] = {"class": label, "images": title, "number": result["num_generated"]}
            for name, (metric_title, _) in METRICS.items():
                metric = result.get("metrics", {}).get(name, {})
                low, high = metric.get("interval") or (None, None)
                row[metric_title] = {"value": metric.get("value"), "low": low, "high": high}
            rows.append(row)
    return rows


def _notes(counts: Mapping[str, Any]) -> list[str]:
    results = [result for entry in counts.values() for result in entry["metrics"].values()]
    notes = [note for result in results for note in result.get("notes", [])]
    return list(dict.fromkeys([*notes, *(result["refused"] for result in results if "refused" in result)]))


def _run(folder: str) -> RunRecords | None:
    """Returns the records of a run, or None if it is not there any more."""
    path = Path(folder)
    return run_directory.read(path.name, path.resolve()) if (path / "config.json").is_file() else None


def _data(run: RunRecords | None) -> dict[str, Any]:
    return run_cards.data_section(run) if run else cards.section({"licence of the data": "not recorded"})


def _metadata(kind: str, name: str, run: RunRecords | None, number: int) -> dict[str, Any]:
    sizes = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K"}
    size = next((text for limit, text in sizes.items() if number < limit), "100K<n<1M")
    return cards.metadata(
        kind,
        name,
        run.licence if run else {},
        ["synthetic", *([run.generator] if run and run.generator else [])],
        task_categories=["image-classification"],
        size_categories=[size],
    )


def _ranges(seeds: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the first and last seed of every run of consecutive ones."""
    spans = itertools.groupby(enumerate(sorted(seeds)), lambda item: item[1] - item[0])
    members = [[seed for _, seed in span] for _, span in spans]
    return [(span[0], span[-1]) for span in members]


def _records(folder: Path) -> dict[str, Any]:
    try:
        return files.read_object(folder / REVIEWS)
    except (OSError, ValueError):
        return {}


def _reviews(folder: Path) -> list[dict[str, Any]]:
    return [{"review": digest[:12], **row} for digest, rows in _records(folder).items() for row in rows]
