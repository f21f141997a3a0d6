"""Damaged checkpoints and weight files."""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dim_jax.runs import files
from dim_jax.training import checkpoints
from hostile_inputs.corpus import CORPUS, Case, World, hostile
from hostile_inputs.odd_images import jpeg


def checkpoint_case(name: str, change: Callable[[Path], object], *words: str, command: str = "predict") -> None:
    """Adds a run with changed checkpoints, for a command that reads them; without words it must succeed."""

    def make(folder: Path, world: World) -> Case:
        run = shutil.copytree(world.gan if command == "generate" else world.classifier, folder / "run")
        change(run / ("checkpoints" if command == "generate" else "best"))
        out = folder / "out"
        arguments = {
            "predict": (str(world.slides), "--overlays=0", "--batch-size=8", f"--out={out}"),
            "generate": ("--num=1", f"--out={out}"),
            "evaluate": (),
        }[command]

        def check() -> None:
            assert files.read_json(out / "predictions.json")["checkpoint_step"] == 7

        return Case(command, (f"--workdir={run}", *arguments), words, check)

    CORPUS[name] = ("checkpoints", make)


def emptied(best: Path) -> None:
    shutil.rmtree(best / "7")


def foreign_folder(best: Path) -> None:
    shutil.rmtree(best / "7")
    (best / "7").mkdir()
    (best / "7" / "model.ckpt").write_bytes(b"of something else")


def foreign_with_digests(best: Path) -> None:
    """Valid by its digests, but not written by Orbax."""
    shutil.rmtree(best / "7")
    (best / "7" / "arrays").mkdir(parents=True)
    (best / "7" / "notes.json").write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    (best / "7" / "sha256.json").write_text(json.dumps({"notes.json": digest}))


def linked(best: Path) -> None:
    os.replace(best / "7", best.parent / "elsewhere")
    (best / "7").symlink_to(best.parent / "elsewhere")


def linked_in_a_circle(best: Path) -> None:
    shutil.rmtree(best / "7")
    (best / "7").symlink_to("7")


def file_for_a_folder(best: Path) -> None:
    shutil.rmtree(best / "7")
    (best / "7").write_bytes(b"7")


def rewritten(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Returns a change that saves another state under the same step, valid by its digests."""

    def write(best: Path) -> None:
        step = checkpoints.steps(best)[-1]
        state = checkpoints.restore(best).state
        state = change(state) or state
        shutil.rmtree(best / str(step))
        checkpoints.save(best, step, state, {"best": None}, keep=1)

    return write


def of_another_shape(state: dict) -> None:
    state["params"]["head"] = {name: value[..., :3] for name, value in state["params"]["head"].items()}


def with_odd_names(best: Path) -> None:
    for name in ("\u00b2", "latest", "7.old", ".hidden"):
        (best / name).mkdir()


checkpoint_case("no_checkpoint", emptied, "holds no checkpoint yet; train the run first")
checkpoint_case("checkpoint_of_something_else", foreign_folder, "every checkpoint is damaged; bring back a copy")
checkpoint_case("checkpoint_with_digests_but_no_arrays", foreign_with_digests, "best/7", "are not whole")
checkpoint_case("checkpoint_behind_a_link", linked)
checkpoint_case("folders_beside_checkpoints", with_odd_names)
checkpoint_case("checkpoint_that_links_to_itself", linked_in_a_circle, "every checkpoint is damaged")
checkpoint_case("file_instead_of_a_checkpoint", file_for_a_folder, "every checkpoint is damaged")
checkpoint_case("checkpoint_of_another_shape", rewritten(of_another_shape), "run", "['head']")
checkpoint_case(
    "checkpoint_of_another_shape_evaluated", rewritten(of_another_shape), "run", "['head']", command="evaluate"
)
checkpoint_case("checkpoint_without_parameters", rewritten(lambda state: {"step": np.zeros(3)}), "run", "params")
checkpoint_case("checkpoint_of_one_array", rewritten(lambda state: [np.zeros(3)]), "run", "params")
checkpoint_case(
    "gan_checkpoint_of_a_classifier",
    rewritten(lambda state: {"params": np.zeros(3)}),
    "checkpoints",
    "generator",
    command="generate",
)


def weights_case(name: str, suffix: str, data: bytes, *words: str) -> None:
    """Adds a weight file for `interop.convert`; test_torch_files.py and test_convert.py have more."""

    def make(folder: Path, world: World) -> Case:
        path = folder / f"weights{suffix}"
        path.write_bytes(data)
        return Case("interop.convert", (str(path), f"--out={folder / 'run'}"), (f"weights{suffix}", *words))

    CORPUS[name] = ("weights", make)


def tensors_header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


SAFE = "is not a complete .safetensors"
weights_case("pth_of_zeros", ".pth", bytes(1000), "is not a .pth of PyTorch")
weights_case("pth_that_is_an_image", ".pth", jpeg(), "is not a .pth of PyTorch")
weights_case("pickle_of_a_deep_list", ".pth", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "weights.pth")
weights_case("pickle_of_endless_text", ".pth", b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged or cut short")
weights_case("safetensors_of_a_header_without_end", ".safetensors", struct.pack("<Q", 2**63 - 1) + b"{}", SAFE)
weights_case("safetensors_nested_too_deeply", ".safetensors", struct.pack("<Q", 200_000) + b"[" * 200_000, SAFE)
weights_case(
    "safetensors_of_overlapping_tensors",
    ".safetensors",
    tensors_header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}) + bytes(4),
    SAFE,
)
weights_case(
    "safetensors_of_negative_shape",
    ".safetensors",
    tensors_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
    SAFE,
)
weights_case(
    "safetensors_of_unknown_numbers",
    ".safetensors",
    tensors_header({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
    SAFE,
)
weights_case(
    "safetensors_of_something_else",
    ".safetensors",
    tensors_header({"\u001b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
    "holds neither",
)


@hostile("weights")
def weights_that_are_a_pipe(folder, world):
    os.mkfifo(folder / "weights.pth")
    return Case("interop.convert", (str(folder / "weights.pth"), f"--out={folder / 'run'}"), ("no such file",))
