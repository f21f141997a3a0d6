"""Import of a published checkpoint into a run directory."""

import hashlib
import os
from pathlib import Path

from dim_jax.interop import imported_runs, published_files
from dim_jax.interop.imported_runs import ImportOptions, RunContents
from dim_jax.interop.published_files import CLASSIFIER, PublishedCheckpoint
from dim_jax.runs import files, outputs
from dim_jax.training import loop


def import_file(path: str | Path, out: str | Path, options: ImportOptions) -> str:
    """Writes a run directory from a checkpoint of the published code.

    Args:
      path: .pth or .safetensors file.
      out: run directory to write, missing or empty.
      options: facts that the file lacks.

    Returns:
      A summary of what was imported, several lines.

    Raises:
      FileNotFoundError: the file or the data do not exist.
      ValueError: the file is not a published checkpoint, or does not fit the options; nothing is written then.
    """
    out = Path(os.path.realpath(out))
    outputs.check(out, is_folder=True, is_replaced=True)
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out={out} exists already; give a folder that does not")
    checkpoint = published_files.read(path)
    is_classifier = CLASSIFIER in checkpoint.networks
    build = imported_runs.build_classifier_run if is_classifier else imported_runs.build_gan_run
    contents = build(checkpoint, options)
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with files.replacement(out, is_folder=True) as temporary:
        imported_runs.write_run(temporary, contents, {"imported from": f"{Path(path).name} SHA-256 {digest}"})
    return _summary(checkpoint, options, contents, out)


def _summary(checkpoint: PublishedCheckpoint, options: ImportOptions, contents: RunContents, out: Path) -> str:
    lines = []
    for kind, network in checkpoint.networks.items():
        count = sum(tensor.size for tensor in published_files.parameters(network.tensors).values())
        optimizer = f", {network.optimizer.name} at step {network.optimizer.step}" if network.optimizer else ""
        lines.append(f"{kind}: {count:,} parameters, step {network.step}{optimizer}")
    if checkpoint.average:
        lines.append(f"moving average of the generator's {len(checkpoint.average)} parameters")
    if CLASSIFIER in checkpoint.networks:
        lines.append(f"outputs, in order: {', '.join(options.classes)}" + (", new" if options.reset_head else ""))
        if options.config is None:
            mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (options.mean, options.std))
            lines.append(f"images of {options.image_size} px ({options.resize}), mean {mean}, std {std}")
        if options.assumed:
            names = ", ".join(name.replace("_", " ") for name in options.assumed)
            lines.append(f"as published, since the file does not record them: {names}")
    if options.config:
        lines.append(f"train --workdir={out} continues at step {contents.states[loop.CHECKPOINTS][0]}")
    return "\n".join([*lines, str(out)])
