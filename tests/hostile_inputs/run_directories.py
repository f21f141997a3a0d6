"""Images for `predict`, and damaged run directories for `report` and `predict --calibrate`."""

import io
import os
import shutil
from pathlib import Path

import numpy as np

from dim_jax.runs import files
from hostile_inputs.corpus import CORPUS, Case, World, hostile, write_pictures
from hostile_inputs.odd_images import IMAGES


@hostile("images to predict")
def every_odd_image_at_once(folder, world):
    """A folder of all images of this corpus: each is listed, with a prediction or as unreadable."""
    new = folder / "new"
    for name, (file, make, _, _) in IMAGES.items():
        (new / name).mkdir(parents=True)
        (new / name / file).write_bytes(make())
    (new / "device.png").symlink_to("/dev/zero")
    os.mkfifo(new / "pipe.png")
    out = folder / "out"

    def check():
        lines = {Path(line["path"]).parent.name: line for line in files.read_json(out / "predictions.json")["images"]}
        assert len(lines) == len(IMAGES) + 1
        for name, (_, _, expected, words) in IMAGES.items():
            assert (lines[name]["status"] == "unreadable") == (expected is None), lines[name]
            assert expected is not None or words in lines[name]["reason"] or words in lines[name]["path"]

    options = (f"--workdir={world.classifier}", f"--out={out}", "--overlays=2", "--batch-size=8")
    return Case("predict", (str(new), *options), check=check)


@hostile("images to predict")
def names_with_formulas_and_escapes(folder, world):
    new = folder / "new"
    for name in ("=1+1.png", "a\x1b[2Jb.png", "line\nbreak.png", "-x.png", "<script>.png"):
        write_pictures(new, 1, 3)
        os.replace(new / "0.png", new / name)
    (new / "bad\x1b[31m.png").write_bytes(b"")
    out = folder / "out"

    def check():
        table = (out / "predictions.csv").read_text()
        assert "\x1b" not in table and len(table.splitlines()) == 7
        assert not any(line.startswith(("=", "-", "+", "@")) for line in table.splitlines())
        assert {path.name.isprintable() for path in (out / "overlays").iterdir()} == {True}

    options = (f"--workdir={world.classifier}", f"--out={out}", "--overlays=-1", f"--batch-size={10**9}")
    return Case("predict", (str(new), *options), check=check)


def report_case(name: str, file: str, data: bytes, *words: str) -> None:
    """Adds a run directory with a damaged file; the page must name it instead of failing."""

    def make(folder: Path, world: World) -> Case:
        run = shutil.copytree(world.classifier, folder / "run")
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_bytes(data)

        def check() -> None:
            page = (run / "report.html").read_text()
            for word in words:
                assert word in page

        return Case("report", (str(run),), check=check)

    CORPUS[name] = ("run directories", make)


report_case("report_of_a_config_of_bytes", "config.json", bytes(range(256)), "config.json is damaged")
report_case("report_of_a_config_nested_deeply", "config.json", b'{"a":' * 50_000, "config.json is damaged")
report_case("report_of_a_manifest_of_version_alone", "manifest.json", b'{"version": 1}', "The manifest cannot be used")
report_case("report_of_curves_of_bytes", "metrics.jsonl", bytes(range(256)) * 9 + b"\n", "cannot be read")
report_case(
    "report_of_curves_of_huge_numbers",
    "metrics.jsonl",
    b'{"step": 1, "split": "train", "loss": 1e308}\n{"step": 2, "split": "train", "loss": -1e308}\n',
)
report_case("report_of_metrics_of_text", "eval/test/metrics.json", b'{"accuracy": "high", "per_class": "all"}')
report_case(
    "report_of_metrics_of_lists",
    "eval/test/metrics.json",
    b'{"accuracy": [1], "confusion_matrix": [[1, "a"], 3], "per_class": [{"class": 3, "recall": {}}]}',
)
report_case("report_of_predictions_that_are_a_pickle", "eval/test/predictions.npz", b"\x80\x04N.")


def evaluation_case(name: str, data: bytes, *words: str) -> None:
    """Adds a run with damaged predictions on validation images, for `predict --calibrate`."""

    def make(folder: Path, world: World) -> Case:
        run = shutil.copytree(world.classifier, folder / "run")
        (run / "eval" / "val").mkdir(parents=True)
        (run / "eval" / "val" / "metrics.json").write_text('{"checkpoint_step": 7}')
        (run / "eval" / "val" / "predictions.npz").write_bytes(data)
        options = ("--calibrate", f"--workdir={run}", f"--out={folder / 'out'}")
        return Case("predict", (str(world.slides), *options), ("predictions.npz", *words, "dim_jax.evaluate"))

    CORPUS[name] = ("run directories", make)


def arrays(**values: object) -> bytes:
    """Returns the bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


LOGITS, LABELS = np.zeros((3, 5), np.float32), np.zeros(3, np.int32)
evaluation_case("empty_predictions", b"", "is no whole .npz file")
evaluation_case("evaluation_that_is_a_pickle", b"\x80\x04N.", "is no whole .npz file")
evaluation_case("evaluation_with_objects", arrays(logits=np.array([print]), label=LABELS), "is no whole .npz file")
evaluation_case("evaluation_cut_short", arrays(logits=LOGITS, label=LABELS)[:-30], "is no whole .npz file")
evaluation_case("evaluation_without_labels", arrays(logits=LOGITS), "contain predictions of 5 classes")
evaluation_case("evaluation_of_other_classes", arrays(logits=LOGITS[:, :3], label=LABELS), "contain predictions of 5")
evaluation_case("evaluation_of_nan", arrays(logits=LOGITS * np.nan, label=LABELS), "contain predictions of 5 classes")
