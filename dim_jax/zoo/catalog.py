"""The index of the trained models in this folder: what they are, where they come from, and digests of their files."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dim_jax.cli import command_line
from dim_jax.runs import configuration, fields, files
from dim_jax.training.packed_runs import RECORD

PREFIX = "zoo:"
INDEX = "index.json"
PLACE = Path(__file__).parent
KINDS = ("plain", "adjusted")  # without and with the adjustment that was chosen on validation images
GCGAN = "gcgan"  # networks of GANs have no name in their configuration
SCORES = ("macro_f1", "g_mean", "accuracy")


def models() -> dict[str, dict[str, Any]]:
    """Returns the entries of the index by name.

    Each has `kind` ("classifier" or "gan"), `network`, `classes`, `data`, `licence`, `trained` (date), `commit`,
    `scores` on test images (KINDS -> name -> {"value", "low", "high"}, 95 % intervals by case) and `files` (name ->
    SHA-256).
    """
    return files.read_object(PLACE / INDEX)


def folder(name: str) -> Path:
    """Returns the folder of a model, a packed run.

    Args:
      name: name of the model, with or without "zoo:".

    Raises:
      ValueError: there is no such model, or its files are not those of the index.
    """
    name, index = name.removeprefix(PREFIX), models()
    if name not in index:
        hint = fields.nearest(name, index) or f"; choose one of {', '.join(index)}"
        raise ValueError(f"{name!r} is not one of the trained models that come with dim_jax{hint}")
    for file, digest in index[name]["files"].items():
        path = PLACE / name / file
        if not path.is_file() or _digest(path) != digest:
            raise ValueError(f"{path} is missing or not the one of this version; install dim_jax again")
    return PLACE / name


def resolve(source: str | Path) -> Path:
    """Returns the folder of "zoo:NAME", or the path itself.

    Raises:
      ValueError: as for `folder`.
    """
    return folder(str(source)) if str(source).startswith(PREFIX) else Path(source)


def notice(name: str) -> str:
    """Returns the sentence that says what a model is, and what for."""
    entry = models()[name.removeprefix(PREFIX)]
    return (
        f"{name.removeprefix(PREFIX)}: {entry['network']}, trained on {entry['data']} ({entry['licence']}); for "
        "research only"
    )


def make_index() -> dict[str, dict[str, Any]]:
    """Returns the index of the folders here, made from their records."""
    return {path.parent.name: _entry(path.parent) for path in sorted(PLACE.glob(f"*/{RECORD}"))}


def _entry(place: Path) -> dict[str, Any]:
    config, record = files.read_object(place / configuration.FILE_NAME), files.read_object(place / RECORD)
    scores = {}
    path = place / "eval" / "test" / "metrics.json"
    if path.is_file():
        intervals = files.read_object(path)["intervals"]
        scores = {kind: {name: intervals[kind]["scores"][name] for name in SCORES} for kind in KINDS}
    return {
        "kind": config["trainer"],
        "network": config["model"].get("name", GCGAN),
        "image_size": config["data"]["image_size"],
        "classes": config["classes"],
        "data": record["data"]["name"],
        "licence": record["data"]["licence"],
        "trained": str(record["trained"]["started"])[:10],
        "commit": record["trained"]["git_hash"],
        "scores": scores,
        "files": {
            path.relative_to(place).as_posix(): _digest(path) for path in sorted(place.rglob("*")) if path.is_file()
        },
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str]) -> None:
    """Runs the command with its command-line arguments."""
    parser = command_line.parser(
        "zoo.catalog",
        "Lists the trained models that come with dim_jax, or writes their index anew after a change.",
        "  python -m dim_jax.zoo.catalog\n  python -m dim_jax.zoo.catalog --write",
    )
    parser.add_argument("--write", action="store_true", help="write index.json from the folders beside it")
    if parser.parse_args(arguments).write:
        files.write_json(PLACE / INDEX, make_index())
    for name, entry in models().items():
        command_line.say(
            f"{name:<20} {entry['kind']}, {entry['network']}, {entry['image_size']} px, {entry['data']} "
            f"({entry['licence']})"
        )
        for kind, scores in entry["scores"].items():
            texts = (f"{score} {v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})" for score, v in scores.items())
            command_line.say(f"{'':<20}   test images, {kind}: {', '.join(texts)}")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
