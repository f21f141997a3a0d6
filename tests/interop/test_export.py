"""Exported programs: equal to the run in ONNX Runtime and in JAX alone, for any batch size; or nothing is written."""

import hashlib
import json
import signal
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image
from untrained_runs import classifier_run, gan_run

from dim_jax import ensemble, export, predict
from dim_jax.cli import command_line
from dim_jax.data import images as data_images
from dim_jax.data.dataset import open_dataset
from dim_jax.evaluation import split_evaluation
from dim_jax.gan.gan_run import open_gan_run
from dim_jax.gan.synthesis import inputs_of_seeds
from dim_jax.interop import program_exports
from dim_jax.models.efficientnet_lite import LITE0, PUBLISHED, EfficientNetLite, Published
from dim_jax.runs import files
from dim_jax.weights import pretrained

NEEDS_ONNX = "ONNX is optional: pip install -e '.[onnx]'"
# Model -> options of a tiny one.
NETWORKS = {
    "lrf_cnn": (),
    "light_lrf_cnn": (),
    "efficientnet_lite0": (
        "--config.model.width=0.25", "--config.model.stages=((1, 3, 1, 16, 1), (2, 5, 2, 24, 6))",
        "--config.model.top_width=16",
    ),
    "coatnet": ("--config.model.convolutions=((1, 16),)", "--config.model.transformers=((2, 32),)"),
    "wavemix": ("--config.model.channels=16", "--config.model.blocks=2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """A function that writes the run of a network once."""
    folder = tmp_path_factory.mktemp("runs")

    def make(name):
        path = folder / name
        if not path.exists():
            small = ("--config.model.width=0.125",) if name == "coatnet" else ()
            options = NETWORKS[name] or ("--config.model.stages=((16, 24),)",)
            classifier_run(path, data, f"--config.model.name={name}", *small, *options)
        return path

    return make


@pytest.fixture(scope="module")
def evaluated(data, tmp_path_factory):
    """A run of LRF-CNN with test-time views whose adjustment was chosen on validation images."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    classifier_run(run, data, "--config.model.stages=((16, 24),)", "--config.augment.test_time_views=True", seed=3)
    split_evaluation.evaluate_split(run, "val")
    return run


@pytest.fixture(scope="module")
def images(data):
    """Paths of four images of the data."""
    dataset = open_dataset(data)
    return [dataset.file(row) for row in dataset.rows("val")[:4]]


def call(run, out, to, *options):
    return command_line.run(export.main, [str(run), f"--to={to}", f"--out={out}", *map(str, options)])


def pixels_of(paths, side=32):
    """Pixels of images, squashed to `side` px."""
    return np.stack([data_images.resize(np.asarray(Image.open(path).convert("RGB")), side) for path in paths])


def predicted(run, paths, out, *options):
    """Probabilities that `predict` writes."""
    arguments = [f"--workdir={run}", *map(str, paths), f"--out={out}", "--overlays=0", *options]
    assert command_line.run(predict.main, arguments) == 0
    images = json.loads((out / "predictions.json").read_text())["images"]
    return np.array([list(image["probabilities"].values()) for image in images])


def needs_onnx():
    """Skips the test where the packages of the extra `onnx` are not installed; returns ONNX Runtime."""
    pytest.importorskip("jax2onnx", reason=NEEDS_ONNX)
    return pytest.importorskip("onnxruntime", reason=NEEDS_ONNX)


def session_of(path):
    return needs_onnx().InferenceSession(path)


@pytest.mark.onnx
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_the_probabilities_and_maps_of_the_run(name, runs, images, tmp_path):
    needs_onnx()
    path = tmp_path / "model.onnx"
    assert call(runs(name), path, "onnx", "--grad-cam") == 0
    record = files.read_json(tmp_path / "model.onnx.json")
    assert record["comparison"]["largest_differences"]["probabilities"] <= 1e-5
    expected = predicted(runs(name), images, tmp_path / "predictions")
    session = session_of(path)
    for part in (slice(0, 1), slice(0, 4)):
        shares, maps = session.run(None, {"images": pixels_of(images[part])})
        np.testing.assert_allclose(shares, expected[part], atol=1e-5)
        assert maps.ndim == 3 and len(maps) == len(shares) and maps.min() >= 0 and maps.max() <= 1


@pytest.mark.parametrize("name", ["lrf_cnn", "coatnet"])
def test_jax_alone_gives_the_probabilities_and_maps_of_the_run(name, runs, images, tmp_path):
    path = tmp_path / "model.stablehlo"
    assert call(runs(name), path, "stablehlo", "--grad-cam") == 0
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    shares, maps = program.call(pixels_of(images[:3]))
    expected = predicted(runs(name), images[:3], tmp_path / "predictions")
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    assert maps.shape[0] == 3


def test_the_adjustment_temperature_and_views_are_those_of_predict(evaluated, images, tmp_path):
    answers = []
    for options in (("--no-views",), ("--adjust",), ("--calibrate",)):
        path = tmp_path / f"model{len(answers)}.stablehlo"
        assert call(evaluated, path, "stablehlo", *options) == 0
        shares = jax.export.deserialize(bytearray(path.read_bytes())).call(pixels_of(images))[0]
        expected = predicted(evaluated, images, tmp_path / path.stem, *options)
        np.testing.assert_allclose(shares, expected, atol=1e-5)
        record = files.read_json(tmp_path / f"{path.name}.json")
        assert record["preprocessing"][0]["views"] == (1 if options == ("--no-views",) else 8)
        answers.append(expected)
    assert all(np.abs(answers[0] - other).max() > 1e-3 for other in answers[1:])


@pytest.mark.onnx
def test_an_ensemble_takes_one_input_for_each_size(runs, data, images, tmp_path):
    needs_onnx()
    other = classifier_run(
        tmp_path / "other", data, "--config.model.stages=((16,),)", "--config.data.image_size=48", seed=5
    )
    both, path = tmp_path / "both", tmp_path / "both.onnx"
    arguments = [str(runs("lrf_cnn")), str(other), f"--out={both}"]
    assert command_line.run(ensemble.main, arguments) == 0
    assert call(both, path, "onnx") == 0
    inputs = {f"images_{side}_squash": pixels_of(images, side) for side in (32, 48)}
    (shares,) = session_of(path).run(None, inputs)
    np.testing.assert_allclose(shares, predicted(both, images, tmp_path / "predictions"), atol=1e-5)
    assert files.read_json(tmp_path / "both.onnx.json")["network"] == "lrf_cnn + lrf_cnn"


@pytest.mark.onnx
@pytest.mark.parametrize("kind", ["one class", "conditional"])
def test_a_generator_gives_the_images_of_generate(kind, data, tmp_path):
    needs_onnx()
    conditional = kind == "conditional"
    label = open_dataset(data).classes[1]
    option = "--config.gan.conditional=True" if conditional else f"--config.gan.label={label}"
    run = gan_run(tmp_path / "gan", data, option)
    path = tmp_path / "generator.onnx"
    assert call(run, path, "onnx") == 0
    gan, seeds = open_gan_run(run), [3, 11, 12]
    latents, noise = inputs_of_seeds(gan.synthesizer.generator, seeds)
    inputs = {"latents": latents, "noise": np.concatenate([part.reshape(3, -1) for part in noise.values()], axis=1)}
    inputs |= {"label": np.full(3, 1, np.int32)} if conditional else {}
    (images,) = session_of(path).run(None, inputs)
    expected = gan.synthesizer.images(seeds, 1)
    assert images.dtype == np.uint8 and images.shape == expected.shape
    assert np.abs(images.astype(int) - expected).max() <= 1
    assert np.mean(images == expected) > 0.99
    inputs["noise"] = np.zeros_like(inputs["noise"])
    assert np.abs(session_of(path).run(None, inputs)[0].astype(int) - expected).max() > 1


def test_a_generator_is_exported_to_stablehlo_too(data, tmp_path):
    run = gan_run(tmp_path / "gan", data, f"--config.gan.label={open_dataset(data).classes[0]}")
    path = tmp_path / "generator.stablehlo"
    assert call(run, path, "stablehlo") == 0
    record = files.read_json(tmp_path / "generator.stablehlo.json")
    assert record["comparison"]["largest_differences"]["images"] <= 1
    assert [tensor["name"] for tensor in record["inputs"]] == ["latents", "noise"]


def test_a_generator_of_group_statistics_takes_whole_groups_of_seeds(data, tmp_path):
    label = open_dataset(data).classes[0]
    run = gan_run(tmp_path / "gan", data, f"--config.gan.label={label}", "--config.gan.statistics=batch")
    path = tmp_path / "generator.stablehlo"
    assert call(run, path, "stablehlo") == 0
    program, gan, seeds = jax.export.deserialize(bytearray(path.read_bytes())), open_gan_run(run), range(8, 16)
    latents, noise = inputs_of_seeds(gan.synthesizer.generator, seeds)
    (images,) = program.call(latents, np.concatenate([part.reshape(8, -1) for part in noise.values()], axis=1))
    assert np.abs(np.asarray(images).astype(int) - gan.synthesizer.images(seeds)).max() <= 1
    assert [tensor["shape"][0] for tensor in files.read_json(f"{path}.json")["inputs"]] == [8, 8]


@pytest.fixture
def small_lite(monkeypatch):
    """A small network with random weights in the place of EfficientNet-Lite0, and the width of its features."""
    make = partial(EfficientNetLite, width=0.25, stages=((1, 3, 1, 16, 1), (2, 5, 2, 24, 6)), top_width=64)
    variables = jax.jit(make().init)(jax.random.key(1), np.zeros((1, 40, 40, 3), np.float32))
    monkeypatch.setitem(PUBLISHED, LITE0, Published("a small network", make, 40))
    monkeypatch.setattr(pretrained, "efficientnet_lite", lambda network: variables)
    return 16


def test_a_classifier_of_features_takes_images_as_a_program_and_in_predict(small_lite, data, tmp_path):
    """Their probabilities are those of the run's own evaluation, which has features as its input."""
    plain = [f"--config.augment.{name}=0" for name in ("flip", "rotate", "stain_jitter")]
    options = ["--config.model.name=linear", "--config.data.backend=features", *plain]
    run = classifier_run(tmp_path / "run", data, *options, input_shape=(small_lite,))
    split_evaluation.evaluate_split(run, "val")
    with np.load(run / "eval" / "val" / "predictions.npz") as arrays:
        logits, rows = arrays["logits"], arrays["index"]
    expected = np.asarray(jax.nn.softmax(logits))
    paths = [open_dataset(data).file(row) for row in rows]
    np.testing.assert_allclose(predicted(run, paths, tmp_path / "predictions"), expected, atol=1e-5)
    path = tmp_path / "model.stablehlo"
    assert call(run, path, "stablehlo") == 0
    shares = jax.export.deserialize(bytearray(path.read_bytes())).call(pixels_of(paths))[0]
    np.testing.assert_allclose(shares, expected, atol=1e-4)


def test_the_record_tells_the_file_and_where_it_comes_from(evaluated, tmp_path):
    path = tmp_path / "model.stablehlo"
    assert call(evaluated, path, "stablehlo", "--adjust") == 0
    record = files.read_json(tmp_path / "model.stablehlo.json")
    adjustment = files.read_json(evaluated / "eval" / "val" / "adjustment.json")
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and record["file"] == path.name
    assert record["temperature"] == adjustment["temperature"] and len(record["offsets"]) == len(record["classes"])
    assert record["run"] == "run" and record["checkpoint_step"] == 4 and record["network"] == "lrf_cnn"
    assert record["inputs"] == [{"name": "images", "shape": ["batch", 32, 32, 3], "dtype": "uint8"}]
    assert record["comparison"]["examples"] > 1 and record["versions"]["jax"] == jax.__version__


def error_of(capsys, run, out, to, *options):
    capsys.readouterr()
    assert call(run, out, to, *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_program_that_differs_from_its_run_is_not_written(runs, tmp_path, capsys, monkeypatch):
    (tmp_path / "model.stablehlo").write_bytes(b"not an export")
    assert "would overwrite" in error_of(capsys, runs("lrf_cnn"), tmp_path / "model.stablehlo", "stablehlo")
    monkeypatch.setattr(program_exports, "probabilities", lambda logits: np.full(logits.shape, 1 / logits.shape[1]))
    out = tmp_path / "new" / "model.stablehlo"
    assert "differ from the run's by up to" in error_of(capsys, runs("lrf_cnn"), out, "stablehlo")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_exported_is_refused(runs, data, images, tmp_path, capsys):
    out = tmp_path / "model.stablehlo"
    assert "holds no run" in error_of(capsys, tmp_path / "missing", out, "stablehlo")
    assert "give images" in error_of(capsys, runs("lrf_cnn"), out, "stablehlo", f"--images={tmp_path / 'x'}")
    assert "--adjust is for programs" in error_of(capsys, runs("lrf_cnn"), out, "safetensors", "--adjust")
    assert "no adjustment" in error_of(capsys, runs("lrf_cnn"), out, "stablehlo", "--adjust")
    assert "is a folder" in error_of(capsys, runs("lrf_cnn"), tmp_path, "stablehlo")
    label = open_dataset(data).classes[0]
    gan = gan_run(tmp_path / "gan", data, f"--config.gan.label={label}")
    assert "do not apply" in error_of(capsys, gan, out, "stablehlo", "--grad-cam")
    assert not out.exists()


def test_a_killed_export_leaves_no_file_and_the_next_one_succeeds(runs, tmp_path):
    out = tmp_path / "model.stablehlo"
    arguments = [str(runs("efficientnet_lite0")), "--to=stablehlo", f"--out={out}"]
    code = (
        "import os, sys\n"
        "from dim_jax import export\n"
        "from dim_jax.interop import stablehlo_files\n"
        f"stablehlo_files.run = lambda *_: os.kill(os.getpid(), {signal.SIGKILL:d})\n"
        "export.main(sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL and not out.exists()
    assert command_line.run(export.main, arguments) == 0
    cards = {f"{out.name}.card.md", f"{out.name}.card.json"}
    assert {path.name for path in tmp_path.iterdir()} == {out.name, f"{out.name}.json", *cards}
    card, record = (files.read_json(tmp_path / f"{out.name}{suffix}.json") for suffix in (".card", ""))
    assert card["sha256"][out.name] == record["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert command_line.run(export.main, arguments) == 0  # an earlier export is replaced
