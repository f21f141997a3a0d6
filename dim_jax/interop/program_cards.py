"""Cards of exported programs: what the file takes and gives, the check against its run, and the facts of the run."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dim_jax.cli import command_line
from dim_jax.reporting import cards, run_cards, run_directory, wording
from dim_jax.runs import files


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
        "metadata": _metadata(of_run, name, tags=[*of_run["metadata"]["tags"], record["to"]]),
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
        "metadata": _metadata(of_run, name),
        "commands": [*of_run["commands"], *([command] if command else [])],
        "sha256": {**cards.sha256_of(path.parent, [name]), **of_run["sha256"]},
    }


def packed_card(workdir: str | Path, name: str, config: dict[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the card of a packed run, without the commands and folders of the machine that trained it.

    Args:
      workdir: the run that was packed.
      name: name of the packed run.
      config: contents of its config.json, which has no paths.
      record: contents of its packed.json.
    """
    run = replace(run_directory.read(Path(workdir).name, Path(workdir).resolve()), config=files.to_json(config))
    of_run, data = run_cards.run_card(run), record["data"]
    given = {"source": data["name"], "licence of the data": data["licence"]}
    section = of_run["sections"]["Data and licence"]
    section["facts"] |= {key: value for key, value in given.items() if value}
    licence = {"license": "other", "license_name": data["licence"]} if data["licence"] else {}
    is_gan = of_run["kind"] == "gan"
    command = ["dim_jax.generate", "--out=pool"] if is_gan else ["dim_jax.predict", "IMAGES", "--out=predictions"]
    return {
        **of_run,
        "kind": "program",
        "name": name,
        "summary": f"{of_run['summary']} Packed: weights in float16, without images.",
        "metadata": _metadata(of_run, name, data["name"], **licence),
        "commands": [shlex.join(["python", "-m", *command, f"--workdir={name}"])],
        "versions": wording.setting_texts({key: value for key, value in record["trained"].items() if value}),
        "sha256": {
            "weights.safetensors": record["weights_sha256"],
            "images": data["fingerprint"],
            "split": data["split_sha256"],
        },
    }


def _metadata(of_run: Mapping[str, Any], name: str, data_name: str = "", **changes: Any) -> dict[str, Any]:
    """Returns the front matter of a run under another name, with another name of its data if one is given."""
    metadata = {**of_run["metadata"], "model_name": name, **changes}
    for model in metadata.get("model-index", []):
        model["name"] = name
        for result in model["results"]:
            result["dataset"]["name"] = data_name or result["dataset"]["name"]
    return metadata
