"""Pools of a trained diffusion model: reproducible seeds, options of sampling, interrupted calls, and bad input."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dim_jax import generate, train
from dim_jax.cli import command_line
from dim_jax.data.preparation import prepare_dataset
from dim_jax.gan import pool_writer, pools
from dim_jax.gan.diffusion_run import open_diffusion_run
from dim_jax.runs import files

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'diffusion.py'}:test"
LABEL, OTHER = "low_grade_in", "adenocarcinoma"
TWO_STEPS = ["--config.train.num_train_steps=2", "--config.train.report=False"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=32, scale=0.05)


def trained(data, run, *more):
    arguments = [CONFIG, f"--config.data.path={data}", "--config.data.backend=resident", f"--workdir={run}"]
    assert command_line.run(train.main, [*arguments, *TWO_STEPS, *more]) == 0
    return run


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    # A large rate, so that images depend on labels after two steps.
    return trained(data, tmp_path_factory.mktemp("runs") / "run", "--config.optimizer.learning_rate=0.03")


def generated(run, out, *options):
    assert command_line.run(generate.main, [f"--workdir={run}", f"--label={LABEL}", f"--out={out}", *options]) == 0
    return pools.load(out)[0]


@pytest.fixture(scope="module")
def pool(run, tmp_path_factory):
    return generated(run, tmp_path_factory.mktemp("pool") / "pool", "--num=12")


def error_line(capsys):
    """The error message, the only line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_a_pool_records_kind_and_sampling(pool):
    record = files.read_json(pool.folder / "pool.json")
    assert (record["kind"], record["steps"], record["guidance"]) == ("diffusion", 2, 1.0)
    assert record["discriminator_features"] == [] and record["model"]["checkpoint_step"] == 2
    assert (pool.kind, pool.sampling) == ("diffusion", {"steps": 2, "guidance": 1.0})
    with Image.open(pool.images[7].path) as image:
        assert image.size == (32, 32)
        texts = {"seed": "7", "class": LABEL, "synthetic": "true", "steps": "2", "guidance": "1.0"}
        assert texts.items() <= image.text.items()


def test_a_seed_gives_the_same_file_in_another_call_and_on_another_device(run, pool, tmp_path):
    with jax.default_device(jax.devices()[3]):
        other = generated(run, tmp_path, "--num=3", "--first-seed=7")
    for image in other.images:
        assert image.path.read_bytes() == (pool.folder / image.path.name).read_bytes()


def test_labels_steps_and_guidance_change_images_and_guidance_of_one_does_not(run):
    synthesizer = open_diffusion_run(run).synthesizer
    plain = synthesizer.images([0, 9], 1)
    np.testing.assert_array_equal(synthesizer.images([9], 1, steps=2, guidance=1.0)[0], plain[1])
    for other in (
        synthesizer.images([0, 9], 0),
        synthesizer.images([0, 9], 1, steps=5),
        synthesizer.images([0, 9], 1, guidance=4.0),
    ):
        assert (other != plain).any()
    # Guidance of 0 ignores the label.
    np.testing.assert_array_equal(*(synthesizer.images([0], label, guidance=0.0) for label in (0, 1)))


def test_an_interrupted_call_goes_on_where_it_stopped(run, pool, tmp_path, monkeypatch):
    class Interrupted(BaseException):
        pass

    def write(path, data):
        if path.name == "seed00009.png":
            raise Interrupted
        return original(path, data)

    original, out = files.write_bytes, tmp_path / "pool"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(pool_writer.files, "write_bytes", write)
        generate.main([f"--workdir={run}", f"--label={LABEL}", f"--out={out}", "--num=12"])
    folder = out / LABEL
    assert len(list(folder.glob("*.png"))) == 9 and not (folder / "pool.json").exists()
    # A file that was sampled with other options, and one that is missing.
    others = generated(run, tmp_path / "others", "--num=2", "--steps=3")
    (folder / "seed00000.png").write_bytes(others.images[0].path.read_bytes())
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    (folder / "seed00001.png").unlink()
    resumed = generated(run, out, "--num=12")
    for image in resumed.images:
        assert image.path.read_bytes() == (pool.folder / image.path.name).read_bytes()
        is_kept = image.path.stat().st_mtime_ns == kept.get(image.path.name)
        assert is_kept == (2 <= image.seed <= 8), image.seed


def test_a_model_of_one_class_needs_no_label_and_takes_no_guidance(data, tmp_path, capsys):
    run = trained(data, tmp_path / "run", f"--config.diffusion.label={LABEL}", "--config.diffusion.conditional=False")
    out = f"--out={tmp_path / 'pool'}"
    assert command_line.run(generate.main, [f"--workdir={run}", out, "--num=2"]) == 0
    assert pools.load(tmp_path / "pool")[0].label == LABEL
    capsys.readouterr()
    assert command_line.run(generate.main, [f"--workdir={run}", out, "--guidance=2"]) == 2
    assert "without labels to guide by; train one with --config.diffusion.conditional=True" in error_line(capsys)


def test_guidance_without_label_dropout_is_refused(run, data, tmp_path, capsys):
    config = files.read_json(run / "config.json")
    files.write_json(run / "config.json", {**config, "diffusion": config["diffusion"] | {"label_dropout": 0.0}})
    try:
        options = [f"--workdir={run}", f"--label={LABEL}", f"--out={tmp_path / 'pool'}", "--guidance=2"]
        assert command_line.run(generate.main, options) == 2
    finally:
        files.write_json(run / "config.json", config)
    assert "always saw the labels (config.diffusion.label_dropout=0)" in error_line(capsys)
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([f"--label={LABEL}", "--steps=1"], "--steps=1 must be from 2"),
        ([f"--label={LABEL}", "--guidance=-1"], "--guidance=-1 must be from 0"),
        ([f"--label={LABEL}", "--guidance=nan"], "--guidance=nan must be from 0"),
        ([f"--label={LABEL}", "--truncation=0.5"], "is the run of a diffusion model, which has --steps, --guidance"),
        (["--label=nothing"], "generates"),
        ([], "choose one of them"),
    ],
)
def test_bad_options_give_one_line(run, tmp_path, capsys, options, message):
    out = tmp_path / "pool"
    assert command_line.run(generate.main, [f"--workdir={run}", f"--out={out}", *options]) == 2
    assert message in error_line(capsys)
    assert not out.exists()


def test_pools_of_two_kinds_are_not_mixed(run, pool, tmp_path, capsys):
    origin = {"workdir": "runs/gan", "checkpoint_step": 7, "model_sha256": "ab" * 32}
    writer = pool_writer.PoolWriter(tmp_path, OTHER, split_sha256=pool.split_sha256, **origin)
    writer.list(writer.write(np.zeros((1, 32, 32, 3), np.uint8), [0]))
    options = [f"--workdir={run}", f"--out={tmp_path}", "--num=1"]
    assert command_line.run(generate.main, [*options, f"--label={OTHER}"]) == 2
    assert "holds images of adenocarcinoma by a GAN (runs/gan) at step 7, truncation 1" in error_line(capsys)
    assert command_line.run(generate.main, [*options, f"--label={LABEL}"]) == 0
    with pytest.raises(ValueError, match=r"is of a GAN and .* of a diffusion model; keep the images of one"):
        pools.load(tmp_path)


def test_an_unknown_kind_in_a_pool_is_refused(pool, tmp_path):
    record = json.loads((pool.folder / "pool.json").read_text())
    for change, message in (
        ({"kind": "flow"}, "'kind' must be one of gan, diffusion"),
        ({"kind": "gan"}, "'truncation' is missing"),
        ({"steps": 0}, "'steps' must be a number above 0"),
        ({"guidance": -1}, "'guidance' must be a number of at least 0"),
    ):
        files.write_json(tmp_path / LABEL / "pool.json", record | change)
        with pytest.raises(ValueError, match=message):
            pools.load(tmp_path)
