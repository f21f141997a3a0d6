"""Packed runs: a few MB that predict, generate and load as the run they were made of, without its images."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from untrained_runs import classifier_run, gan_run

import dim_jax
from dim_jax import export, generate, predict
from dim_jax.cli import command_line
from dim_jax.data.dataset import open_dataset
from dim_jax.evaluation import split_evaluation
from dim_jax.evaluation.classifier_run import open_classifier_run
from dim_jax.gan import pools
from dim_jax.prediction.new_images import predict_images
from dim_jax.runs import files
from dim_jax.trainers import initial_run
from dim_jax.training import packed_runs


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("evaluated") / "run"
    classifier_run(run, data, "--config.model.stages=((16, 24),)", "--config.augment.test_time_views=True", seed=3)
    split_evaluation.evaluate_split(run, "val")
    return run


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "model"
    arguments = [str(run), "--to=packed", f"--out={out}", "--data-name=Phantom", "--licence=CC0"]
    assert command_line.run(export.main, arguments) == 0
    return out


@pytest.fixture(scope="module")
def paths(data):
    dataset = open_dataset(data)
    return [dataset.file(row) for row in dataset.rows("val")[:4]]


def probabilities(folder, paths, out, **options):
    entries = predict_images(folder, paths, out, overlays=0, **options)["images"]
    return np.array([list(entry["probabilities"].values()) for entry in entries])


def test_it_predicts_as_the_run_to_the_precision_of_float16(run, packed, paths, tmp_path):
    for options in ({}, {"adjust": True}, {"calibrate": True}, {"coverage": 0.8}):
        expected = probabilities(run, paths, tmp_path / "run", **options)
        np.testing.assert_allclose(probabilities(packed, paths, tmp_path / "packed", **options), expected, atol=5e-3)


def test_it_holds_no_images_no_optimizer_and_no_path(run, packed, data):
    names = {path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file()}
    assert names == {
        "config.json", "weights.safetensors", "packed.json", "eval/val/metrics.json", "eval/val/adjustment.json",
        "eval/val/predictions.npz", "card.md", "card.json",
    }  # fmt: skip
    text = "".join((packed / name).read_text() for name in names if name.endswith((".json", ".md")))
    assert str(data) not in text and str(run.parent) not in text
    record = files.read_object(packed / "packed.json")
    assert record["data"]["name"] == "Phantom" and record["data"]["licence"] == "CC0"
    card = files.read_object(packed / "card.json")
    assert (
        card["metadata"]["license_name"] == "CC0" and card["sha256"]["weights.safetensors"] == record["weights_sha256"]
    )
    assert sum(record["data"]["images"]["train"].values()) == len(record["data"]["training_images"])


def test_float32_kernels_within_the_range_of_float16_change_by_its_rounding_and_vectors_not_at_all(run, packed):
    ours, theirs = open_classifier_run(run).variables, open_classifier_run(packed).variables

    def compare(a, b):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if isinstance(value, dict):
                compare(value, b[name])
            else:
                np.testing.assert_allclose(b[name], value, rtol=2**-11 if np.ndim(value) > 1 else 0, atol=1e-7)

    compare(ours, theirs)


def test_predict_marks_images_unlike_the_training_images(packed, paths, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    shutil.copy(paths[0], folder / "usual.png")
    Image.fromarray(255 - np.asarray(Image.open(paths[0]).convert("RGB"))).save(folder / "inverted.png")
    assert command_line.run(predict.main, [str(folder), f"--workdir={packed}", f"--out={tmp_path / 'out'}"]) == 0
    assert "1 of 2 images are unlike those that the model was trained on" in capsys.readouterr().out
    images = files.read_object(tmp_path / "out/predictions.json")["images"]
    entries = {entry["path"].split("/")[-1]: entry for entry in images}
    assert entries["inverted.png"]["distance"] > 2 * entries["usual.png"]["distance"]
    assert "unlike the training images" in entries["inverted.png"]["doubt"] and not entries["usual.png"]["doubt"]


def test_load_gives_the_probabilities_of_predict_for_arrays_and_paths(run, packed, paths, tmp_path):
    for folder in (run, packed):
        expected = probabilities(folder, paths, tmp_path / folder.name, adjust=True)
        loaded = dim_jax.load(folder, adjust=True)
        answers = loaded.predict(paths)
        np.testing.assert_allclose(answers.probabilities, expected, atol=1e-5)
        arrays = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
        np.testing.assert_array_equal(loaded.predict(arrays).probabilities, answers.probabilities)
        assert answers.predicted == [answers.classes[index] for index in expected.argmax(1)]
        assert (answers.distances is None) == (folder == run)
    assert loaded.predict([]).probabilities.shape == (0, len(loaded.classes))
    many = loaded.predict(arrays * 5)  # more than a batch
    np.testing.assert_allclose(many.probabilities, np.tile(answers.probabilities, (5, 1)), atol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((0, 8, 3), np.uint8)])
def test_load_refuses_what_is_no_image(packed, image):
    with pytest.raises(ValueError, match=r"images\[0\] is .* give uint8 RGB"):
        dim_jax.load(packed).predict([image])


def test_weights_start_a_run_on_other_images_and_not_where_its_training_images_are_held_out(packed, data):
    dataset = open_dataset(data)
    variables, _ = initial_run.read(str(packed), dataset)
    assert variables["params"]
    record = files.read_object(packed / packed_runs.RECORD)
    held_out = dataset.manifest.rows[int(dataset.rows("test")[0])]
    record["data"]["training_images"].append(packed_runs.digest(held_out.sha256))
    files.write_json(packed / packed_runs.RECORD, record)
    with pytest.raises(ValueError, match="was trained on 1 of the images that are held out here"):
        initial_run.read(str(packed), dataset)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_generator_gives_the_images_of_its_run(data, tmp_path, conditional):
    label = open_dataset(data).classes[1]
    own = "--config.gan.conditional=True" if conditional else f"--config.gan.label={label}"
    gan_run(tmp_path / "run", data, own)
    assert command_line.run(export.main, [str(tmp_path / "run"), "--to=packed", f"--out={tmp_path / 'packed'}"]) == 0
    ours, theirs = (dim_jax.load(tmp_path / name).generate(range(3), label) for name in ("run", "packed"))
    assert np.abs(ours.astype(int) - theirs).mean() < 2  # levels: rounding to float16, amplified by batch norms
    arguments = [f"--workdir={tmp_path / 'packed'}", "--num=2", f"--out={tmp_path / 'pool'}", f"--label={label}"]
    assert command_line.run(generate.main, arguments) == 0
    assert len(list((tmp_path / "pool" / label).glob("*.png"))) == 2


def test_its_images_are_for_any_data_that_hold_out_none_of_its_training_images(data, tmp_path, capsys):
    dataset = open_dataset(data)
    label, folder = dataset.classes[1], tmp_path / "packed"
    gan_run(tmp_path / "run", data, f"--config.gan.label={label}")
    assert command_line.run(export.main, [str(tmp_path / "run"), "--to=packed", f"--out={folder}"]) == 0

    def pool(run, name):
        return command_line.run(
            generate.main, [f"--workdir={run}", "--num=2", f"--data={data}", f"--out={tmp_path / name}"]
        )

    assert pool(folder, "pool") == 0
    assert pools.load(tmp_path / "pool")[0].split_sha256 == dataset.split_sha256
    assert pool(tmp_path / "run", "own") == 2 and "is the run of one split" in capsys.readouterr().err
    record = files.read_object(folder / packed_runs.RECORD)
    record["data"]["training_images"].append(packed_runs.digest(next(iter(dataset.held_out.values()))))
    files.write_json(folder / packed_runs.RECORD, record)
    assert pool(folder, "leaked") == 2
    assert "was trained on 1 of the images that are held out here" in capsys.readouterr().err
    assert not (tmp_path / "own").exists() and not (tmp_path / "leaked").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to=packed", "--adjust"], "--adjust is for programs"),
        (["--to=onnx", "--licence=CC0"], "--data-name and --licence are for --to=packed"),
    ],
)
def test_options_of_other_formats_are_refused(run, tmp_path, capsys, options, message):
    assert command_line.run(export.main, [str(run), f"--out={tmp_path / 'out'}", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_not_empty_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert command_line.run(export.main, [str(run), "--to=packed", f"--out={tmp_path / 'out'}"]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_damaged_file_is_one_line(packed, paths, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(packed, copy)
    weights = copy / packed_runs.FILE_NAME
    weights.write_bytes(weights.read_bytes()[:-100])
    arguments = [str(paths[0]), f"--workdir={copy}", f"--out={tmp_path / 'out'}"]
    assert command_line.run(predict.main, arguments) == 2
    assert "is not a complete .safetensors file" in capsys.readouterr().err
    config = json.loads((copy / "config.json").read_text())
    assert config["data"]["path"] == ""
