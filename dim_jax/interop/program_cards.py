"""Cards of exported programs: what the file takes and gives, the check against its run, and the facts of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dim_jax.cli import command_line
from dim_jax.reporting import cards, run_cards, run_directory


def card_path(path: str | Path) -> Path:
    """Path of the card of an exported file, which is beside it."""
    return Path(path).with_name(f"{Path(path).name}.{cards.FILE_NAME}")


def program_card(workdir: str | Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the card of an exported program (cards.render).

    Args:
      workdir: the run that was exported.
      record: the JSON beside the file.
    """
    run = run_directory.read(Path(workdir).name, Path(workdir).resolve())
    of_run, name = run_cards.run_card(run), record["file"]
    differences = record["comparison"]["largest_differences"]
    facts = {
        "network": record["network"],
        "run": f"{record['run']}, step {record['checkpoint_step']}",
        "classes": list(record["classes"]),
        "temperature": record.get("temperature"),
        "offsets of the logits": record.get("offsets"),
        "compared with the run on": f"{record['comparison']['examples']} {record['comparison']['source']}",
        **{f"largest difference of {output}": f"{value:.2g}" for output, value in differences.items()},
    }
    tensors = [
        {"": kind, "name": tensor["name"], "shape": " x ".join(map(str, tensor["shape"])), "dtype": tensor["dtype"]}
        for kind in ("inputs", "outputs")
        for tensor in record[kind]
    ]
    sections = dict(of_run["sections"])
    program = cards.section(
        facts, {"Inputs and outputs": tensors, "Preprocessing": list(record.get("preprocessing", []))}
    )
    return {
        **of_run,
        "kind": "program",
        "name": name,
        "summary": f"{of_run['summary']} Exported to {record['to']}; the scores are those of its run.",
        "metadata": {**of_run["metadata"], "model_name": name, "tags": [*of_run["metadata"]["tags"], record["to"]]},
        "sections": {"Data and licence": sections.pop("Data and licence"), "Program": program, **sections},
        "commands": [*of_run["commands"], *([record["command"]] if record.get("command") else [])],
        "versions": record["versions"],
        "sha256": {name: record["sha256"], **of_run["sha256"]},
    }


def weights_card(workdir: str | Path, path: Path) -> dict[str, Any]:
    """Facts of the card of a file of weights under the published code's names.

    Args:
      workdir: the run that was exported.
      path: the file.
    """
    run = run_directory.read(Path(workdir).name, Path(workdir).resolve())
    of_run, name = run_cards.run_card(run), path.name
    command = command_line.command()
    return {
        **of_run,
        "kind": "program",
        "name": name,
        "summary": f"{of_run['summary']} Weights alone, under the names of the published code.",
        "metadata": {**of_run["metadata"], "model_name": name},
        "commands": [*of_run["commands"], *([command] if command else [])],
        "sha256": {**cards.sha256_of(path.parent, [name]), **of_run["sha256"]},
    }
